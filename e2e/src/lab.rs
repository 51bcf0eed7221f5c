//! Machines that are network namespaces, on one link: the first is a cluster's server, the others are made its nodes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::podling;
use crate::finger::Finger;
use crate::shell::Output;
use crate::{PATIENCE, image};

/// The machines, and what their programs keep. Everything is gone with this value.
pub struct Lab {
    directory: tempfile::TempDir,
    prefix: String,
    machines: usize,
    /// Machines from this number on are behind a router.
    far: usize,
    kubectl: Finger,
}

impl Lab {
    /// So many machines, on one link with the addresses 192.0.2.1 and on.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn new(machines: usize) -> Self {
        Self::with_far(machines, 0)
    }

    /// Some machines on one link with the addresses 192.0.2.1 and on, and some behind a router, with addresses that go on in 198.51.100.0/24.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn with_far(near: usize, far: usize) -> Self {
        let machines = near + far;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tail: String = directory.path().to_string_lossy().chars().rev().take(4).collect();
        let prefix = format!("pe{}{tail}", std::process::id()).to_lowercase();
        let kubectl = Finger::kubectl_137().or_else(Finger::kubectl_133).unwrap_or_else(Finger::own);
        let lab = Self { directory, prefix, machines, far: near + 1, kubectl };
        ip(&["netns", "add", &lab.switch()]);
        for (bridge, router) in [("near", "192.0.2.254/24"), ("far", "198.51.100.254/24")] {
            ip(&["-n", &lab.switch(), "link", "add", bridge, "type", "bridge"]);
            ip(&["-n", &lab.switch(), "addr", "add", router, "dev", bridge]);
            ip(&["-n", &lab.switch(), "link", "set", bridge, "up"]);
        }
        ip(&["netns", "exec", &lab.switch(), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        for number in 1..=machines {
            lab.plug(number);
        }
        lab
    }

    fn plug(&self, number: usize) {
        let (switch, machine, port) = (self.switch(), self.machine(number), format!("port{number}"));
        let (bridge, net) = if number < self.far { ("near", "192.0.2") } else { ("far", "198.51.100") };
        ip(&["netns", "add", &machine]);
        ip(&["-n", &machine, "link", "set", "lo", "up"]);
        ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "wire", "netns", &machine]);
        ip(&["-n", &switch, "link", "set", &port, "master", bridge, "up"]);
        ip(&["-n", &machine, "addr", "add", &format!("{net}.{number}/24"), "dev", "wire"]);
        ip(&["-n", &machine, "link", "set", "wire", "up"]);
        ip(&["-n", &machine, "route", "add", "default", "via", &format!("{net}.254")]);
    }

    fn switch(&self) -> String {
        format!("{}s", self.prefix)
    }

    fn machine(&self, number: usize) -> String {
        format!("{}m{number}", self.prefix)
    }

    /// Where a machine's podling keeps its state.
    pub fn data(&self, number: usize) -> PathBuf {
        self.path(&format!("data{number}"))
    }

    /// A file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a program on a machine, and waits for its end.
    #[track_caller]
    pub fn on(&self, number: usize, program: &Path, words: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.machine(number), "timeout", "-k", "5"]);
        command.arg(PATIENCE.as_secs().to_string()).arg(program).args(words);
        let output = command.stdin(Stdio::null()).output().expect("ip can be started");
        Output {
            typed: format!("machine{number}# {} {}", program.display(), words.join(" ")),
            code: output.status.code().unwrap_or(128),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command that runs kubectl on a machine as the administrator, at most for as long as anything may take.
    pub fn command(&self, number: usize, words: &[&str]) -> (&'static str, Vec<String>) {
        let patience = PATIENCE.as_secs().to_string();
        let (machine, kubeconfig) = (self.machine(number), self.path("kubeconfig"));
        let program = self.kubectl_program();
        let fixed = ["netns", "exec", &machine, "timeout", "-k", "5", &patience, &program.to_string_lossy()];
        let access = ["--kubeconfig", &*kubeconfig.to_string_lossy()];
        ("ip", [&fixed[..], &access, words].concat().iter().map(ToString::to_string).collect())
    }

    /// kubectl, or else podling's own commands.
    pub fn kubectl_program(&self) -> PathBuf {
        self.kubectl.program.clone()
    }

    /// Whether that is the real kubectl.
    pub fn has_kubectl(&self) -> bool {
        !self.kubectl.is_own()
    }

    /// Runs podling on a machine, on the state of that machine.
    #[track_caller]
    pub fn podling(&self, number: usize, words: &[&str]) -> Output {
        let data = self.data(number).to_string_lossy().into_owned();
        let (verb, rest) = words.split_at(1);
        let all = [verb, &["--data-dir", &data], rest].concat();
        self.on(number, &podling(), &all)
    }

    /// Runs kubectl on the server's machine, as the administrator.
    #[track_caller]
    pub fn kubectl(&self, words: &[&str]) -> Output {
        let kubeconfig = self.path("kubeconfig").to_string_lossy().into_owned();
        let all = [&["--kubeconfig", kubeconfig.as_str()], words].concat();
        self.on(1, &self.kubectl.program, &all)
    }

    /// Runs one of podling's own commands for people on the server's machine, as the administrator.
    #[track_caller]
    pub fn own(&self, words: &[&str]) -> Output {
        let kubeconfig = self.path("kubeconfig").to_string_lossy().into_owned();
        let all = [words, &["--kubeconfig", kubeconfig.as_str()]].concat();
        self.on(1, &podling(), &all)
    }

    /// Ends the process of a machine at once, as `kill -9` does; its pods run on.
    #[track_caller]
    pub fn kill(&self, number: usize) {
        let pid = std::fs::read_to_string(self.data(number).join("podling.pid")).expect("podling runs there");
        self.on(number, "kill".as_ref(), &["-9", pid.trim()]).ok();
    }

    /// Starts the server (`up` or `server`) on the first machine.
    #[track_caller]
    pub fn serve(&self, verb: &str, options: &[&str]) {
        let kubeconfig = self.path("kubeconfig");
        let kubeconfig = kubeconfig.to_string_lossy();
        let fixed = [verb, "--detach", "--kubeconfig", &kubeconfig, "--listen", "0.0.0.0:6443", "--node-name", "m1"];
        self.podling(1, &[&fixed, options].concat()).ok();
    }

    /// A token of the server.
    #[track_caller]
    pub fn token(&self, options: &[&str]) -> String {
        let printed = self.podling(1, &[&["token", "create"], options].concat()).ok();
        printed.lines().next().expect("the token comes first").to_owned()
    }

    /// Joins a machine, or tries to.
    #[track_caller]
    pub fn join(&self, number: usize, token: &str, options: &[&str]) -> Output {
        let name = format!("m{number}");
        let own = ["--node-name", name.as_str()];
        let named = if options.contains(&own[0]) { &[][..] } else { &own[..] };
        self.podling(number, &[&["join", SERVER, "--token", token, "--detach"], named, options].concat())
    }

    /// Gives a machine the busybox image.
    #[track_caller]
    pub fn import_busybox(&self, number: usize) {
        let tar = self.path("busybox.tar");
        if !tar.exists() {
            std::fs::write(&tar, image::busybox()).expect("a file");
        }
        let data = self.data(number);
        let words = ["image", "import", &tar.to_string_lossy(), image::BUSYBOX, "--cmd", "sh", "--data-dir"];
        self.on(number, &podling(), &[&words[..], &[&data.to_string_lossy()]].concat()).ok();
    }
}

/// Where the server is.
pub const SERVER: &str = "https://192.0.2.1:6443";

/// The address of a machine.
pub fn address(number: usize) -> String {
    format!("192.0.2.{number}")
}

impl Drop for Lab {
    fn drop(&mut self) {
        for number in (1..=self.machines).rev() {
            let log = std::fs::read_to_string(self.data(number).join("podling.log")).unwrap_or_default();
            let ended = self.podling(number, &["down", "--purge"]);
            if std::thread::panicking() {
                eprintln!("the log of machine {number}:\n{log}");
            } else {
                let nothing = ended.stderr.contains("there is no cluster");
                assert!(ended.code == 0 || nothing, "{ended}");
            }
            ip(&["netns", "del", &self.machine(number)]);
        }
        ip(&["netns", "del", &self.switch()]);
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("ip can be started");
    let told = String::from_utf8_lossy(&output.stderr);
    if !std::thread::panicking() {
        assert!(output.status.success(), "ip {}: {told}", words.join(" "));
    }
}

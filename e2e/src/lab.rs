//! Machines that run podling: the first is a cluster's server, the others are made its nodes. What they are and how they are wired is
//! `testkit`'s lab.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use testkit::lab::{self, Families, Machine};

use crate::cluster::podling;
use crate::finger::Finger;
use crate::shell::Output;
use crate::{PATIENCE, image};

/// The machines, and what their programs keep. Everything is gone with this value.
pub struct Lab {
    directory: tempfile::TempDir,
    machines: Vec<Machine>,
    kubectl: Finger,
    wires: lab::Lab,
}

impl Lab {
    /// So many machines on one link; `None` where there can be no lab, after it was said why.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn new(machines: usize) -> Option<Self> {
        Self::with_far(machines, 0)
    }

    /// Some machines on one link, and some on another behind a router.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn with_far(near: usize, far: usize) -> Option<Self> {
        Self::with_families(near, far, Families::V4)
    }

    /// The same, of machines with such addresses.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn with_families(near: usize, far: usize, families: Families) -> Option<Self> {
        if let Some(reason) = lab::obstacle() {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut wires = lab::Lab::of(families).expect("a lab");
        let mut machines = Vec::new();
        for count in [near, far] {
            let wire = wires.wire().expect("a wire");
            machines.extend((0..count).map(|_| wire.machine().expect("a machine")));
        }
        let kubectl = Finger::kubectl_137().or_else(Finger::kubectl_133).unwrap_or_else(Finger::own);
        Some(Self { directory, machines, kubectl, wires })
    }

    /// The wires, to make them worse.
    pub fn wires(&self) -> &lab::Lab {
        &self.wires
    }

    /// A machine; the first is number one.
    pub fn machine(&self, number: usize) -> &Machine {
        &self.machines[number - 1]
    }

    /// By which others reach a machine.
    pub fn address(&self, number: usize) -> Ipv4Addr {
        self.machine(number).address()
    }

    /// All those addresses.
    pub fn addresses(&self, number: usize) -> Vec<IpAddr> {
        self.machine(number).addresses()
    }

    /// Where the server is.
    pub fn server(&self) -> String {
        format!("https://{}", SocketAddr::new(self.addresses(1)[0], 6443))
    }

    /// Gives a machine the address of this number, instead of the one it has.
    pub fn readdress(&mut self, number: usize, to: u8) {
        self.machines[number - 1].readdress(to).expect("a new address");
    }

    /// Pulls a machine's cable, or plugs it in again.
    pub fn set_plugged(&self, number: usize, is_plugged: bool) {
        let machine = self.machine(number);
        let done = if is_plugged { machine.restore() } else { machine.cut() };
        done.expect("a cable can be moved");
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
        let mut command = patient(program, words);
        let output = self.machine(number).namespace().inside(|| command.stdin(Stdio::null()).output());
        let output = output.expect("a program can be started");
        Output {
            typed: format!("machine{number}# {} {}", program.display(), words.join(" ")),
            code: output.status.code().unwrap_or(128),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a program on a machine for as long as it takes, with this program's input and output. Its exit code.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn host(&self, number: usize, program: &Path, words: &[String]) -> i32 {
        let mut command = Command::new(program);
        command.args(words);
        let mut child = self.machine(number).namespace().spawn(&mut command).expect("the program can be started");
        child.wait().expect("it can be waited for").code().unwrap_or(128)
    }

    /// Starts a program on a machine that goes on by itself.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, number: usize, program: &Path, words: &[&str]) -> Child {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.machine(number).namespace().spawn(&mut command).expect("the program can be started")
    }

    /// Starts kubectl on the server's machine as the administrator, at most for as long as anything may take. What it prints is piped.
    pub fn start_kubectl(&self, words: &[&str]) -> Child {
        let kubeconfig = self.path("kubeconfig").to_string_lossy().into_owned();
        let mut command = patient(&self.kubectl.program, &[&["--kubeconfig", kubeconfig.as_str()], words].concat());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        self.machine(1).namespace().spawn(&mut command).expect("kubectl can be started")
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
        self.signal(number, "KILL");
    }

    /// Sends the process of a machine a signal.
    #[track_caller]
    pub fn signal(&self, number: usize, signal: &str) {
        let pid = std::fs::read_to_string(self.data(number).join("podling.pid")).expect("podling runs there");
        self.on(number, "kill".as_ref(), &["-s", signal, pid.trim()]).ok();
    }

    /// Starts the server (`up` or `server`) on the first machine.
    #[track_caller]
    pub fn serve(&self, verb: &str, options: &[&str]) {
        let kubeconfig = self.path("kubeconfig");
        let kubeconfig = kubeconfig.to_string_lossy();
        let listen = if self.addresses(1)[0].is_ipv4() { "0.0.0.0:6443" } else { "[::]:6443" };
        let fixed = [verb, "--detach", "--kubeconfig", &kubeconfig, "--listen", listen, "--node-name", "m1"];
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
        self.podling(number, &[&["join", &self.server(), "--token", token, "--detach"], named, options].concat())
    }

    /// Gives a machine all images of an archive.
    #[track_caller]
    pub fn load_images(&self, number: usize, archive: &Path) {
        self.podling(number, &["image", "load", &archive.to_string_lossy()]).ok();
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

/// A program that is ended when it takes longer than anything may.
fn patient(program: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5"]).arg(PATIENCE.as_secs().to_string()).arg(program).args(words);
    command
}

impl Drop for Lab {
    fn drop(&mut self) {
        for number in (1..=self.machines.len()).rev() {
            let log = std::fs::read_to_string(self.data(number).join("podling.log")).unwrap_or_default();
            let ended = self.podling(number, &["down", "--purge"]);
            if std::thread::panicking() {
                eprintln!("the log of machine {number}:\n{log}");
            } else {
                let nothing = ended.stderr.contains("there is no cluster");
                assert!(ended.code == 0 || nothing, "{ended}\n{log}");
            }
        }
    }
}

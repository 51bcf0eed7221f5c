//! A host of its own for each test, and a busybox file system for its containers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use runtime::{Config, ContainerSpec, ContainerState, ExecSpec, Exit, Host, Phase, Sandbox, SandboxSpec};
use tokio::io::AsyncReadExt;

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Lab {
    pub(crate) directory: Directory,
    pub(crate) config: Config,
    pub(crate) host: Arc<Host>,
    pub(crate) sandbox: Arc<Sandbox>,
}

/// Removed with its content at the end, by whichever process has it then.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the directory can be removed");
    }
}

static SHIM: OnceLock<&'static [u8]> = OnceLock::new();
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The shim as it is shipped: built by the same profile, into a directory of its own.
pub(crate) fn shim() -> &'static [u8] {
    SHIM.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args([
                "build",
                "--quiet",
                "--profile",
                "shim",
                "--package",
                "shim",
                "--bin",
                "podling-shim",
                "--target-dir",
            ])
            .arg(&target);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_") && name != "CARGO_HOME") {
            cargo.env_remove(name);
        }
        let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(status.success(), "the shim does not build");
        let found = find(&target).expect("the shim is where cargo puts it");
        Box::leak(fs::read(found).expect("the shim can be read").into_boxed_slice())
    })
}

fn find(target: &Path) -> Option<PathBuf> {
    let triples = fs::read_dir(target).ok()?.flatten().map(|entry| entry.path().join("shim/podling-shim"));
    std::iter::once(target.join("shim/podling-shim")).chain(triples).find(|path| path.is_file())
}

/// None (after saying why) where these tests cannot run.
pub(crate) fn busybox() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    let found = ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(PathBuf::from).find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: needs busybox-static");
    }
    found
}

impl Lab {
    pub(crate) async fn new() -> Option<Lab> {
        Lab::with(SandboxSpec { id: "pod".into(), hostname: "lab".into(), ..SandboxSpec::default() }).await
    }

    pub(crate) async fn with(spec: SandboxSpec) -> Option<Lab> {
        let busybox = busybox()?;
        let directory = Directory(tempfile::tempdir().expect("tempdir").keep());
        let config = Config {
            root: directory.path().join("root"),
            state: directory.path().join("state"),
            cgroup: format!("podling-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)),
            shim: shim(),
        };
        make_layer(&directory.path().join("layer"), &busybox);
        let host = Host::open(config.clone()).expect("open a host");
        let sandbox = host.create_sandbox(spec).await.expect("create a sandbox");
        Some(Lab { directory, config, host, sandbox })
    }

    /// Takes over what another process made there.
    pub(crate) async fn adopt(directory: PathBuf, cgroup: &str) -> Lab {
        let config = Config {
            root: directory.join("root"),
            state: directory.join("state"),
            cgroup: cgroup.into(),
            shim: shim(),
        };
        let host = Host::open(config.clone()).expect("open a host");
        let sandbox = host.adopt().await.expect("adopt").into_iter().next().expect("a sandbox");
        Lab { directory: Directory(directory), config, host, sandbox }
    }

    pub(crate) fn layer(&self) -> PathBuf {
        self.directory.path().join("layer")
    }

    /// A container that runs this shell script.
    pub(crate) fn container(&self, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            name: id.into(),
            layers: vec![self.layer()],
            argv: ["sh", "-c", script].map(String::from).to_vec(),
            env: vec!["PATH=/bin".into()],
            capabilities: runtime::spec::DEFAULT_CAPABILITIES.map(String::from).to_vec(),
            log_path: Some(self.log_path(id)),
            ..ContainerSpec::default()
        }
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.directory.path().join(format!("{id}.log"))
    }

    /// What it wrote, without times.
    pub(crate) fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.log_path(id)).expect("a log");
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| format!("{line}\n")).collect()
    }

    pub(crate) async fn wait(&self, id: &str) -> ContainerState {
        let mut changes = self.sandbox.changes();
        let is_over = |_: &u64| self.sandbox.container(id).is_some_and(|state| state.phase == Phase::Exited);
        tokio::time::timeout(PATIENCE, changes.wait_for(is_over))
            .await
            .expect("it ends in time")
            .expect("the sandbox is there");
        self.sandbox.container(id).expect("it is there")
    }

    /// Runs a script to its end; (how it ended, what it wrote).
    pub(crate) async fn run(&self, spec: ContainerSpec) -> (Exit, String) {
        let id = spec.id.clone();
        self.sandbox.start(spec).await.expect("it starts");
        let state = self.wait(&id).await;
        (state.exit.expect("an exit"), self.log(&id))
    }

    pub(crate) async fn exec(&self, container: &str, script: &str) -> (Exit, String) {
        let argv = ["sh", "-c", script].map(String::from).to_vec();
        let spec = ExecSpec { container: container.into(), argv, ..ExecSpec::default() };
        let mut exec = self.sandbox.exec(spec).await.expect("exec");
        let mut text = String::new();
        exec.stdout.take().expect("stdout").read_to_string(&mut text).await.expect("read");
        exec.stderr.take().expect("stderr").read_to_string(&mut text).await.expect("read");
        (tokio::time::timeout(PATIENCE, exec.wait()).await.expect("in time").expect("an exit"), text)
    }

    /// As far as it goes after a test has failed: nothing of it may run on.
    fn abandon(&self) {
        if let Some(pid) = self.sandbox.pid().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.host.remove().is_err() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    }

    /// Removes everything, and looks whether that is true.
    pub(crate) async fn finish(self) {
        let sandbox = self.sandbox.id().to_owned();
        self.sandbox.remove().await.expect("remove the sandbox");
        self.host.remove().expect("remove the host");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let place = self.directory.path().to_str().expect("a path").to_owned();
        assert!(!mounts.contains(&place), "mounts are left");
        assert!(
            !self.config.root.join("sandboxes").exists() && !self.config.state.exists(),
            "directories are left of {sandbox}"
        );
        assert_eq!(
            cgroups_named(Path::new("/sys/fs/cgroup"), &self.config.cgroup, 2),
            Vec::<PathBuf>::new(),
            "cgroups are left"
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abandon();
        }
    }
}

fn cgroups_named(directory: &Path, name: &str, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name() == name {
            found.push(entry.path());
        } else if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(cgroups_named(&entry.path(), name, depth - 1));
        }
    }
    found
}

fn make_layer(layer: &Path, busybox: &Path) {
    for directory in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(layer.join(directory)).expect("mkdir");
    }
    fs::copy(busybox, layer.join("bin/busybox")).expect("copy busybox");
    let list = Command::new(busybox).arg("--list").output().expect("busybox lists").stdout;
    for applet in String::from_utf8_lossy(&list).lines().filter(|name| *name != "busybox") {
        symlink("busybox", layer.join("bin").join(applet)).expect("link");
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
        .expect("write");
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:2000:app\n").expect("write");
}

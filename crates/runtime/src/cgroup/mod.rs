//! Where processes are counted and limited: version 1, version 2, or both side by side (hybrid).
//!
//! Functions over the directory in which the trees are mounted, so that each kind is tested on any machine. Whoever starts a process
//! puts it in; this prepares, reads and removes.

mod devices;
mod limit;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::spec::{Resources, Stats};

/// Where distributions mount them.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Version 1 hierarchies that are used, where they exist.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer"];
/// The version 2 controllers that are turned on, where they exist.
const UNIFIED_CONTROLLERS: [&str; 3] = ["+cpu", "+memory", "+pids"];

/// How cgroups are mounted on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One tree for everything.
    Unified(PathBuf),
    /// A tree per controller.
    Separate {
        /// Name and place of each.
        trees: Vec<(String, PathBuf)>,
        /// A version 2 tree without the controllers: good for killing all at once.
        unified: Option<PathBuf>,
    },
}

/// One subtree, `base/sandbox/container` in each of the trees.
#[derive(Debug)]
pub struct Cgroups {
    layout: Layout,
    base: String,
    /// Refuses devices, where version 1's list of them does not exist. Attached per container.
    device_program: Option<OwnedFd>,
}

impl Layout {
    /// Looks what is mounted below a directory.
    pub fn detect(root: &Path) -> Layout {
        if root.join("cgroup.controllers").exists() {
            return Layout::Unified(root.to_owned());
        }
        let mut trees: Vec<(String, PathBuf)> = Vec::new();
        for name in CONTROLLERS {
            let Ok(path) = fs::canonicalize(root.join(name)) else {
                continue;
            };
            // Two names may lead to one tree (cpu and cpuacct often do).
            if path.join("tasks").exists() && !trees.iter().any(|(_, known)| *known == path) {
                trees.push((name.to_owned(), path));
            }
        }
        let unified = root.join("unified");
        Layout::Separate { trees, unified: unified.join("cgroup.procs").exists().then_some(unified) }
    }

    fn roots(&self) -> Vec<&Path> {
        match self {
            Layout::Unified(root) => vec![root],
            Layout::Separate { trees, unified } => {
                trees.iter().map(|(_, path)| path.as_path()).chain(unified.as_deref()).collect()
            }
        }
    }

    fn has_device_list(&self) -> bool {
        matches!(self, Layout::Separate { trees, .. } if trees.iter().any(|(name, _)| name == "devices"))
    }
}

impl Cgroups {
    /// Makes the subtree `base`.
    pub fn open(root: &Path, base: &str) -> Result<Cgroups> {
        let layout = Layout::detect(root);
        let device_program = if layout.has_device_list() { None } else { devices::load().ok() };
        let cgroups = Cgroups { layout, base: base.to_owned(), device_program };
        cgroups.make(Path::new(base))?;
        cgroups.evacuate();
        cgroups.enable(Path::new(""));
        cgroups.enable(Path::new(base));
        cgroups.make(&Path::new(base).join(SHIMS))?;
        Ok(cgroups)
    }

    /// Where shims belong, beside the sandboxes and outside of their limits: files to write "0" to, and a directory to be born in.
    pub fn shim_place(&self) -> (Vec<PathBuf>, Option<PathBuf>) {
        let relative = Path::new(&self.base).join(SHIMS);
        match &self.layout {
            Layout::Unified(root) => (Vec::new(), Some(root.join(relative))),
            Layout::Separate { trees, .. } => {
                (trees.iter().map(|(_, tree)| tree.join(&relative).join("tasks")).collect(), None)
            }
        }
    }

    /// Makes a sandbox's groups with limits over all its containers.
    pub fn create_sandbox(&self, sandbox: &str, resources: &Resources) -> Result<()> {
        let relative = Path::new(&self.base).join(sandbox);
        self.make(&relative)?;
        self.enable(&relative);
        self.limit(&relative, resources)
    }

    /// Makes a container's groups, and says how its processes get there.
    pub fn create_container(
        &self,
        sandbox: &str,
        container: &str,
        resources: &Resources,
        privileged: bool,
    ) -> Result<shim::spec::Cgroup> {
        let relative = Path::new(&self.base).join(sandbox).join(container);
        self.make(&relative)?;
        self.limit(&relative, resources)?;
        if !privileged {
            self.restrict_devices(&relative)?;
        }
        Ok(self.describe(&relative))
    }

    fn describe(&self, relative: &Path) -> shim::spec::Cgroup {
        match &self.layout {
            Layout::Unified(root) => {
                let directory = root.join(relative);
                shim::spec::Cgroup {
                    oom: Some(directory.join("memory.events")),
                    kill: Some(directory.join("cgroup.kill")).filter(|path| path.exists()),
                    unified: Some(directory),
                    namespaced: true,
                    ..Default::default()
                }
            }
            Layout::Separate { trees, unified } => {
                let directory = unified.as_ref().map(|root| root.join(relative));
                let memory = trees.iter().find(|(name, _)| name == "memory");
                shim::spec::Cgroup {
                    tasks: trees.iter().map(|(_, tree)| tree.join(relative).join("tasks")).collect(),
                    oom: memory.map(|(_, tree)| tree.join(relative).join("memory.oom_control")),
                    kill: directory
                        .as_ref()
                        .map(|directory| directory.join("cgroup.kill"))
                        .filter(|path| path.exists()),
                    unified: directory,
                    views: trees.iter().map(|(name, tree)| (tree.join(relative), name.clone())).collect(),
                    namespaced: false,
                }
            }
        }
    }

    fn make(&self, relative: &Path) -> Result<()> {
        for root in self.layout.roots() {
            let path = root.join(relative);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.doing(|| format!("make cgroup {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Where the top of the tree is really some container's group, processes in it forbid handing controllers down: they move below. The
    /// true top has no type, and none of its processes is touched.
    fn evacuate(&self) {
        let Layout::Unified(root) = &self.layout else { return };
        if !root.join("cgroup.type").exists() {
            return;
        }
        let refuge = root.join(&self.base).join(AGENT);
        if let Err(error) = fs::create_dir(&refuge) {
            tracing::debug!(%error, "no refuge made");
        }
        for pid in fs::read_to_string(root.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Err(error) = fs::write(refuge.join("cgroup.procs"), pid) {
                tracing::debug!(%error, pid, "a process stays where it is");
            }
        }
    }

    /// Hands controllers down. One that is missing or taken shows when its limit cannot be set.
    fn enable(&self, relative: &Path) {
        if let Layout::Unified(root) = &self.layout {
            let path = root.join(relative).join("cgroup.subtree_control");
            for controller in UNIFIED_CONTROLLERS {
                if let Err(error) = fs::write(&path, controller) {
                    tracing::debug!(%error, path = %path.display(), controller, "controller not available");
                }
            }
        }
    }

    fn limit(&self, relative: &Path, resources: &Resources) -> Result<()> {
        match &self.layout {
            Layout::Unified(root) => limit::apply_unified(&root.join(relative), resources),
            Layout::Separate { trees, .. } => {
                trees.iter().try_for_each(|(name, tree)| limit::apply_separate(name, &tree.join(relative), resources))
            }
        }
    }

    fn restrict_devices(&self, relative: &Path) -> Result<()> {
        match &self.layout {
            Layout::Unified(root) => match &self.device_program {
                Some(program) => devices::attach(program, &root.join(relative)),
                None => Ok(()),
            },
            Layout::Separate { trees, .. } => match trees.iter().find(|(name, _)| name == "devices") {
                Some((_, tree)) => devices::list(&tree.join(relative)),
                None => Ok(()),
            },
        }
    }

    /// What a container uses.
    pub fn stats(&self, sandbox: &str, container: &str) -> Result<Stats> {
        let relative = Path::new(&self.base).join(sandbox).join(container);
        let read = |tree: &str, file: &str| -> String {
            let root = match &self.layout {
                Layout::Unified(root) => Some(root),
                Layout::Separate { trees, .. } => trees.iter().find(|(name, _)| name == tree).map(|(_, path)| path),
            };
            root.and_then(|root| fs::read_to_string(root.join(&relative).join(file)).ok()).unwrap_or_default()
        };
        Ok(match &self.layout {
            Layout::Unified(_) => limit::stats_unified(&read),
            Layout::Separate { .. } => limit::stats_separate(&read),
        })
    }

    /// Kills every process of a sandbox or, with a container, of that.
    pub fn kill(&self, sandbox: &str, container: Option<&str>) {
        let relative = Path::new(&self.base).join(sandbox).join(container.unwrap_or_default());
        for root in self.layout.roots().into_iter().rev() {
            let directory = root.join(&relative);
            if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
                return;
            }
            kill_listed(&directory);
        }
    }

    /// Removes a container's groups.
    pub async fn remove_container(&self, sandbox: &str, container: &str) -> Result<()> {
        self.remove(&Path::new(&self.base).join(sandbox).join(container)).await
    }

    /// Removes a sandbox's groups and those of all its containers.
    pub async fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        self.remove(&Path::new(&self.base).join(sandbox)).await
    }

    async fn remove(&self, relative: &Path) -> Result<()> {
        for root in self.layout.roots() {
            remove_tree(&root.join(relative)).await?;
        }
        Ok(())
    }

    /// Removes the whole subtree, as far as nothing runs in it. What made room at the top has nowhere to go back to, and stays.
    pub fn remove_all(&self) -> Result<()> {
        for root in self.layout.roots() {
            let path = root.join(&self.base);
            match remove_once(&path) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && path.join(AGENT).exists() => {}
                other => other.doing(|| format!("remove cgroup {}", path.display()))?,
            }
        }
        Ok(())
    }
}

const SHIMS: &str = "shims";
const AGENT: &str = "agent";
const REMOVE_TRIES: u32 = 200;

/// The kernel lets go of a group a moment after the last process was reaped, and tells nobody on version 1: hence short waits.
async fn remove_tree(path: &Path) -> Result<()> {
    for attempt in 0..REMOVE_TRIES {
        match remove_once(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                kill_listed(path);
                tokio::time::sleep(Duration::from_millis(u64::from(attempt.min(20)) + 1)).await;
            }
            other => return other.doing(|| format!("remove cgroup {}", path.display())),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY)).doing(|| format!("remove cgroup {}", path.display()))
}

/// Directories only: the files in them are the kernel's and go with them.
fn remove_once(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn kill_listed(directory: &Path) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        // Whoever is gone already is what we want.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_listed(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Resources {
        Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(20_000),
            cpu_period_us: None,
            memory_bytes: Some(64 << 20),
            pids: Some(100),
        }
    }

    #[test]
    fn a_unified_tree_is_set_up() {
        let root = tempfile::tempdir().expect("tempdir");
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids").expect("write");
        let cgroups = Cgroups::open(root.path(), "base").expect("open");
        cgroups.create_sandbox("pod", &Resources::default()).expect("sandbox");
        let cgroup = cgroups.create_container("pod", "one", &limits(), true).expect("container");
        let directory = root.path().join("base/pod/one");
        let read = |name: &str| fs::read_to_string(directory.join(name)).expect(name);
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("cpu.max"), "20000 100000");
        assert_eq!(read("cpu.weight"), "20");
        assert_eq!(read("pids.max"), "100");
        assert_eq!(cgroup.unified, Some(directory));
        assert!(cgroup.namespaced && cgroup.tasks.is_empty());
        assert!(root.path().join("base/shims").is_dir());
        assert_eq!(cgroups.shim_place(), (Vec::new(), Some(root.path().join("base/shims"))));
    }

    #[test]
    fn processes_make_room_at_the_top_of_a_delegated_tree() {
        let root = tempfile::tempdir().expect("tempdir");
        for (name, text) in [("cgroup.controllers", "cpu"), ("cgroup.type", "domain"), ("cgroup.procs", "17\n")] {
            fs::write(root.path().join(name), text).expect("write");
        }
        Cgroups::open(root.path(), "base").expect("open");
        assert_eq!(fs::read_to_string(root.path().join("base/agent/cgroup.procs")).expect("moved"), "17");
        fs::remove_file(root.path().join("cgroup.type")).expect("remove");
        Cgroups::open(root.path(), "other").expect("open");
        assert!(!root.path().join("other/agent").exists());
    }

    #[test]
    fn separate_trees_are_set_up_each_with_its_own() {
        let root = tempfile::tempdir().expect("tempdir");
        for name in ["cpu", "memory", "pids", "unified"] {
            fs::create_dir(root.path().join(name)).expect("mkdir");
            fs::write(root.path().join(name).join("tasks"), "").expect("write");
            fs::write(root.path().join(name).join("cgroup.procs"), "").expect("write");
        }
        std::os::unix::fs::symlink("cpu", root.path().join("cpuacct")).expect("link");
        let cgroups = Cgroups::open(root.path(), "base").expect("open");
        cgroups.create_sandbox("pod", &Resources::default()).expect("sandbox");
        let cgroup = cgroups.create_container("pod", "one", &limits(), true).expect("container");
        assert_eq!(cgroup.tasks.len(), 3);
        assert_eq!(cgroup.unified, Some(root.path().join("unified/base/pod/one")));
        let read = |name: &str| fs::read_to_string(root.path().join(name)).expect(name);
        assert_eq!(read("memory/base/pod/one/memory.limit_in_bytes"), "67108864");
        assert_eq!(read("cpu/base/pod/one/cpu.shares"), "512");
        assert_eq!(read("pids/base/pod/one/pids.max"), "100");
        assert!(!root.path().join("pids/base/pod/one/cpu.shares").exists());
    }
}

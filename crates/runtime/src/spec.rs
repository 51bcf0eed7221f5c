//! What a caller asks for: sandboxes, containers, further processes. Data only, kept on disk as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
pub use shim::spec::{Mount, Propagation, Rlimit, User, WindowSize};

/// A set of namespaces that containers share, and the limits over all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// Unique on this host; becomes a directory and a cgroup: letters, digits, `-`, `_` and `.` only.
    pub id: String,
    /// Set in an own uts namespace, unless the network is the host's (then the host's name is kept).
    pub hostname: String,
    /// Own network or the host's.
    pub network: Network,
    /// Who shares process ids with whom.
    pub pid: PidNamespace,
    /// Use the host's System V IPC, POSIX queues and /dev/shm.
    pub host_ipc: bool,
    /// Namespaced kernel parameters, as `net.ipv4.ping_group_range` → `0 0`.
    pub sysctls: BTreeMap<String, String>,
    /// Limits over all containers together.
    pub resources: Resources,
    /// Best effort: of the shim itself. Containers have their own.
    pub oom_score_adj: Option<i32>,
    /// Opaque: what the caller needs to find this sandbox again after a restart.
    pub annotations: BTreeMap<String, String>,
}

/// The network of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The host's.
    Host,
    /// An own one with nothing but loopback.
    #[default]
    Isolated,
    /// An own one, attached as this says: a `network::Attachment` as JSON, of which this crate knows nothing.
    Attached(serde_json::Value),
}

/// Which processes a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidNamespace {
    /// Its own.
    #[default]
    Container,
    /// Those of all containers of the sandbox; a minimal init is process 1.
    Shared,
    /// All of the host.
    Host,
}

/// What a cgroup is given. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative weight, in the old scale of 2..=262144 (1024 = one core asked for).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period.
    pub cpu_quota_us: Option<u64>,
    /// The period of the quota; 100 000 if there is none.
    pub cpu_period_us: Option<u64>,
    /// Bytes of memory; swap gets the same limit, so none is used.
    pub memory_bytes: Option<u64>,
    /// Number of tasks.
    pub pids: Option<u64>,
}

/// One container: a process with its own file system inside a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Unique in the sandbox; becomes a directory and a cgroup: letters, digits, `-`, `_` and `.` only. A restart is a new container.
    pub id: String,
    /// For people and messages.
    pub name: String,
    /// Directories of the image's layers, topmost first. Never written to.
    pub layers: Vec<PathBuf>,
    /// The whole command line; the first is looked up in the `PATH` of `env` inside the root.
    pub argv: Vec<String>,
    /// `NAME=value`, complete: nothing is added.
    pub env: Vec<String>,
    /// Working directory, created if missing; `/` if empty.
    pub cwd: String,
    /// Numbers only; see [`crate::rootfs::resolve_user`].
    pub user: User,
    /// In any order: they are made by depth of their target.
    pub mounts: Vec<Mount>,
    /// Names with prefix (`CAP_NET_RAW`) of the whole set; see [`crate::spec::DEFAULT_CAPABILITIES`]. Ignored if privileged.
    pub capabilities: Vec<String>,
    /// All capabilities, all devices, nothing masked, /sys and cgroups writable. Seccomp is what `seccomp` says.
    pub privileged: bool,
    /// Set-uid programs gain nothing.
    pub no_new_privs: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// The root file system cannot be written to.
    pub readonly_rootfs: bool,
    /// Limits of this container.
    pub resources: Resources,
    /// Within -1000..=1000. Lowering it below the agent's needs CAP_SYS_RESOURCE; without it, it stays.
    pub oom_score_adj: Option<i32>,
    /// Changed against what the shim inherited.
    pub rlimits: Vec<Rlimit>,
    /// stdin, stdout and stderr are one pseudo terminal.
    pub tty: bool,
    /// stdin can be attached to; otherwise it is /dev/null.
    pub stdin: bool,
    /// stdin ends with the first attached client.
    pub stdin_once: bool,
    /// Absolute path of the log in CRI format; its directory must exist. Rotated as `path.1` (newest) … `path.4`. None: no log is kept.
    pub log_path: Option<PathBuf>,
    /// Paths to hide; None: the customary ones ([`shim::spec::MASKED_PATHS`]) unless privileged.
    pub masked_paths: Option<Vec<String>>,
    /// Paths to make read-only; None: the customary ones ([`shim::spec::READONLY_PATHS`]) unless privileged.
    pub readonly_paths: Option<Vec<String>>,
    /// Opaque: what the caller needs to find this container again after a restart.
    pub annotations: BTreeMap<String, String>,
}

/// Which system calls are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The list that container engines agree on.
    #[default]
    Default,
    /// All.
    Unconfined,
}

/// A further process in a running container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// In which container.
    pub container: String,
    /// The command line.
    pub argv: Vec<String>,
    /// None: the container's.
    pub env: Option<Vec<String>>,
    /// None: the container's.
    pub cwd: Option<String>,
    /// None: the container's.
    pub user: Option<User>,
    /// A terminal of this size; stderr is then part of stdout.
    pub tty: Option<WindowSize>,
    /// Whether stdin can be written to; otherwise it is /dev/null.
    pub stdin: bool,
}

/// What a container uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time since the start.
    pub cpu: Duration,
    /// Bytes of memory, page cache included.
    pub memory_bytes: u64,
    /// Bytes that cannot be reclaimed easily: without inactive file pages.
    pub working_set_bytes: u64,
    /// Number of tasks.
    pub pids: u64,
}

/// What container engines grant unless told otherwise.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The default set with some added and some dropped; `ALL` stands for all, prefixes may be missing. Adding `ALL` and dropping one leaves
/// all but that one; dropping `ALL` and adding one leaves that one.
pub fn capabilities(add: &[String], drop: &[String]) -> Vec<String> {
    let full = |name: &String| {
        let upper = name.to_ascii_uppercase();
        if upper.starts_with("CAP_") || upper == "ALL" { upper } else { format!("CAP_{upper}") }
    };
    let add: Vec<String> = add.iter().map(full).collect();
    let drop: Vec<String> = drop.iter().map(full).collect();
    let has_all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let mut set: Vec<String> = match (has_all(&add), has_all(&drop)) {
        (true, _) => shim::spec::CAPABILITIES.iter().map(|name| name.to_string()).collect(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT_CAPABILITIES.iter().map(|name| name.to_string()).collect(),
    };
    set.retain(|name| !drop.contains(name));
    for name in add.into_iter().filter(|name| name != "ALL") {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Vec<String> {
        let own = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        capabilities(&own(add), &own(drop))
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(set(&[], &[]).len(), 14);
        assert_eq!(set(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert!(!set(&[], &["net_raw"]).contains(&"CAP_NET_RAW".to_string()));
        let all_but_one = set(&["ALL"], &["SYS_ADMIN"]);
        assert_eq!(all_but_one.len(), shim::spec::CAPABILITIES.len() - 1);
        assert!(!all_but_one.contains(&"CAP_SYS_ADMIN".to_string()));
    }
}

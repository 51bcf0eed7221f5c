//! What the shim is told to set up: complete, resolved, numbers and absolute paths only. It decides nothing and looks nothing up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The namespaces to hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// For messages.
    pub id: String,
    /// Where to listen for agents; short-lived, as /run.
    pub state: PathBuf,
    /// None: share the host's network and host name.
    pub network: Option<Network>,
    /// Keep the host's IPC namespace.
    pub host_ipc: bool,
    /// Fork a minimal init that is process 1 of a shared pid namespace.
    pub share_process: bool,
    /// Use the host's pid namespace.
    pub host_pid: bool,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Version 1 `tasks` files that the shim writes itself into.
    pub cgroup_joins: Vec<PathBuf>,
    /// A version 2 directory: the shim goes on as a child that is born there.
    pub birth_cgroup: Option<PathBuf>,
    /// Of the shim itself; best effort.
    pub oom_score_adj: Option<i32>,
}

/// An own network namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Name in the own uts namespace.
    pub hostname: String,
    /// How to attach; None: nothing but loopback.
    pub attachment: Option<serde_json::Value>,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Unique in the sandbox.
    pub id: String,
    /// Own directory: holds `upper`, `work`, `root` and the records.
    pub dir: PathBuf,
    /// Lower directories, topmost first.
    pub layers: Vec<PathBuf>,
    /// What to run.
    pub process: Process,
    /// Mounted by depth of their target.
    pub mounts: Vec<Mount>,
    /// /sys and cgroups writable, all devices of the host.
    pub privileged: bool,
    /// Paths to hide.
    pub masked_paths: Vec<String>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<String>,
    /// The root cannot be written to.
    pub readonly_rootfs: bool,
    /// Where its processes belong.
    pub cgroup: Cgroup,
    /// A pseudo terminal as stdio.
    pub tty: bool,
    /// Keep a pipe for stdin.
    pub stdin: bool,
    /// stdin ends with the first attached client.
    pub stdin_once: bool,
    /// Where the output goes.
    pub log_path: Option<PathBuf>,
}

/// What becomes of a process between clone and exec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Command line.
    pub argv: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Numbers.
    pub user: User,
    /// Bit set of capabilities: bounding, permitted and effective (the latter two for uid 0 only).
    pub capabilities: u64,
    /// Set-uid programs gain nothing.
    pub no_new_privs: bool,
    /// A classic BPF program as hexadecimal digits; None: unconfined.
    pub seccomp: Option<String>,
    /// Changed against the shim's.
    pub rlimits: Vec<Rlimit>,
    /// Best effort.
    pub oom_score_adj: Option<i32>,
}

/// Where the processes of a container belong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// Version 1 `tasks` files: the child writes "0" itself, which is the only cheap way.
    pub tasks: Vec<PathBuf>,
    /// Version 2 directory: the child is born into it.
    pub unified: Option<PathBuf>,
    /// (directory of the host, path in the container): shown in the container, read-only unless privileged.
    pub views: Vec<(PathBuf, String)>,
    /// Whether the whole of /sys/fs/cgroup is one version 2 tree, seen through an own cgroup namespace.
    pub namespaced: bool,
    /// A file with a line `oom_kill N`.
    pub oom: Option<PathBuf>,
    /// `cgroup.kill`, if there is one.
    pub kill: Option<PathBuf>,
}

/// Who a process is. Numbers, since names are looked up by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A bind mount, or a fresh tmpfs where there is no source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Path on the host; None: an own tmpfs.
    pub source: Option<PathBuf>,
    /// A path below the source, never leaving it whatever links are there; created as a directory if missing.
    pub subpath: Option<String>,
    /// Path in the container; created if missing.
    pub target: String,
    /// Recursively.
    pub readonly: bool,
    /// Whether mounts made later on one side appear on the other.
    pub propagation: Propagation,
}

/// Whether mounts made later show up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// Those of the host appear in the container.
    Slave,
    /// Both ways.
    Shared,
}

/// A resource limit of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// As in `RLIMIT_NOFILE`.
    pub name: String,
    /// What applies.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Columns.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Paths that tell about or act on the host, hidden unless privileged.
pub const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that act on the host, read-only unless privileged.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All capabilities by number.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

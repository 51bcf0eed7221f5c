//! Sandboxes, containers, exec and stdio on one Linux host, and the images they start from.
//!
//! Plain data in, plain data out: this crate speaks of namespaces, cgroups, mounts and processes, and refuses to know what a pod, a
//! probe or a restart policy is. Read in this order: `host` (the door), `spec` (what is asked for), `sandbox` (what lives), then
//! `link` (the wire to the shim that holds a sandbox), `rootfs`, `cgroup` and `seccomp` (pure preparation).

pub mod cgroup;
mod container;
pub mod error;
mod exec;
pub mod host;
pub mod image;
mod link;
pub mod rootfs;
pub mod sandbox;
pub mod seccomp;
pub mod spec;
pub mod stdio;
pub(crate) mod sys;

pub use error::{Error, Result, StartFailure};
pub use exec::{Attached, Exec};
pub use host::{Config, Host};
pub use sandbox::{ContainerState, Phase, Sandbox};
pub use shim::log::{FILES as LOG_FILES, numbered as older_log};
pub use shim::protocol::Exit;
pub use spec::{
    ContainerSpec, ExecSpec, Mount, Network, PidNamespace, Propagation, Resources, Rlimit, SandboxSpec, Seccomp, Stats,
    User, WindowSize,
};

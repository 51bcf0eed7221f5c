//! What is kept of a container, and its translation into the shim's words.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use shim::protocol::Record;
use shim::spec::{CAPABILITIES, Container, MASKED_PATHS, Process, READONLY_PATHS};

use crate::sandbox::{ContainerState, Phase, moment};
use crate::seccomp;
use crate::spec::{ContainerSpec, ExecSpec, Seccomp};

/// One container of a sandbox; also its file on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) spec: ContainerSpec,
    pub(crate) created_ns: u64,
    /// What the shim said last, or wrote.
    #[serde(skip)]
    pub(crate) record: Option<Record>,
    /// Its process could not be started.
    #[serde(skip)]
    pub(crate) is_refused: bool,
}

impl Entry {
    pub(crate) fn new(spec: ContainerSpec) -> Entry {
        let created_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Entry { spec, created_ns, record: None, is_refused: false }
    }

    /// As others see it, in a living or a dead sandbox.
    pub(crate) fn state(&self, is_alive: bool) -> ContainerState {
        let exit = self.record.as_ref().and_then(|record| record.exit);
        let phase = match &self.record {
            _ if exit.is_some() || self.is_refused || !is_alive => Phase::Exited,
            Some(_) => Phase::Running,
            None => Phase::Starting,
        };
        ContainerState {
            id: self.spec.id.clone(),
            name: self.spec.name.clone(),
            annotations: self.spec.annotations.clone(),
            phase,
            pid: self.record.as_ref().filter(|_| phase == Phase::Running).map(|record| record.pid),
            created: moment(self.created_ns),
            started: self.record.as_ref().map(|record| moment(record.started_ns)),
            finished: exit.map(|exit| moment(exit.finished_ns)),
            exit,
            log_path: self.spec.log_path.clone(),
        }
    }
}

/// The container as the shim is told.
pub(crate) fn for_shim(spec: &ContainerSpec, dir: PathBuf, cgroup: shim::spec::Cgroup) -> Container {
    let customary = |asked: &Option<Vec<String>>, usual: &[&str]| match asked {
        Some(paths) => paths.clone(),
        None if spec.privileged => Vec::new(),
        None => usual.iter().map(|path| path.to_string()).collect(),
    };
    Container {
        id: spec.id.clone(),
        dir,
        layers: spec.layers.clone(),
        process: process(spec, None),
        mounts: spec.mounts.clone(),
        privileged: spec.privileged,
        masked_paths: customary(&spec.masked_paths, &MASKED_PATHS),
        readonly_paths: customary(&spec.readonly_paths, &READONLY_PATHS),
        readonly_rootfs: spec.readonly_rootfs,
        cgroup,
        tty: spec.tty,
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        log_path: spec.log_path.clone(),
    }
}

/// The container's first process, or a further one that differs in what it says.
pub(crate) fn process(spec: &ContainerSpec, further: Option<&ExecSpec>) -> Process {
    let argv = further.map_or(&spec.argv, |exec| &exec.argv);
    let env = further.and_then(|exec| exec.env.as_ref()).unwrap_or(&spec.env);
    let cwd = further.and_then(|exec| exec.cwd.as_ref()).unwrap_or(&spec.cwd);
    let user = further.and_then(|exec| exec.user.as_ref()).unwrap_or(&spec.user);
    let capabilities = granted(spec);
    let filter = || seccomp::to_hex(&seccomp::default_program(&capabilities));
    Process {
        argv: argv.clone(),
        env: env.clone(),
        cwd: cwd.clone(),
        user: user.clone(),
        capabilities: bits(&capabilities),
        no_new_privs: spec.no_new_privs,
        seccomp: match spec.seccomp {
            Seccomp::Default => Some(filter()),
            Seccomp::Unconfined => None,
        },
        rlimits: spec.rlimits.clone(),
        oom_score_adj: spec.oom_score_adj,
    }
}

fn granted(spec: &ContainerSpec) -> Vec<String> {
    if spec.privileged { CAPABILITIES.iter().map(|name| name.to_string()).collect() } else { spec.capabilities.clone() }
}

/// Names that are unknown grant nothing.
fn bits(capabilities: &[String]) -> u64 {
    let numbered = CAPABILITIES.iter().enumerate();
    numbered
        .filter(|(_, name)| capabilities.iter().any(|granted| granted == *name))
        .fold(0, |bits, (number, _)| bits | 1 << number)
}

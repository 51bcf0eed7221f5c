//! One sandbox: the namespaces a shim holds, the containers in them, and what can be done to them from here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::spec::{ContainerSpec, ExecSpec, SandboxSpec, Stats, WindowSize};
use crate::stdio::{Input, Output};
use shim::protocol::Exit;

/// A sandbox, living or dead.
pub struct Sandbox {
    spec: SandboxSpec,
    changes: watch::Sender<u64>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asked for; its process does not run yet.
    Starting,
    /// Its process runs.
    Running,
    /// Its process ended, or could not be started, or died with the sandbox.
    Exited,
}

/// What is known of one container.
#[derive(Clone, Debug)]
pub struct ContainerState {
    /// As in its spec.
    pub id: String,
    /// As in its spec.
    pub name: String,
    /// As in its spec.
    pub annotations: BTreeMap<String, String>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Of its first process, while it runs.
    pub pid: Option<u32>,
    /// When it was asked for.
    pub created: SystemTime,
    /// When its process began.
    pub started: Option<SystemTime>,
    /// When its process ended.
    pub finished: Option<SystemTime>,
    /// How it ended. None while it runs, and when nobody saw the end (the host went down, or the shim was killed).
    pub exit: Option<Exit>,
    /// As in its spec.
    pub log_path: Option<PathBuf>,
}

/// A process started by [`Sandbox::exec`].
pub struct Exec {
    /// What was asked for; closes the process's stdin when dropped.
    pub stdin: Option<Input>,
    /// Everything, if it has a terminal.
    pub stdout: Option<Output>,
    /// None with a terminal.
    pub stderr: Option<Output>,
    /// Of the process.
    pub pid: u32,
}

/// The stdio of a running container.
pub struct Attached {
    /// If it was asked for and the container has one that is still open.
    pub stdin: Option<Input>,
    /// Everything, if it is a terminal.
    pub stdout: Output,
    /// None with a terminal.
    pub stderr: Option<Output>,
    /// It is a terminal.
    pub tty: bool,
}

impl Sandbox {
    /// As in the spec.
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    /// What was asked for.
    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// Whether its shim lives. A dead sandbox can be looked at and removed, no more.
    pub fn is_alive(&self) -> bool {
        false
    }

    /// Process id of the shim, whose namespaces are those of the sandbox.
    pub fn pid(&self) -> Option<u32> {
        None
    }

    /// All containers that were not removed, in the order they were asked for.
    pub fn containers(&self) -> Vec<ContainerState> {
        Vec::new()
    }

    /// One container.
    pub fn container(&self, id: &str) -> Option<ContainerState> {
        self.containers().into_iter().find(|state| state.id == id)
    }

    /// What was asked for.
    pub fn container_spec(&self, _id: &str) -> Option<ContainerSpec> {
        None
    }

    /// A number that rises with every change of a container or of the sandbox's life: wait for it, then look.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Starts a container; its process runs when this returns. After an error the container exists, exited, until it is removed.
    pub async fn start(&self, spec: ContainerSpec) -> Result<ContainerState> {
        Err(self.unknown(&spec.id))
    }

    /// Sends a signal to a container's first process.
    pub async fn signal(&self, id: &str, _signal: i32) -> Result<()> {
        Err(self.unknown(id))
    }

    /// Kills every process of a container. Its end is seen as a change.
    pub async fn kill(&self, id: &str) -> Result<()> {
        Err(self.unknown(id))
    }

    /// Starts a further process in a container.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        Err(self.unknown(&spec.container))
    }

    /// Joins the stdio of a running container.
    pub async fn attach(&self, id: &str, _stdin: bool) -> Result<Attached> {
        Err(self.unknown(id))
    }

    /// Changes the size of a container's terminal.
    pub async fn resize(&self, id: &str, _size: WindowSize) -> Result<()> {
        Err(self.unknown(id))
    }

    /// Connects to a port on the sandbox's loopback.
    pub async fn connect(&self, port: u16) -> Result<TcpStream> {
        Err(self.unknown(&port.to_string()))
    }

    /// Reads at most `limit` bytes (the last ones if `tail`) of a file inside a container's root, running or not.
    pub async fn read_file(&self, id: &str, _path: &Path, _limit: usize) -> Result<Vec<u8>> {
        Err(self.unknown(id))
    }

    /// What a running container uses.
    pub async fn stats(&self, id: &str) -> Result<Stats> {
        Err(self.unknown(id))
    }

    /// Forgets a container that has ended: its writable layer, records and cgroup. Its log stays. Kills it first if it runs.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        Err(self.unknown(id))
    }

    /// Kills what runs, ends the shim and takes everything of this sandbox away. Idempotent.
    pub async fn remove(&self) -> Result<()> {
        Ok(())
    }

    fn unknown(&self, id: &str) -> Error {
        Error::NotFound {
            what: format!("container {id} in sandbox {}", self.spec.id),
        }
    }
}

impl Exec {
    /// Waits for the end of the process.
    pub async fn wait(&mut self) -> Result<Exit> {
        tokio::time::sleep(Duration::ZERO).await;
        Ok(Exit::default())
    }

    /// Changes the size of its terminal.
    pub fn resize(&self, _size: WindowSize) -> Result<()> {
        Ok(())
    }

    /// Something that changes the size of its terminal and may be kept apart from the streams.
    pub fn resizer(&self) -> Option<crate::stdio::Terminal> {
        None
    }

    /// Sends it a signal.
    pub async fn signal(&self, _signal: i32) -> Result<()> {
        Ok(())
    }
}

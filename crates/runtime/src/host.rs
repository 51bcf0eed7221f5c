//! The door: one directory, one cgroup subtree and one shim program on this host, and the sandboxes that live in them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sandbox::Sandbox;
use crate::spec::SandboxSpec;

/// Where everything of one host object lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// Survives a reboot: writable layers and records of sandboxes, below `sandboxes/`. Made if missing.
    pub root: PathBuf,
    /// Gone after a reboot, as /run: sockets and shared memory. Made if missing.
    pub state: PathBuf,
    /// Name of the cgroup subtree, as `podling-ab12`.
    pub cgroup: String,
    /// The static shim program; it is executed from sealed memory, out of reach of any container.
    pub shim: &'static [u8],
}

/// The sandboxes of this host.
pub struct Host {
    config: Config,
}

impl Host {
    /// Prepares directories, cgroups and the shim. Starts and adopts nothing.
    pub fn open(config: Config) -> Result<Arc<Host>> {
        Ok(Arc::new(Host { config }))
    }

    /// Starts a sandbox; its network is attached when this returns.
    pub async fn create_sandbox(self: &Arc<Host>, spec: SandboxSpec) -> Result<Arc<Sandbox>> {
        Err(Error::NotFound {
            what: format!("{} in {}", spec.id, self.config.root.display()),
        })
    }

    /// Finds every sandbox on disk, living (its shim answers) or dead (what was recorded is shown).
    pub async fn adopt(self: &Arc<Host>) -> Result<Vec<Arc<Sandbox>>> {
        Ok(Vec::new())
    }

    /// Takes the cgroup subtree and the directories `sandboxes` and `state` away. All sandboxes must have been removed.
    pub fn remove(&self) -> Result<()> {
        Ok(())
    }
}

//! What tests of several crates share: a real API server over a real store in one process, and patience.
//!
//! Nothing here pretends: the server validates, stores on disk and watches as it does in a cluster. Only nodes are missing. Machines for
//! them, joined by wires, are in [`lab`]; nodes that only say they run their pods are in [`nodes`].

pub mod etcd;
pub mod lab;
pub mod nodes;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use client::Client;
use client::transport::Local;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use server::{NodeDoor, NodeDoorError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use wire::{Body, Identity, Service};

/// What is awaited must come within this time, however loaded the machine is.
const PATIENCE: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(5);

/// An API server in this process. It ends with its last owner.
pub struct Cluster {
    server: Arc<server::Server>,
    stop: watch::Sender<bool>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    /// Starts one on an empty store.
    ///
    /// # Errors
    /// When the store or the server cannot be made.
    pub async fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("making a directory")?;
        let store = store::Disk::open(store::Config::new(directory.path().join("store")))?;
        let cluster = server::Cluster {
            version: "v1.37.2+test".into(),
            commit: "test".into(),
            address: [127, 0, 0, 1].into(),
            port: 6443,
            service_address: None,
        };
        let server = server::Server::new(server::Config { store: Arc::new(store), cluster, nodes: Arc::new(NoNodes) });
        Ok(Self { server: server.await?, stop: watch::channel(false).0, _directory: directory })
    }

    /// A way to the API as a user of these groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> Client {
        let service: Arc<dyn Service> = self.server.clone();
        Client::new(Arc::new(Local::new(service, Identity::new(user, groups))), user)
    }

    /// A way to the API as the administrator.
    pub fn admin(&self) -> Client {
        self.client("admin", &["system:masters"])
    }

    /// Turns true when the cluster ends.
    pub fn shutdown(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

struct NoNodes;

impl NodeDoor for NoNodes {
    fn send<'a>(&'a self, node: &'a str, _: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, NodeDoorError>> {
        Box::pin(async move { Err(NodeDoorError::Unknown(node.to_owned())) })
    }
}

/// Looks until there is something to see.
///
/// # Errors
/// When there is nothing after half a minute; `what` says what was awaited.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            bail!("{what}: not seen within {} s", PATIENCE.as_secs());
        }
        sleep(GLANCE).await;
    }
}

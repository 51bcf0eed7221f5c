//! Renews a node's certificates when two thirds of their time are over.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use client::Client;
use tokio::sync::watch;
use wire::authority::Usage;
use wire::identity::Credential;
use wire::keys::Keys;

use super::enroll;
use crate::own::{LOOK, wait};

/// After a failure the next try comes after this time, or sooner if the end is near.
const RETRY: Duration = Duration::from_secs(60);

/// One certificate of a node.
pub(super) struct Renewal {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) usage: Usage,
    pub(super) names: Vec<String>,
    pub(super) file: PathBuf,
    pub(super) keys: Arc<Keys>,
}

impl Renewal {
    /// Renews until the shutdown.
    pub(super) async fn run(self, credential: Credential, mut shutdown: watch::Receiver<bool>) {
        let mut current = credential;
        loop {
            let wait = match current.validity() {
                Ok((from, until)) => wait(from, until, SystemTime::now()),
                Err(error) => return tracing::error!(%error, "a certificate that cannot be renewed"),
            };
            if let Some(wait) = wait {
                tokio::select! {
                    () = client::stopped(&mut shutdown) => return,
                    () = tokio::time::sleep(wait.min(LOOK)) => continue,
                }
            }
            tokio::select! {
                () = client::stopped(&mut shutdown) => return,
                renewed = self.renew() => match renewed {
                    Ok(credential) => {
                        current = credential;
                        continue;
                    }
                    Err(error) => tracing::warn!("renewing the node's certificate: {error:#}"),
                },
            }
            let left = current.validity().ok().and_then(|(_, until)| until.duration_since(SystemTime::now()).ok());
            let pause = RETRY.min(left.unwrap_or(RETRY) / 10).max(Duration::from_secs(1));
            tokio::select! {
                () = client::stopped(&mut shutdown) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn renew(&self) -> anyhow::Result<Credential> {
        let credential = enroll::certificate(&self.client, &self.node, self.usage, &self.names, None).await?;
        enroll::write(&self.file, &credential)?;
        self.keys.replace(&credential)?;
        tracing::info!(usage = ?self.usage, "renewed a certificate of this node");
        Ok(credential)
    }
}

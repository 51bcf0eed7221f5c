//! Renews a node's certificates when two thirds of their time are over.

use std::net::IpAddr;
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

/// No try comes sooner after another.
const SOON: Duration = Duration::from_secs(1);

/// One certificate of a node.
pub(super) struct Renewal {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) usage: Usage,
    /// The node's addresses, where the certificate names them.
    pub(super) addresses: Option<watch::Receiver<Vec<IpAddr>>>,
    pub(super) file: PathBuf,
    pub(super) keys: Arc<Keys>,
}

impl Renewal {
    /// Renews until the shutdown.
    pub(super) async fn run(mut self, credential: Credential, mut shutdown: watch::Receiver<bool>) {
        let mut current = credential;
        // The node has moved since.
        let mut is_old = false;
        loop {
            let wait = match current.validity() {
                _ if is_old => None,
                Ok((from, until)) => wait(from, until, SystemTime::now()),
                Err(error) => return tracing::error!(%error, "a certificate that cannot be renewed"),
            };
            if let Some(wait) = wait {
                tokio::select! {
                    () = client::stopped(&mut shutdown) => return,
                    () = tokio::time::sleep(wait.min(LOOK)) => continue,
                    () = moved(&mut self.addresses) => is_old = true,
                }
            }
            tokio::select! {
                () = client::stopped(&mut shutdown) => return,
                renewed = self.renew() => match renewed {
                    Ok(credential) => {
                        (current, is_old) = (credential, false);
                        continue;
                    }
                    Err(error) => tracing::warn!("renewing the node's certificate: {error:#}"),
                },
            }
            let left = current.validity().ok().and_then(|(_, until)| until.duration_since(SystemTime::now()).ok());
            let pause = if is_old { SOON } else { RETRY.min(left.unwrap_or(RETRY) / 10).max(SOON) };
            tokio::select! {
                () = client::stopped(&mut shutdown) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn renew(&self) -> anyhow::Result<Credential> {
        let addresses = self.addresses.as_ref().map(|addresses| addresses.borrow().clone());
        let names = addresses.map_or_else(Vec::new, |addresses| names(&self.node, &addresses));
        let credential = enroll::certificate(&self.client, &self.node, self.usage, &names, None).await?;
        enroll::write(&self.file, &credential)?;
        self.keys.replace(&credential)?;
        tracing::info!(usage = ?self.usage, "renewed a certificate of this node");
        Ok(credential)
    }
}

/// What the certificate of a node that listens names.
pub(super) fn names(node: &str, addresses: &[IpAddr]) -> Vec<String> {
    std::iter::once(node.to_owned()).chain(addresses.iter().map(ToString::to_string)).collect()
}

/// Resolves when the node has other addresses; never, when there will be none.
async fn moved(addresses: &mut Option<watch::Receiver<Vec<IpAddr>>>) {
    let changed = match addresses {
        Some(addresses) => addresses.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

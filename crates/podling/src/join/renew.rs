//! Renews a node's certificates when two thirds of their time are over.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use client::Client;
use tokio::sync::watch;
use wire::authority::{CLOCK_SKEW, Usage};
use wire::identity::Credential;
use wire::keys::Keys;

use super::enroll;

/// However late the end, the clock is looked at so often: somebody may set it.
const LOOK: Duration = Duration::from_secs(3600);
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

/// How long until a certificate is to be renewed; `None` is now. It was given its beginning in the past, for slow clocks.
fn wait(from: SystemTime, until: SystemTime, now: SystemTime) -> Option<Duration> {
    let life = until.duration_since(from + CLOCK_SKEW).unwrap_or_default();
    (until - life / 3).duration_since(now).ok().filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_its_last_third() {
        let given = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let (from, until) = (given - CLOCK_SKEW, given + Duration::from_secs(300));
        let at = |seconds: u64| wait(from, until, given + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(Duration::from_secs(200)));
        assert_eq!(at(150), Some(Duration::from_secs(50)));
        assert_eq!(at(200), None);
        assert_eq!(at(400), None);
    }
}

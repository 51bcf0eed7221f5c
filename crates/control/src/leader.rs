//! Elects which of several servers runs the controllers: the one that holds a Lease, as upstream's controllers do it. Clocks are not compared: a
//! lease is taken from its holder when *this* process has seen it unchanged for its duration.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::time;
use client::cache::{Cache, Change};
use client::{Client, resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "podling-controllers";
/// Who has not renewed for so long has lost it.
const DURATION: Duration = Duration::from_secs(6);
/// Time between two renewals.
const BEAT: Duration = Duration::from_secs(2);
/// Who cannot renew for so long gives up by itself, before others may take over.
const GIVE_UP: Duration = Duration::from_secs(4);
/// What is still under way when the lease is lost may take so long to end. The work is over before the lease can be.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// After an attempt that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Who takes part in the election.
pub struct Election {
    /// A way to the API.
    pub client: Client,
    /// Tells this server from the others.
    pub identity: String,
}

/// How a term of office ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Shutdown,
    Lost(String),
}

/// Works whenever this server is the elected one, until the shutdown. The work is told when its term is over.
pub async fn run<W: Future<Output = ()>>(
    election: Election,
    mut shutdown: watch::Receiver<bool>,
    work: impl Fn(watch::Receiver<bool>) -> W,
) {
    while let Some((lease, since)) = election.candidate(&mut shutdown).await {
        tracing::info!(identity = election.identity, "this server runs the controllers now");
        let (over, term) = watch::channel(false);
        let mut held = lease;
        let end = {
            let mut working = pin!(work(term));
            tokio::select! {
                () = &mut working => End::Lost("the controllers have ended".to_owned()),
                end = election.hold(&mut held, since, &mut shutdown) => {
                    over.send_replace(true);
                    // What does not end is dropped.
                    let _ = timeout(LAST_WORDS, working).await;
                    end
                }
            }
        };
        match end {
            End::Shutdown => return election.release(held).await,
            End::Lost(why) => tracing::warn!(why, "this server does not run the controllers any more"),
        }
    }
}

impl Election {
    /// Waits until the lease is this server's; also says since when at the latest. `None` at the shutdown.
    async fn candidate(&self, shutdown: &mut watch::Receiver<bool>) -> Option<(Value, Instant)> {
        let (_over, watching) = watch::channel(false);
        let selector = vec![("fieldSelector".to_owned(), format!("metadata.name={NAME}"))];
        let path = resource::LEASES.collection(Some(NAMESPACE));
        let (_cache, mut changes) = Cache::start(self.client.clone(), path, selector, watching);
        let mut seen = Seen::default();
        loop {
            let due = seen.due();
            tokio::select! {
                () = client::stopped(shutdown) => return None,
                change = changes.recv() => seen.take_in(change?),
                () = sleep_until(due), if seen.is_synced => {
                    let begun = Instant::now();
                    match timeout(BEAT, self.take(seen.lease.as_deref())).await {
                        Ok(Ok(lease)) => return Some((lease, begun)),
                        Ok(Err(error)) => tracing::debug!(%error, "taking the controllers' lease"),
                        Err(_) => tracing::debug!("taking the controllers' lease takes too long"),
                    }
                    seen.not_before = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    /// Takes the lease as it was last seen, or makes it.
    async fn take(&self, seen: Option<&Value>) -> Result<Value, client::Error> {
        let now = time::format_micro(Timestamp::now());
        let Some(seen) = seen else {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": self.spec(&now, &now, 0),
            });
            return self.client.create(&resource::LEASES.collection(Some(NAMESPACE)), &lease).await;
        };
        let changes = seen["spec"]["leaseTransitions"].as_i64().unwrap_or(0) + 1;
        self.write(seen, self.spec(&now, &now, changes)).await
    }

    fn spec(&self, acquired: &str, renewed: &str, transitions: i64) -> Value {
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": acquired,
            "renewTime": renewed,
            "leaseTransitions": transitions,
        })
    }

    /// Replaces the lease, if it still is the one that was seen.
    async fn write(&self, seen: &Value, spec: Value) -> Result<Value, client::Error> {
        let mut lease = seen.clone();
        lease["spec"] = spec;
        self.client.update(&resource::LEASES.object(Some(NAMESPACE), NAME), &lease).await
    }

    /// Renews the lease, which is held since then, until it is lost or the shutdown comes. Time counts from when a renewal was asked for: others see
    /// it no earlier.
    async fn hold(&self, lease: &mut Value, since: Instant, shutdown: &mut watch::Receiver<bool>) -> End {
        let (mut renewed, mut next) = (since, since + BEAT);
        loop {
            let end = renewed + GIVE_UP;
            tokio::select! {
                () = client::stopped(shutdown) => return End::Shutdown,
                () = sleep_until(next.min(end)) => {}
            }
            let begun = Instant::now();
            match timeout_at(end, self.renew(lease)).await {
                Ok(Ok(Some(held))) => (*lease, renewed, next) = (held, begun, begun + BEAT),
                Ok(Ok(None)) => return End::Lost("another server has taken its lease".to_owned()),
                Ok(Err(error)) if Instant::now() >= end => return End::Lost(error.to_string()),
                Ok(Err(_)) => next = Instant::now() + RETRY,
                Err(_) => return End::Lost("the API does not answer".to_owned()),
            }
        }
    }

    /// The renewed lease; `None` if it is another's.
    async fn renew(&self, lease: &Value) -> Result<Option<Value>, client::Error> {
        let mut spec = lease["spec"].clone();
        spec["renewTime"] = time::format_micro(Timestamp::now()).into();
        match self.write(lease, spec.clone()).await {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if error.is_conflict() => {
                // Perhaps by this server itself, and only the answer was lost.
                let present = self.client.get(&resource::LEASES.object(Some(NAMESPACE), NAME)).await?;
                if present["spec"]["holderIdentity"] != self.identity.as_str() {
                    return Ok(None);
                }
                self.write(&present, spec).await.map(Some)
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the lease go, so that others need not wait.
    async fn release(&self, lease: Value) {
        let mut spec = lease["spec"].clone();
        spec["holderIdentity"] = "".into();
        spec["leaseDurationSeconds"] = 1.into();
        if let Ok(Err(error)) = timeout(LAST_WORDS, self.write(&lease, spec)).await {
            tracing::debug!(%error, "letting the controllers' lease go");
        }
    }
}

/// What a candidate knows of the lease.
#[derive(Default)]
struct Seen {
    is_synced: bool,
    lease: Option<Arc<Value>>,
    /// When it last changed.
    at: Option<Instant>,
    not_before: Option<Instant>,
}

impl Seen {
    /// When it may be taken.
    fn due(&self) -> Instant {
        let now = Instant::now();
        let ends = match (&self.lease, self.at) {
            (Some(lease), Some(at)) if !is_free(lease) => at + duration(lease),
            _ => now,
        };
        ends.max(self.not_before.unwrap_or(now))
    }

    fn take_in(&mut self, change: Change) {
        match change {
            Change::Set(lease) => (self.lease, self.at) = (Some(lease), Some(Instant::now())),
            Change::Removed(_) => (self.lease, self.at) = (None, None),
            Change::Synced => self.is_synced = true,
        }
    }
}

fn is_free(lease: &Value) -> bool {
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().is_empty()
}

fn duration(lease: &Value) -> Duration {
    lease["spec"]["leaseDurationSeconds"].as_u64().map_or(DURATION, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_due_when_it_was_seen_unchanged_for_its_duration() {
        let now = Instant::now();
        let lease =
            |holder: &str| Some(Arc::new(json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 6}})));
        let held = Seen { is_synced: true, lease: lease("a"), at: Some(now), not_before: None };
        assert_eq!(held.due(), now + Duration::from_secs(6));
        let free = Seen { lease: lease(""), ..held };
        assert!(free.due() < now + Duration::from_secs(1));
        let failed = Seen { not_before: Some(now + Duration::from_secs(9)), ..free };
        assert_eq!(failed.due(), now + Duration::from_secs(9));
    }
}

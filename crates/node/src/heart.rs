//! The node's signs of life, and its return when somebody has deleted its object.

use std::time::Duration;

use client::cache::{Cache, Change, Key};
use client::resource;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::agent::text;
use crate::register::Registration;

/// The longest time between two signs of life.
const BEAT: Duration = Duration::from_secs(10);
/// So many signs of life are given in the time after which the cluster takes the node for lost.
const BEATS_OF_GRACE: u32 = 4;
/// Beside the lease, the node's status is written so rarely.
const STATUS: Duration = Duration::from_secs(300);
/// A node that could not be registered again is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the node alive in the eyes of the cluster.
pub(crate) struct Heart {
    registration: Registration,
    reported: Instant,
    was_lost: bool,
    images: Option<Value>,
    /// When the node is to be registered again, if it is.
    return_at: Option<Instant>,
}

impl Heart {
    /// The heart of a node that was just registered.
    pub(crate) fn new(registration: Registration) -> Self {
        let images = registration.shared.images.status();
        Self { registration, reported: Instant::now(), was_lost: false, images, return_at: None }
    }

    /// Renews the lease every ten seconds, and the status now and then, until the shutdown. A node that was deleted meanwhile is
    /// registered again: whoever wants it gone for good ends its agent.
    pub(crate) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut ticks = interval(BEAT.min(self.registration.grace / BEATS_OF_GRACE));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let shared = self.registration.shared.clone();
        let path = resource::NODES.collection(None);
        let own = vec![("fieldSelector".to_owned(), format!("metadata.name={}", shared.node_name))];
        let mut moves = shared.moves();
        let (nodes, mut changes) = Cache::start_trimmed(shared.client.clone(), path, own, trim, shutdown.clone());
        loop {
            let returning = async {
                match self.return_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wire::listen::stopped(&mut shutdown) => return,
                change = changes.recv() => match change {
                    Some(Change::Set(node)) => self.seen(&node),
                    Some(Change::Removed(_)) => self.miss(),
                    Some(Change::Synced) => {
                        let key = Key { namespace: String::new(), name: shared.node_name.clone() };
                        if nodes.get(&key).is_none() {
                            self.miss();
                        }
                    }
                    None => return,
                },
                () = returning => self.come_back().await,
                Ok(()) = moves.changed() => {
                    // If it cannot be told now, the next sign of life tells it.
                    self.was_lost = true;
                    self.beat().await;
                }
                _ = ticks.tick() => self.beat().await,
            }
        }
    }

    async fn beat(&mut self) {
        if let Err(error) = self.registration.renew().await {
            tracing::warn!(error = error.chain(), "renewing the node's lease");
            self.was_lost = true;
            return;
        }
        let images = self.registration.shared.images.status();
        // Who was not heard may have been taken for lost.
        if self.return_at.is_some() || !self.was_lost && self.reported.elapsed() < STATUS && images == self.images {
            return;
        }
        match self.registration.report().await {
            Ok(()) => (self.reported, self.was_lost, self.images) = (Instant::now(), false, images),
            Err(error) => tracing::warn!(error = error.chain(), "reporting the node's status"),
        }
    }

    fn seen(&mut self, node: &Value) {
        // What a watch tells may be old: it says which object is there, not that it still is.
        if !self.registration.shared.presence.is_of(text(node, "/metadata/uid")) {
            self.miss();
        }
        // A sign of life that came late, but came, leaves the node taken for lost: its status says otherwise with the next one.
        self.was_lost |= text(node, "/status/ready") != "True";
    }

    fn miss(&mut self) {
        self.registration.shared.presence.forget();
        self.return_at = Some(Instant::now());
    }

    async fn come_back(&mut self) {
        tracing::warn!("the cluster does not know this node any more: registering it again");
        self.return_at = match self.registration.register().await {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(error = error.chain(), "registering the node again");
                Some(Instant::now() + RETRY)
            }
        };
    }
}

/// Which object it is and whether it is taken for alive is all that matters here.
fn trim(node: &mut Value) {
    let conditions = node["status"]["conditions"].take();
    let ready = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let ready = ready.map(|condition| condition["status"].clone());
    let metadata = node["metadata"].take();
    let metadata =
        json!({"name": metadata["name"], "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]});
    *node = json!({"metadata": metadata, "status": {"ready": ready}});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sees_whether_it_is_taken_for_alive() {
        let ready = |status: &str| {
            let conditions = json!([{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": status}]);
            let mut node = json!({"metadata": {"name": "n", "uid": "u"}, "status": {"conditions": conditions}});
            trim(&mut node);
            text(&node, "/status/ready").to_owned()
        };
        assert_eq!((ready("True").as_str(), ready("Unknown").as_str()), ("True", "Unknown"));
    }
}

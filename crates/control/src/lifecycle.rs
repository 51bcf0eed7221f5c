//! Watches over nodes: one whose lease is not renewed is not ready, and in the end its pods have to leave it.

use std::collections::HashMap;
use std::time::Duration;

use client::cache::{Cache, Change, Key};
use client::events::{About, Recorder, Severity};
use client::queue::Queue;
use client::{Client, Patch, resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::health::{self, Health};

/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";
/// Pods leave at most one node in this time (upstream: 0.1 nodes per second).
const BETWEEN_EVICTIONS: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the shutdown. A node that is silent for `grace` is not ready.
pub async fn run(client: Client, recorder: Recorder, grace: Duration, mut shutdown: watch::Receiver<bool>) {
    let mut lifecycle = Lifecycle::start(client, recorder, grace, &shutdown);
    loop {
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            change = lifecycle.node_changes.recv() => match change {
                Some(change) => lifecycle.node_changed(&change),
                None => return,
            },
            change = lifecycle.lease_changes.recv() => match change {
                Some(change) => lifecycle.lease_changed(&change),
                None => return,
            },
            name = lifecycle.queue.next() => lifecycle.look(&name).await,
        }
    }
}

/// When a node was heard last, and what it said then. By this machine's clock: the node's may be wrong.
#[derive(Default)]
struct Heard {
    at: Option<Instant>,
    lease: String,
    status: String,
}

struct Lifecycle {
    client: Client,
    recorder: Recorder,
    grace: Duration,
    nodes: Cache,
    node_changes: mpsc::Receiver<Change>,
    lease_changes: mpsc::Receiver<Change>,
    queue: Queue<String>,
    heard: HashMap<String, Heard>,
    next_eviction: Instant,
}

impl Lifecycle {
    fn start(client: Client, recorder: Recorder, grace: Duration, shutdown: &watch::Receiver<bool>) -> Self {
        let (nodes, node_changes) =
            Cache::start(client.clone(), resource::NODES.collection(None), Vec::new(), shutdown.clone());
        let leases = resource::LEASES.collection(Some(LEASES));
        let (_, lease_changes) = Cache::start(client.clone(), leases, Vec::new(), shutdown.clone());
        Self {
            client,
            recorder,
            grace,
            nodes,
            node_changes,
            lease_changes,
            queue: Queue::default(),
            heard: HashMap::new(),
            next_eviction: Instant::now(),
        }
    }

    fn node_changed(&mut self, change: &Change) {
        match change {
            Change::Set(node) => {
                let (name, beat) = (Key::of(node).name, health::heartbeat(node).to_owned());
                let heard = self.heard.entry(name.clone()).or_default();
                // A status is a sign of life as good as a renewed lease, and the first one that a node gives that was lost.
                if heard.status != beat || heard.at.is_none() {
                    (heard.status, heard.at) = (beat, Some(Instant::now()));
                }
                self.queue.add(name);
            }
            Change::Removed(node) => drop(self.heard.remove(&Key::of(node).name)),
            Change::Synced => {}
        }
    }

    fn lease_changed(&mut self, change: &Change) {
        let Change::Set(lease) = change else { return };
        let said = lease["spec"]["renewTime"].as_str().unwrap_or_default();
        let name = Key::of(lease).name;
        let heard = self.heard.entry(name.clone()).or_default();
        if heard.lease != said {
            (heard.lease, heard.at) = (said.to_owned(), Some(Instant::now()));
            self.queue.add(name);
        }
    }

    /// Does for a node what has to be done now, and comes back when something may have to be done without its saying anything.
    async fn look(&mut self, name: &str) {
        let Some(node) = self.nodes.get(&Key { namespace: String::new(), name: name.to_owned() }) else { return };
        let next = match self.tend(name, &node).await {
            Ok(next) => next,
            Err(error) => {
                tracing::debug!(%error, node = name, "tending a node");
                Some(Instant::now() + RETRY)
            }
        };
        if let Some(next) = next {
            self.queue.add_at(name.to_owned(), next);
        }
    }

    async fn tend(&mut self, name: &str, node: &Value) -> Result<Option<Instant>, client::Error> {
        let heard = self.heard.get(name).and_then(|heard| heard.at).unwrap_or_else(Instant::now);
        let silent_at = heard + self.grace;
        if Instant::now() >= silent_at
            && let Some(patch) = health::silenced(node, Timestamp::now())
        {
            let path = resource::NODES.subresource(None, name, "status");
            self.client.patch(&path, Patch::Strategic, &patch).await?;
            self.tell(name, "NodeNotReady", &format!("Node {name} status is now: NodeNotReady"));
            self.unready_pods(name).await?;
            // The change comes back by the watch.
            return Ok(None);
        }
        let mut next = (Instant::now() < silent_at).then_some(silent_at);
        let evicts = health::wants_eviction(node) && self.may_evict();
        if evicts && Instant::now() < self.next_eviction {
            next = Some(self.next_eviction);
        } else if evicts {
            self.next_eviction = Instant::now() + BETWEEN_EVICTIONS;
            self.taint(name, node, true).await?;
            return Ok(next);
        }
        self.taint(name, node, false).await?;
        Ok(next)
    }

    async fn taint(&self, name: &str, node: &Value, evicts: bool) -> Result<(), client::Error> {
        let Some(taints) = health::taints(node, evicts, Timestamp::now()) else { return Ok(()) };
        // With the version: others give nodes taints too.
        let version = &node["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        self.client.patch(&resource::NODES.object(None, name), Patch::Merge, &patch).await?;
        Ok(())
    }

    fn may_evict(&self) -> bool {
        let nodes = self.nodes.list();
        let troubled = nodes.iter().filter(|node| health::health(node) != Health::Ready).count();
        health::may_evict(nodes.len(), troubled)
    }

    /// Nobody should send requests to pods of which nothing is known.
    async fn unready_pods(&self, name: &str) -> Result<(), client::Error> {
        let on_node = format!("spec.nodeName={name}");
        let pods = self.client.list(&resource::PODS.collection(None), &[("fieldSelector", &on_node)]).await?;
        for pod in pods.items {
            let Some(patch) = health::unready(&pod, Timestamp::now()) else { continue };
            let key = Key::of(&pod);
            let path = resource::PODS.subresource(Some(&key.namespace), &key.name, "status");
            match self.client.patch(&path, Patch::Strategic, &patch).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => self.recorder.tell(
                    About::object("Pod", &pod),
                    Severity::Warning,
                    "NodeNotReady",
                    "Node is not ready",
                ),
            }
        }
        Ok(())
    }

    fn tell(&self, name: &str, reason: &str, message: &str) {
        self.recorder.tell(About::node(name), Severity::Normal, reason, message);
    }
}

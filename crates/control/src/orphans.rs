//! Takes away what nodes that are gone have left: their pods, then their blocks of addresses.

use std::sync::Arc;
use std::time::Duration;

use api::block;
use client::cache::{Cache, Change, Key};
use client::queue::Queue;
use client::{Client, Delete, Patch, resource};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::pods::Pods;
use crate::removal;
use crate::tree::text;

const RETRY: Duration = Duration::from_secs(1);

/// Runs until the shutdown. What belongs to a node that is not there is left alone for `quarantine`: it may be about to come.
pub(crate) async fn run(client: Client, quarantine: Duration, pods: Pods, mut shutdown: watch::Receiver<bool>) {
    let mut orphans = Orphans::start(client, quarantine, pods, &shutdown);
    loop {
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            change = orphans.node_changes.recv() => match change {
                Some(Change::Removed(node)) => orphans.suspect(&Key::of(&node).name),
                Some(_) => {}
                None => return,
            },
            change = orphans.pods.changes.recv() => match change {
                Some(Change::Set(pod)) => orphans.suspect(text(&pod["spec"]["nodeName"])),
                // The last pod that goes lets the blocks go.
                Some(Change::Removed(pod)) => orphans.suspect_now(text(&pod["spec"]["nodeName"])),
                Some(Change::Synced) => {}
                None => return,
            },
            change = orphans.block_changes.recv() => match change {
                Some(Change::Set(lease)) => orphans.suspect(text(&lease["spec"]["holderIdentity"])),
                Some(_) => {}
                None => return,
            },
            node = orphans.queue.next() => orphans.look(&node).await,
        }
    }
}

struct Orphans {
    client: Client,
    quarantine: Duration,
    nodes: Cache,
    pods: Pods,
    blocks: Cache,
    node_changes: mpsc::Receiver<Change>,
    block_changes: mpsc::Receiver<Change>,
    queue: Queue<String>,
}

impl Orphans {
    fn start(client: Client, quarantine: Duration, pods: Pods, shutdown: &watch::Receiver<bool>) -> Self {
        let follow = |path: String, trim: fn(&mut Value)| {
            Cache::start_trimmed(client.clone(), path, Vec::new(), trim, shutdown.clone())
        };
        let (nodes, node_changes) = follow(resource::NODES.collection(None), |node| {
            *node = json!({"metadata": node["metadata"].take()});
        });
        let (blocks, block_changes) = follow(resource::LEASES.collection(Some(block::NAMESPACE)), |_| {});
        let queue = Queue::default();
        Self { client, quarantine, nodes, pods, blocks, node_changes, block_changes, queue }
    }

    fn is_there(&self, node: &str) -> bool {
        node.is_empty() || self.nodes.get(&Key { namespace: String::new(), name: node.to_owned() }).is_some()
    }

    fn suspect(&self, node: &str) {
        if !self.is_there(node) {
            self.queue.add_at(node.to_owned(), Instant::now() + self.quarantine);
        }
    }

    fn suspect_now(&self, node: &str) {
        if !self.is_there(node) && self.pods_of(node).next().is_none() {
            self.queue.add(node.to_owned());
        }
    }

    fn pods_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = Arc<Value>> + 'a {
        self.pods.cache.list().into_iter().filter(move |pod| pod["spec"]["nodeName"] == node)
    }

    async fn look(&self, node: &str) {
        if self.is_there(node) {
            return;
        }
        if let Err(error) = self.clear(node).await {
            tracing::debug!(%error, node, "clearing away what a node has left");
            self.queue.add_at(node.to_owned(), Instant::now() + RETRY);
        }
    }

    async fn clear(&self, node: &str) -> Result<(), client::Error> {
        // A node that comes back first makes its object, then touches its claims. So a claim that is unchanged since before its node
        // was not found is nobody's.
        let held = self.held_by(node);
        // The cache may be behind; a node's pods are not ended for that.
        match self.client.get(&resource::NODES.object(None, node)).await {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
        let pods: Vec<_> = self.pods_of(node).collect();
        for pod in &pods {
            removal::unless_gone(self.end(pod).await)?;
        }
        for block in held.iter().filter(|_| pods.is_empty()) {
            let path = resource::LEASES.object(Some(block::NAMESPACE), &Key::of(block).name);
            let version = block["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            let unchanged = Delete { resource_version: version, ..Delete::default() };
            removal::unless_gone(self.client.delete(&path, &unchanged).await)?;
        }
        Ok(())
    }

    fn held_by(&self, node: &str) -> Vec<Arc<Value>> {
        self.blocks.list().into_iter().filter(|lease| lease["spec"]["holderIdentity"] == node).collect()
    }

    /// Nobody is left who could say that the pod has ended.
    async fn end(&self, pod: &Value) -> Result<(), client::Error> {
        let (key, uid) = (Key::of(pod), &pod["metadata"]["uid"]);
        let path = resource::PODS.object(Some(&key.namespace), &key.name);
        if !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            let condition = removal::disruption("DeletionByPodGC", "PodGC: node no longer exists");
            let patch = json!({"metadata": {"uid": uid}, "status": {"phase": "Failed", "conditions": [condition]}});
            self.client.patch(&format!("{path}/status"), Patch::Strategic, &patch).await?;
        }
        removal::delete(&self.client, &path, pod, Some(0)).await
    }
}

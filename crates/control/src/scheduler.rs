//! Binds pods to nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::time;
use client::cache::{Cache, Change, Key};
use client::events::{About, Recorder, Severity};
use client::{Client, Patch, resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fit;
use crate::snapshot::{Choice, Snapshot};

/// The name by which pods ask for this scheduler.
const NAME: &str = "default-scheduler";

/// Runs until the shutdown.
pub async fn run(client: Client, recorder: Recorder, mut shutdown: watch::Receiver<bool>) {
    let follow = |resource: client::Resource| {
        Cache::start(client.clone(), resource.collection(None), Vec::new(), shutdown.clone()).1
    };
    let (mut pods, mut nodes) = (follow(resource::PODS), follow(resource::NODES));
    let mut scheduler = Scheduler::new(client.clone(), recorder);
    let (mut pods_known, mut nodes_known) = (false, false);
    loop {
        tokio::select! {
            biased;
            () = client::stopped(&mut shutdown) => return,
            change = nodes.recv() => match change {
                Some(Change::Synced) => nodes_known = true,
                Some(change) => scheduler.node_changed(&change),
                None => return,
            },
            change = pods.recv() => match change {
                Some(Change::Synced) => pods_known = true,
                Some(change) => scheduler.pod_changed(&change),
                None => return,
            },
        }
        // Everything that is known already is taken in before the first decision: a late pod may have taken what an early one would get.
        if pods_known && nodes_known && pods.is_empty() && nodes.is_empty() {
            scheduler.work().await;
        }
    }
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    snapshot: Snapshot,
    /// Pods that wait for a node: by priority, then by age.
    pending: BTreeSet<(Reverse<i64>, String, Key)>,
    /// Pods that no node fits; looked at again when something changes.
    stuck: BTreeMap<Key, Arc<Value>>,
    objects: BTreeMap<Key, Arc<Value>>,
}

impl Scheduler {
    fn new(client: Client, recorder: Recorder) -> Self {
        Self {
            client,
            recorder,
            snapshot: Snapshot::default(),
            pending: BTreeSet::new(),
            stuck: BTreeMap::new(),
            objects: BTreeMap::new(),
        }
    }

    fn node_changed(&mut self, change: &Change) {
        match change {
            Change::Set(node) => self.snapshot.set_node(node),
            Change::Removed(node) => self.snapshot.remove_node(&Key::of(node).name),
            Change::Synced => return,
        }
        self.retry_stuck();
    }

    fn pod_changed(&mut self, change: &Change) {
        let (pod, is_gone) = match change {
            Change::Set(pod) => (pod, false),
            Change::Removed(pod) => (pod, true),
            Change::Synced => return,
        };
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let is_finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let node = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty());
        if is_gone || is_finished || node.is_some() {
            self.forget(&Key::of(pod));
        }
        match node {
            _ if (is_gone || is_finished) && self.snapshot.release(uid) => self.retry_stuck(),
            _ if is_gone || is_finished => {}
            Some(node) => self.snapshot.place(uid, node, fit::wants(pod)),
            None if is_ours(pod) => self.wait(pod.clone()),
            None => {}
        }
    }

    fn wait(&mut self, pod: Arc<Value>) {
        let key = Key::of(&pod);
        self.forget(&key);
        self.pending.insert(order(&pod));
        self.objects.insert(key, pod);
    }

    fn forget(&mut self, key: &Key) {
        if let Some(old) = self.objects.remove(key) {
            self.pending.remove(&order(&old));
        }
        self.stuck.remove(key);
    }

    fn retry_stuck(&mut self) {
        for (key, pod) in std::mem::take(&mut self.stuck) {
            self.pending.insert(order(&pod));
            self.objects.insert(key, pod);
        }
    }

    async fn work(&mut self) {
        while let Some((_, _, key)) = self.pending.pop_first() {
            let Some(pod) = self.objects.remove(&key) else { continue };
            self.schedule(key, pod).await;
        }
    }

    async fn schedule(&mut self, key: Key, pod: Arc<Value>) {
        let wants = fit::wants(&pod);
        match self.snapshot.choose(&wants) {
            Choice::Node(node) => {
                let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
                self.snapshot.place(uid, &node, wants);
                if let Err(error) = self.bind(&key, &pod, &node).await {
                    tracing::debug!(%error, pod = %key, "binding a pod");
                    self.snapshot.release(uid);
                    // A pod that has gone or was bound elsewhere is reported by the watch; any other failure is tried again with the next change.
                    if !error.is_not_found() && !error.is_conflict() {
                        self.stuck.insert(key, pod);
                    }
                }
            }
            Choice::None(why) => {
                self.recorder.tell(About::object("Pod", &pod), Severity::Warning, "FailedScheduling", &why);
                if let Err(error) = self.report(&key, &pod, &why).await {
                    tracing::debug!(%error, pod = %key, "reporting that a pod fits nowhere");
                }
                self.stuck.insert(key, pod);
            }
        }
    }

    async fn bind(&self, key: &Key, pod: &Value, node: &str) -> Result<(), client::Error> {
        let path = resource::PODS.subresource(Some(&key.namespace), &key.name, "binding");
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod["metadata"]["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.client.create(&path, &binding).await?;
        let message = format!("Successfully assigned {key} to {node}");
        self.recorder.tell(About::object("Pod", pod), Severity::Normal, "Scheduled", &message);
        Ok(())
    }

    /// Says in the pod's condition why it waits.
    async fn report(&self, key: &Key, pod: &Value, why: &str) -> Result<(), client::Error> {
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let old = conditions.rfind(|condition| condition["type"] == "PodScheduled");
        if old.is_some_and(|old| old["status"] == "False" && old["message"] == why) {
            return Ok(());
        }
        let since = old.filter(|old| old["status"] == "False").and_then(|old| old["lastTransitionTime"].as_str());
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": why,
            "lastTransitionTime": since.map_or_else(|| time::format(Timestamp::now()), str::to_owned),
            "observedGeneration": pod["metadata"]["generation"],
        });
        let path = resource::PODS.subresource(Some(&key.namespace), &key.name, "status");
        let patch = json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [condition]}});
        self.client.patch(&path, Patch::Strategic, &patch).await?;
        Ok(())
    }
}

/// Whether a pod waits for this scheduler.
fn is_ours(pod: &Value) -> bool {
    let asks = pod["spec"]["schedulerName"].as_str().is_none_or(|name| name == NAME || name.is_empty());
    let is_gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    asks && !is_gated && pod["metadata"]["deletionTimestamp"].is_null()
}

fn order(pod: &Value) -> (Reverse<i64>, String, Key) {
    let created = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    (Reverse(pod["spec"]["priority"].as_i64().unwrap_or(0)), created.to_owned(), Key::of(pod))
}

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

use crate::fit::{self, Wants};
use crate::snapshot::{Choice, Snapshot};

/// The name by which pods ask for this scheduler.
const NAME: &str = "default-scheduler";

/// Runs until the shutdown.
pub async fn run(client: Client, recorder: Recorder, mut shutdown: watch::Receiver<bool>) {
    let all = |resource: client::Resource| (client.clone(), resource.collection(None), Vec::new());
    let (pod_client, path, query) = all(resource::PODS);
    let (_, mut pods) = Cache::start_trimmed(pod_client, path, query, trim, shutdown.clone());
    let (node_client, path, query) = all(resource::NODES);
    let (_, mut nodes) = Cache::start(node_client, path, query, shutdown.clone());
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
    /// Pods that wait for a node, those that want the same together: what does not fit for one of them fits for none.
    waiting: BTreeMap<Wants, BTreeMap<Rank, Arc<Value>>>,
    /// What each waiting pod wants.
    wants: BTreeMap<Key, (Wants, Rank)>,
    /// Wants that may fit: new, or something has changed since no node fitted.
    hopeful: BTreeSet<Wants>,
    /// A binding has failed for no fault of the pod's: any sign of life of a node is reason to try again.
    is_owed: bool,
}

/// The order in which pods get their nodes: by priority, then by age.
type Rank = (Reverse<i64>, String, Key);

impl Scheduler {
    fn new(client: Client, recorder: Recorder) -> Self {
        Self {
            client,
            recorder,
            snapshot: Snapshot::default(),
            waiting: BTreeMap::new(),
            wants: BTreeMap::new(),
            hopeful: BTreeSet::new(),
            is_owed: false,
        }
    }

    fn node_changed(&mut self, change: &Change) {
        match change {
            Change::Set(node) if self.snapshot.set_node(node) || self.is_owed => self.hope(),
            Change::Removed(node) => {
                self.snapshot.remove_node(&Key::of(node).name);
                self.hope();
            }
            Change::Set(_) | Change::Synced => {}
        }
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
            _ if (is_gone || is_finished) && self.snapshot.release(uid) => self.hope(),
            _ if is_gone || is_finished => {}
            Some(node) => self.snapshot.place(uid, node, fit::wants(pod)),
            None if is_ours(pod) => self.wait(pod.clone()),
            None => {}
        }
    }

    fn wait(&mut self, pod: Arc<Value>) {
        let (key, wants, rank) = (Key::of(&pod), fit::wants(&pod), rank(&pod));
        let is_known = self.wants.get(&key).is_some_and(|(old, _)| *old == wants);
        self.forget(&key);
        if !is_known {
            self.hopeful.insert(wants.clone());
        }
        self.wants.insert(key, (wants.clone(), rank.clone()));
        self.waiting.entry(wants).or_default().insert(rank, pod);
    }

    fn forget(&mut self, key: &Key) {
        let Some((wants, rank)) = self.wants.remove(key) else { return };
        if let Some(group) = self.waiting.get_mut(&wants) {
            group.remove(&rank);
            if group.is_empty() {
                self.waiting.remove(&wants);
            }
        }
    }

    /// Something has changed: whatever did not fit may fit now.
    fn hope(&mut self) {
        self.hopeful = self.waiting.keys().cloned().collect();
        self.is_owed = false;
    }

    async fn work(&mut self) {
        while let Some((wants, pod)) = self.next() {
            match self.snapshot.choose(&wants) {
                Choice::Node(node) => self.place(&pod, wants, &node).await,
                Choice::None(why) => {
                    self.hopeful.remove(&wants);
                    self.refuse(&wants, &why).await;
                }
            }
        }
    }

    /// The pod that is first in line among those that may fit.
    fn next(&mut self) -> Option<(Wants, Arc<Value>)> {
        self.hopeful.retain(|wants| self.waiting.contains_key(wants));
        let first = |wants: &Wants| self.waiting.get(wants).and_then(|group| group.first_key_value());
        let best = self.hopeful.iter().filter_map(|wants| first(wants).map(|(rank, pod)| (rank, wants, pod)));
        best.min_by(|one, other| one.0.cmp(other.0)).map(|(_, wants, pod)| (wants.clone(), pod.clone()))
    }

    async fn place(&mut self, pod: &Arc<Value>, wants: Wants, node: &str) {
        let key = Key::of(pod);
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        self.forget(&key);
        self.snapshot.place(uid, node, wants);
        let Err(error) = self.bind(&key, pod, node).await else { return };
        tracing::debug!(%error, pod = %key, "binding a pod");
        self.snapshot.release(uid);
        // A pod that has gone or was bound elsewhere is reported by the watch; any other failure is tried again with the next change.
        if !error.is_not_found() && !error.is_conflict() {
            self.wait(pod.clone());
            self.hopeful.clear();
            self.is_owed = true;
        }
    }

    /// Tells those pods why they wait that were not told so before.
    async fn refuse(&mut self, wants: &Wants, why: &str) {
        let pods: Vec<Arc<Value>> = self.waiting.get(wants).into_iter().flat_map(BTreeMap::values).cloned().collect();
        for pod in pods.iter().filter(|pod| !is_told(pod, why)) {
            let key = Key::of(pod);
            self.recorder.tell(About::object("Pod", pod), Severity::Warning, "FailedScheduling", why);
            if let Err(error) = self.report(&key, pod, why).await {
                tracing::debug!(%error, pod = %key, "reporting that a pod fits nowhere");
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
        let old = scheduled(pod);
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

/// The condition that says whether a pod has a node.
fn scheduled(pod: &Value) -> Option<&Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "PodScheduled")
}

fn is_told(pod: &Value, why: &str) -> bool {
    scheduled(pod).is_some_and(|condition| condition["status"] == "False" && condition["message"] == why)
}

/// Takes out of a pod what scheduling does not need.
fn trim(pod: &mut Value) {
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.retain(|field, _| !matches!(field.as_str(), "annotations" | "labels" | "managedFields"));
    }
    for list in ["initContainers", "containers"] {
        for fields in pod["spec"]
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            fields.retain(|field, _| matches!(field.as_str(), "image" | "ports" | "resources"));
        }
    }
    if let Some(status) = pod["status"].as_object_mut() {
        status.retain(|field, _| matches!(field.as_str(), "phase" | "conditions"));
    }
}

fn rank(pod: &Value) -> Rank {
    let created = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    (Reverse(pod["spec"]["priority"].as_i64().unwrap_or(0)), created.to_owned(), Key::of(pod))
}

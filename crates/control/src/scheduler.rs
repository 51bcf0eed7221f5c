//! Binds pods to nodes.
//!
//! One pod after the other gets its node, but the API is told of many at once: a pod counts as placed from the decision on, and comes back
//! into the line if its binding fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::time;
use client::cache::{Cache, Change, Key};
use client::events::{About, Recorder, Severity};
use client::{Client, Patch, Resource, resource};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::fit::{self, Wants};
use crate::pods::Pods;
use crate::removal;
use crate::snapshot::{Budget, Choice, Facts, Preemption, Snapshot};
use crate::tree::map;
use crate::waiting::Waiting;

const BUDGETS: Resource = Resource { group: "policy", version: "v1", plural: "poddisruptionbudgets" };
/// The name by which pods ask for this scheduler.
const NAME: &str = "default-scheduler";
/// So many bindings are under way at most, and so many pods are told at the same time why they wait.
const AT_ONCE: usize = 64;
/// A binding that has failed for no fault of the pod's is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the shutdown.
pub(crate) async fn run(client: Client, recorder: Recorder, pods: Pods, mut shutdown: watch::Receiver<bool>) {
    let all = |resource: client::Resource| (client.clone(), resource.collection(None), Vec::new());
    let mut pods = pods.changes;
    let (node_client, path, query) = all(resource::NODES);
    let (_, mut nodes) = Cache::start(node_client, path, query, shutdown.clone());
    let (namespace_client, path, query) = all(resource::NAMESPACES);
    let (_, mut namespaces) = Cache::start(namespace_client, path, query, shutdown.clone());
    let (budget_client, path, query) = all(BUDGETS);
    let (budgets, mut budget_changes) = Cache::start(budget_client, path, query, shutdown.clone());
    let mut scheduler = Scheduler::new(client.clone(), recorder, budgets);
    let (mut pods_known, mut nodes_known, mut namespaces_known) = (false, false, false);
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
            change = namespaces.recv() => match change {
                Some(Change::Synced) => namespaces_known = true,
                Some(change) => scheduler.namespace_changed(&change),
                None => return,
            },
            // They are looked up when needed; only the way must not be blocked.
            change = budget_changes.recv() => if change.is_none() { return },
            Some(bound) = scheduler.bindings.join_next() => scheduler.bound(bound),
            () = sleep_until(scheduler.retry.unwrap_or_else(Instant::now)), if scheduler.retry.is_some() => scheduler.hope(),
        }
        // Everything that is known already is taken in before the first decision: a late pod may have taken what an early one would get.
        let all_known = pods_known && nodes_known && namespaces_known;
        if all_known && pods.is_empty() && nodes.is_empty() && namespaces.is_empty() {
            scheduler.work().await;
        }
    }
}

/// The uid of a pod whose binding is done, and what became of it.
type Bound = (String, Result<(), client::Error>);

struct Scheduler {
    client: Client,
    recorder: Recorder,
    snapshot: Snapshot,
    waiting: Waiting,
    /// Bindings under way.
    bindings: JoinSet<Bound>,
    /// Pods that have a node but are not known to be bound, by uid, as they were seen last.
    unbound: HashMap<String, Arc<Value>>,
    /// How many pods of which kind may be made to go.
    budgets: Cache,
    /// When to try again though nothing has changed.
    retry: Option<Instant>,
}

impl Scheduler {
    fn new(client: Client, recorder: Recorder, budgets: Cache) -> Self {
        let (snapshot, waiting) = (Snapshot::default(), Waiting::default());
        let (bindings, unbound) = (JoinSet::new(), HashMap::new());
        Self { client, recorder, snapshot, waiting, bindings, unbound, budgets, retry: None }
    }

    fn node_changed(&mut self, change: &Change) {
        match change {
            Change::Set(node) if self.snapshot.set_node(node) => self.hope(),
            Change::Removed(node) => {
                self.snapshot.remove_node(&Key::of(node).name);
                self.hope();
            }
            Change::Set(_) | Change::Synced => {}
        }
    }

    fn namespace_changed(&mut self, change: &Change) {
        match change {
            Change::Set(namespace) => {
                let labels = map(&namespace["metadata"]["labels"]);
                if self.snapshot.set_namespace(&Key::of(namespace).name, labels) {
                    self.hope();
                }
            }
            Change::Removed(namespace) => self.snapshot.remove_namespace(&Key::of(namespace).name),
            Change::Synced => {}
        }
    }

    fn pod_changed(&mut self, change: &Change) {
        let (pod, is_gone) = match change {
            Change::Set(pod) => (pod, false),
            Change::Removed(pod) => (pod, true),
            Change::Synced => return,
        };
        let uid = uid(pod);
        let is_finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let node = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty());
        if is_gone || is_finished || node.is_some() {
            self.waiting.remove(&Key::of(pod));
            self.unbound.remove(uid);
            self.snapshot.forget_nomination(uid);
        }
        match node {
            _ if is_gone || is_finished => {
                if self.snapshot.release(uid) {
                    self.hope();
                }
            }
            Some(node) => {
                if self.snapshot.place(uid, node, Arc::new(fit::wants(pod))) {
                    self.waiting.hope_for_company();
                }
                self.snapshot.describe(uid, facts(pod));
            }
            None if !is_ours(pod) => {
                self.waiting.remove(&Key::of(pod));
                self.snapshot.forget_nomination(uid);
            }
            None => match self.unbound.get_mut(uid) {
                Some(seen) => *seen = pod.clone(),
                None => self.wait(pod),
            },
        }
    }

    fn wait(&mut self, pod: &Arc<Value>) {
        let wants = fit::wants(pod);
        if let Some(node) = pod["status"]["nominatedNodeName"].as_str().filter(|node| !node.is_empty()) {
            self.snapshot.nominate(uid(pod), node, Arc::new(wants.clone()));
        }
        self.waiting.add(pod.clone(), wants);
    }

    /// Something has changed: whatever did not fit may fit now.
    fn hope(&mut self) {
        self.waiting.hope();
        self.retry = None;
    }

    async fn work(&mut self) {
        while self.bindings.len() < AT_ONCE {
            let Some((wants, pod)) = self.waiting.first() else { return };
            match self.snapshot.choose(uid(&pod), &wants) {
                Choice::Node(node) => {
                    self.snapshot.place(uid(&pod), &node, wants);
                    self.snapshot.describe(uid(&pod), facts(&pod));
                    self.waiting.remove(&Key::of(&pod));
                    self.waiting.hope_for_company();
                    self.bind(pod, &node);
                }
                Choice::None(why) => self.make_room(&pod, &wants, why).await,
            }
        }
    }

    /// A pod fits nowhere: perhaps less important ones have to go for it.
    async fn make_room(&mut self, pod: &Arc<Value>, wants: &Arc<Wants>, why: String) {
        if self.snapshot.is_empty() {
            let pods = self.waiting.despair(wants);
            return self.refuse(&pods, &why).await;
        }
        let budgets: Vec<Budget> = self.budgets.list().iter().map(|budget| Budget::read(budget)).collect();
        match self.snapshot.preempt(uid(pod), wants, &budgets) {
            Preemption::None(told) => {
                let pods = self.waiting.despair(wants);
                self.refuse(&pods, &format!("{why} preemption: {told}")).await;
            }
            Preemption::Found { node, victims } => {
                // Promised before anybody goes: the room is not for others.
                self.snapshot.nominate(uid(pod), &node, wants.clone());
                self.waiting.park(&Key::of(pod));
                let number = victims.len();
                let told = format!("found a potential placement for pod on node {node}, preempting {number} victims");
                self.nominate(pod, &node, &format!("{why} preemption: {told}")).await;
                let end = async |(uid, key): &(String, Key)| {
                    if let Err(error) = self.end(uid, key, pod, &node).await {
                        tracing::debug!(%error, pod = %key, "making a pod go for a more important one");
                    }
                };
                stream::iter(&victims).for_each_concurrent(AT_ONCE, end).await;
                // Those that could not be made to go are looked at again.
                self.retry.get_or_insert(Instant::now() + RETRY);
            }
        }
    }

    async fn nominate(&self, pod: &Arc<Value>, node: &str, why: &str) {
        self.refuse(std::slice::from_ref(pod), why).await;
        let key = Key::of(pod);
        let path = resource::PODS.subresource(Some(&key.namespace), &key.name, "status");
        let patch = json!({"metadata": {"uid": uid(pod)}, "status": {"nominatedNodeName": node}});
        if let Err(error) = self.client.patch(&path, Patch::Strategic, &patch).await {
            tracing::debug!(%error, pod = %key, "promising a node to a pod");
        }
    }

    /// Makes a pod go, with the time that it asks for, and says for whom.
    async fn end(&self, victim: &str, key: &Key, pod: &Value, node: &str) -> Result<(), client::Error> {
        let condition = removal::disruption(
            "PreemptionByScheduler",
            &format!("{NAME}: preempting to accommodate a higher priority pod"),
        );
        let path = resource::PODS.subresource(Some(&key.namespace), &key.name, "status");
        let patch = json!({"metadata": {"uid": victim}, "status": {"conditions": [condition]}});
        if let Err(error) = self.client.patch(&path, Patch::Strategic, &patch).await {
            return removal::unless_gone::<()>(Err(error));
        }
        let message = format!("Preempted by pod {} on node {node}", uid(pod));
        let object = json!({"metadata": {"name": key.name, "namespace": key.namespace, "uid": victim}});
        self.recorder.tell(About::object("Pod", &object), Severity::Normal, "Preempted", &message);
        removal::delete(&self.client, &resource::PODS.object(Some(&key.namespace), &key.name), &object, None).await
    }

    /// Tells those pods why they wait that were not told so before.
    async fn refuse(&self, pods: &[Arc<Value>], why: &str) {
        let tell = async |pod: &Arc<Value>| {
            self.recorder.tell(About::object("Pod", pod), Severity::Warning, "FailedScheduling", why);
            if let Err(error) = self.report(&Key::of(pod), pod, why).await {
                tracing::debug!(%error, pod = %Key::of(pod), "reporting that a pod fits nowhere");
            }
        };
        stream::iter(pods.iter().filter(|pod| !is_told(pod, why))).for_each_concurrent(AT_ONCE, tell).await;
    }

    fn bind(&mut self, pod: Arc<Value>, node: &str) {
        let (client, recorder, node) = (self.client.clone(), self.recorder.clone(), node.to_owned());
        let uid = uid(&pod).to_owned();
        self.unbound.insert(uid.clone(), pod.clone());
        self.bindings.spawn(async move { (uid, bind(&client, &recorder, &pod, &node).await) });
    }

    /// A binding is done. A pod whose binding has failed waits again, unless the watch has told that it has a node.
    fn bound(&mut self, bound: Result<Bound, tokio::task::JoinError>) {
        let (uid, result) = match bound {
            Ok(bound) => bound,
            Err(error) => return tracing::error!(%error, "a binding broke down"),
        };
        // After a success too the pod is as good as bound: older news of it may still be on their way.
        let Err(error) = result else { return };
        let Some(pod) = self.unbound.remove(&uid) else { return };
        tracing::debug!(%error, pod = %Key::of(&pod), "binding a pod");
        self.snapshot.release(&uid);
        // A pod that has gone or was bound elsewhere is reported by the watch; any other failure is no fault of the pod's.
        if !error.is_not_found() && !error.is_conflict() && is_ours(&pod) {
            self.wait(&pod);
            self.waiting.park(&Key::of(&pod));
            self.retry = Some(Instant::now() + RETRY);
        }
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
        self.client.patch_unread(&path, Patch::Strategic, &patch).await?;
        Ok(())
    }
}

async fn bind(client: &Client, recorder: &Recorder, pod: &Value, node: &str) -> Result<(), client::Error> {
    let key = Key::of(pod);
    let path = resource::PODS.subresource(Some(&key.namespace), &key.name, "binding");
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod["metadata"]["uid"]},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    client.create_unread(&path, &binding).await?;
    let message = format!("Successfully assigned {key} to {node}");
    recorder.tell(About::object("Pod", pod), Severity::Normal, "Scheduled", &message);
    Ok(())
}

fn facts(pod: &Value) -> Facts {
    let started = pod["status"]["startTime"].as_str().or_else(|| pod["metadata"]["creationTimestamp"].as_str());
    Facts {
        key: Key::of(pod),
        started: started.unwrap_or_default().to_owned(),
        is_ending: !pod["metadata"]["deletionTimestamp"].is_null(),
    }
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
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

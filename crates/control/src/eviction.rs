//! Makes pods leave nodes with taints of effect NoExecute that they do not bear, or do not bear for longer.

use client::cache::{Cache, Change, Key};
use client::events::{About, Recorder, Severity};
use client::queue::Queue;
use client::{Client, Patch, resource};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fit::{self, Taint, Toleration};
use crate::pods::Pods;
use crate::removal;

const RETRY: Duration = Duration::from_secs(1);

/// Runs until the shutdown.
pub(crate) async fn run(client: Client, recorder: Recorder, pods: Pods, mut shutdown: watch::Receiver<bool>) {
    let (nodes, mut node_changes) =
        Cache::start_trimmed(client.clone(), resource::NODES.collection(None), Vec::new(), trim_node, shutdown.clone());
    let Pods { cache: pods, changes: mut pod_changes } = pods;
    let eviction = Eviction { client, recorder, nodes, pods, queue: Queue::default() };
    loop {
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            change = node_changes.recv() => match change {
                Some(Change::Set(node)) => eviction.tainted(&node),
                Some(_) => {}
                None => return,
            },
            change = pod_changes.recv() => match change {
                Some(Change::Set(pod)) => eviction.queue.add(Key::of(&pod)),
                Some(_) => {}
                None => return,
            },
            key = eviction.queue.next() => eviction.look(&key).await,
        }
    }
}

struct Eviction {
    client: Client,
    recorder: Recorder,
    nodes: Cache,
    pods: Cache,
    queue: Queue<Key>,
}

impl Eviction {
    /// Looks at all pods of a node that has such taints. Pods that wait for their time on one that has lost them are looked at then.
    fn tainted(&self, node: &Value) {
        if !is_left(node) {
            return;
        }
        let name = &node["metadata"]["name"];
        let own = self.pods.list().into_iter().filter(|pod| pod["spec"]["nodeName"] == *name);
        own.for_each(|pod| self.queue.add(Key::of(&pod)));
    }

    async fn look(&self, key: &Key) {
        let Some(pod) = self.pods.get(key) else { return };
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        let Some(node) = self.nodes.get(&Key { namespace: String::new(), name: node }) else { return };
        let Some(due) = leaves_at(&pod, &node) else { return };
        let wait = due.duration_since(Timestamp::now());
        if let Ok(wait) = Duration::try_from(wait)
            && wait > Duration::ZERO
        {
            return self.queue.add_at(key.clone(), Instant::now() + wait);
        }
        if let Err(error) = self.evict(key, &pod).await {
            tracing::debug!(%error, pod = %key, "making a pod leave its node");
            self.queue.add_at(key.clone(), Instant::now() + RETRY);
        }
    }

    async fn evict(&self, key: &Key, pod: &Value) -> Result<(), client::Error> {
        let uid = &pod["metadata"]["uid"];
        let mut condition =
            removal::disruption("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
        condition["observedGeneration"] = pod["metadata"]["generation"].clone();
        let path = resource::PODS.subresource(Some(&key.namespace), &key.name, "status");
        let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}});
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.tell(About::object("Pod", pod), Severity::Normal, "TaintManagerEviction", &message);
        match self.client.patch(&path, Patch::Strategic, &patch).await {
            Ok(_) => {
                removal::delete(&self.client, &resource::PODS.object(Some(&key.namespace), &key.name), pod, None).await
            }
            refused => removal::unless_gone(refused),
        }
    }
}

/// When a pod has to leave its node; `None`: it may stay.
///
/// The time for which a taint is borne begins when both are there, which the objects themselves tell: a restart forgets nothing.
pub fn leaves_at(pod: &Value, node: &Value) -> Option<Timestamp> {
    // Most nodes make nobody leave, and each change of each pod is looked at.
    if !is_left(node) || !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let tolerations: Vec<Toleration> = fit::tolerations(&pod["spec"]);
    let began = stamp(&pod["status"]["startTime"]).or_else(|| stamp(&pod["metadata"]["creationTimestamp"]));
    let taints = node["spec"]["taints"].as_array().into_iter().flatten().filter(|taint| taint["effect"] == "NoExecute");
    taints
        .filter_map(|object| leaves_taint_at(&Taint::read(object), stamp(&object["timeAdded"]), began, &tolerations))
        .min()
}

/// Whether pods may have to leave a node. Most changes of nodes are signs of life, for which nobody goes through all pods.
fn is_left(node: &Value) -> bool {
    node["spec"]["taints"].as_array().into_iter().flatten().any(|taint| taint["effect"] == "NoExecute")
}

fn leaves_taint_at(
    taint: &Taint,
    added: Option<Timestamp>,
    began: Option<Timestamp>,
    tolerations: &[Toleration],
) -> Option<Timestamp> {
    let bearing: Vec<&Toleration> = tolerations.iter().filter(|toleration| toleration.bears(taint)).collect();
    if bearing.is_empty() {
        return Some(Timestamp::UNIX_EPOCH);
    }
    let seconds = bearing.iter().filter_map(|toleration| toleration.seconds()).min()?;
    let from = added.max(began).unwrap_or(Timestamp::UNIX_EPOCH);
    Some(from + SignedDuration::from_secs(seconds.max(0)))
}

fn stamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn trim_node(node: &mut Value) {
    node.as_object_mut().into_iter().for_each(|fields| drop(fields.remove("status")));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDED: &str = "2026-01-01T00:01:00Z";

    fn pod(tolerations: Value) -> Value {
        json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"tolerations": tolerations}})
    }

    fn node(taints: Value) -> Value {
        json!({"spec": {"taints": taints}})
    }

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn what_is_not_borne_is_left_at_once() {
        let tainted = node(json!([{"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": ADDED}]));
        assert_eq!(leaves_at(&pod(json!([])), &tainted), Some(Timestamp::UNIX_EPOCH));
        assert!(is_left(&tainted) && !is_left(&node(json!([{"key": "k", "effect": "NoSchedule"}]))));
        assert_eq!(leaves_at(&pod(json!([])), &node(json!([{"key": "k", "effect": "NoSchedule"}]))), None);
        assert_eq!(leaves_at(&pod(json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}])), &tainted), None);
        let mut ending = pod(json!([]));
        ending["metadata"]["deletionTimestamp"] = ADDED.into();
        assert_eq!(leaves_at(&ending, &tainted), None);
    }

    #[test]
    fn what_is_borne_for_a_time_is_left_then() {
        let tainted = node(json!([{"key": "k", "effect": "NoExecute", "timeAdded": ADDED}]));
        let bears = |seconds: i64| json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        assert_eq!(leaves_at(&pod(json!([bears(30)])), &tainted), at("2026-01-01T00:01:30Z"));
        assert_eq!(leaves_at(&pod(json!([bears(30), bears(5)])), &tainted), at("2026-01-01T00:01:05Z"));
        let mut late = pod(json!([bears(30)]));
        late["status"]["startTime"] = "2026-01-01T01:00:00Z".into();
        assert_eq!(leaves_at(&late, &tainted), at("2026-01-01T01:00:30Z"), "the pod came after the taint");
    }
}

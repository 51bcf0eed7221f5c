//! What silence and trouble make of a node: its conditions and its taints. Pure.

use api::time;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The taint of a node that says it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The taint of a node that says nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that keep new pods away, with their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions of which a silent node says nothing true any more.
const SAID: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Whether a node can be worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It says that it is ready.
    Ready,
    /// It says that it is not.
    NotReady,
    /// It says nothing any more.
    Silent,
    /// It has not said anything yet.
    New,
}

/// What a node's condition says.
pub fn health(node: &Value) -> Health {
    match condition(node, "Ready").map(|ready| ready["status"].as_str().unwrap_or_default()) {
        Some("True") => Health::Ready,
        Some("False") => Health::NotReady,
        Some(_) => Health::Silent,
        None => Health::New,
    }
}

/// When the node last said how it is, by its own clock; empty if never.
pub fn heartbeat(node: &Value) -> &str {
    condition(node, "Ready").and_then(|ready| ready["lastHeartbeatTime"].as_str()).unwrap_or_default()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// The conditions of a node from which nothing was heard for too long; `None` if they say so already.
pub fn silenced(node: &Value, now: Timestamp) -> Option<Value> {
    let stopped = ("NodeStatusUnknown", "Kubelet stopped posting node status.");
    let never = ("NodeStatusNeverUpdated", "Kubelet never posted node status.");
    let changed: Vec<Value> = SAID
        .into_iter()
        .filter_map(|kind| {
            let known = condition(node, kind);
            if known.is_some_and(|known| known["status"] == "Unknown") {
                return None;
            }
            let (reason, message) = if known.is_some() { stopped } else { never };
            let mut condition = json!({"type": kind, "status": "Unknown", "reason": reason, "message": message,
                "lastTransitionTime": time::format(now)});
            if let Some(known) = known {
                condition["lastHeartbeatTime"] = known["lastHeartbeatTime"].clone();
            }
            Some(condition)
        })
        .collect();
    (!changed.is_empty()).then(|| json!({"status": {"conditions": changed}}))
}

/// The taints that a node's conditions call for, beside those that others gave it; `None` if it has just these.
///
/// With `evicts` pods that do not bear it have to leave a node that is not ready; without, no more of them come.
pub fn taints(node: &Value, evicts: bool, now: Timestamp) -> Option<Value> {
    let present = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let wanted = wanted(node, evicts);
    let is_kept = |taint: &Value| !is_managed(taint) || wanted.iter().any(|(key, effect)| is(taint, key, effect));
    let mut result: Vec<Value> = present.iter().filter(|taint| is_kept(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !present.iter().any(|taint| is(taint, key, effect)) {
            result.push(json!({"key": key, "effect": effect, "timeAdded": time::format(now)}));
        }
    }
    (result != present).then(|| result.into())
}

fn wanted(node: &Value, evicts: bool) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    let troubled = match health(node) {
        Health::Ready | Health::New => None,
        Health::NotReady => Some(NOT_READY),
        Health::Silent => Some(UNREACHABLE),
    };
    if let Some(key) = troubled {
        wanted.push((key, "NoSchedule"));
        let is_told = node["spec"]["taints"].as_array().into_iter().flatten().any(|taint| is(taint, key, "NoExecute"));
        if evicts || is_told {
            wanted.push((key, "NoExecute"));
        }
    }
    let is_true = |kind: &str| condition(node, kind).is_some_and(|condition| condition["status"] == "True");
    wanted.extend(PRESSURES.into_iter().filter(|(kind, _)| is_true(kind)).map(|(_, key)| (key, "NoSchedule")));
    if node["spec"]["unschedulable"] == true {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

fn is(taint: &Value, key: &str, effect: &str) -> bool {
    taint["key"] == key && taint["effect"] == effect
}

/// Whether the taint is one that only conditions give.
fn is_managed(taint: &Value) -> bool {
    let keys = PRESSURES.map(|(_, key)| key);
    let own = [NOT_READY, UNREACHABLE, UNSCHEDULABLE];
    taint["key"].as_str().is_some_and(|key| keys.contains(&key) || own.contains(&key))
}

/// Whether the NoExecute taint of trouble is missing, which pods would have to leave for.
pub fn wants_eviction(node: &Value) -> bool {
    health(node) != Health::Ready
        && taints(node, true, Timestamp::UNIX_EPOCH) != taints(node, false, Timestamp::UNIX_EPOCH)
}

/// Whether pods may be made to leave nodes at all. Where all nodes are silent, or most of a small cluster's, it is rather the
/// server that is cut off, and pods have nowhere to go (upstream's rules for a zone).
pub fn may_evict(nodes: usize, troubled: usize) -> bool {
    const SMALL: usize = 50;
    let mostly = troubled > 2 && troubled * 100 >= nodes * 55;
    troubled < nodes && !(mostly && nodes <= SMALL)
}

/// The condition of a pod whose node has fallen silent; `None` if it says so already.
pub fn unready(pod: &Value, now: Timestamp) -> Option<Value> {
    let ready = condition(pod, "Ready").filter(|ready| ready["status"] == "True")?;
    let mut condition = ready.clone();
    condition["status"] = "False".into();
    condition["lastTransitionTime"] = time::format(now).into();
    Some(json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [condition]}}))
}

#[cfg(test)]
mod tests;

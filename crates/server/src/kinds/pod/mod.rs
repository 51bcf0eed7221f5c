//! Pod: containers that run on one node and share its network, hostname and volumes.

mod affinity;
mod columns;
mod container;
mod defaults;
mod resources;
mod spread;
mod unsupported;
mod update;
mod validate;
mod volume;
mod warnings;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Behaviour, check, selector};
use crate::tree::{at, default, integer, is_set, items, object, present, put, set, text};

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    defaults: defaults::pod,
    prepare_create,
    prepare_update,
    prepare_status: update::prepare_status,
    validate: validate::create,
    validate_update: update::validate,
    validate_status: validate::status,
    name: check::dns_subdomain,
    columns: &columns::COLUMNS,
    cells: columns::cells,
    row_conditions: columns::row_conditions,
    fields,
    warnings,
    grace: Some(grace),
    has_generation: true,
    ..Behaviour::PLAIN
};

/// How long a pod stays on a node that is not ready or cannot be reached.
const TOLERATION_SECONDS: i64 = 300;

/// A pod that does not say otherwise stays for a while where its node has troubles.
pub(crate) fn tolerate_troubles(pod: &mut Value) {
    let spec = object(pod, "spec");
    let mut tolerations = items(spec, "tolerations").to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let said = tolerations.iter().any(|toleration| {
            let (own, effect) = (text(toleration, "key"), text(toleration, "effect"));
            (own == key || own.is_empty()) && ["NoExecute", ""].contains(&effect)
        });
        if !said {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS}));
        }
    }
    if present(spec, "tolerations").is_some() || !tolerations.is_empty() {
        set(spec, "tolerations", tolerations);
    }
}

/// An update keeps the status, and what admission once filled in and the update does not name.
fn prepare_update(new: &mut Value, old: &Value) {
    put(new, "status", old.get("status").cloned());
    tolerate_troubles(new);
    let spec = object(new, "spec");
    for name in ["priority", "preemptionPolicy"] {
        if let Some(value) = present(&old["spec"], name) {
            default(spec, name, value.clone());
        }
    }
}

/// Fills in the spec of a pod that is yet to be made.
pub(crate) fn fill_spec(spec: &mut Value) {
    defaults::pod_spec(spec);
}

fn prepare_create(pod: &mut Value, now: Timestamp) {
    let labels = pod["metadata"]["labels"].clone();
    for rule in affinity::terms_mut(&mut pod["spec"]) {
        selector::narrow(rule, &labels);
    }
    let class = defaults::qos_class(&pod["spec"]);
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if !items(&pod["spec"], "schedulingGates").is_empty() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null,
            "lastTransitionTime": crate::table::rfc3339(now)});
        set(&mut status, "conditions", vec![condition]);
    }
    set(pod, "status", status);
}

/// The fields by which pods can be selected.
fn fields(pod: &Value) -> Vec<(&'static str, String)> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let of = |object: &Value, name| text(object, name).to_owned();
    let address = items(status, "podIPs").first().map(|ip| text(ip, "ip").to_owned());
    vec![
        ("spec.nodeName", of(spec, "nodeName")),
        ("spec.restartPolicy", of(spec, "restartPolicy")),
        ("spec.schedulerName", of(spec, "schedulerName")),
        ("spec.serviceAccountName", of(spec, "serviceAccountName")),
        ("spec.hostNetwork", is_set(spec, "hostNetwork").to_string()),
        ("status.phase", of(status, "phase")),
        ("status.podIP", address.clone().unwrap_or_default()),
        ("status.podIPs", address.unwrap_or_default()),
        ("status.nominatedNodeName", of(status, "nominatedNodeName")),
    ]
}

fn warnings(pod: &Value) -> Vec<String> {
    let name = text(&pod["metadata"], "name");
    let wrongs = check::dns_label(name);
    let mut warnings = Vec::new();
    if !wrongs.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            wrongs.join(" ")
        ));
    }
    warnings.extend(warnings::of(pod));
    warnings.extend(unsupported::warnings(pod));
    warnings
}

/// How long a pod gets to end: what the request says, else the pod itself. One that runs nowhere, or no more, gets no time.
fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let ended = ["Failed", "Succeeded"].contains(&text(status, "phase"));
    if text(spec, "nodeName").is_empty() || ended {
        return 0;
    }
    let period = asked.or_else(|| integer(spec, "terminationGracePeriodSeconds")).unwrap_or_default();
    if period < 0 { 1 } else { period }
}

/// Gives a pod its node, once. Answers why not.
pub(crate) fn bind(pod: &mut Value, node: &str, binding: &Value, now: Timestamp) -> Result<(), String> {
    let name = text(&pod["metadata"], "name").to_owned();
    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let bound = text(&pod["spec"], "nodeName");
    if !bound.is_empty() {
        return Err(format!("pod {name} is already assigned to node {}", api::field::quote(bound)));
    }
    if !items(&pod["spec"], "schedulingGates").is_empty() {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    set(object(pod, "spec"), "nodeName", node);
    let annotations: Vec<_> = crate::tree::entries(&binding["metadata"], "annotations")
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (key, value) in annotations {
        set(object(object(pod, "metadata"), "annotations"), &key, value);
    }
    let condition = json!({"type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": crate::table::rfc3339(now)});
    let status = object(pod, "status");
    let mut conditions: Vec<_> = items(status, "conditions").to_vec();
    conditions.retain(|old| text(old, "type") != "PodScheduled");
    conditions.push(condition);
    set(status, "conditions", conditions);
    // What was promised is kept or has been bettered.
    crate::tree::remove(status, "nominatedNodeName");
    Ok(())
}

//! Node: a machine that runs pods.

use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Behaviour, check};
use crate::table::{Column, age_cell};
use crate::tree::{at, entries, is_set, items, object, put, set, text, text_at};

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    defaults: |node| {
        let capacity = at(node, &["status", "capacity"]).cloned();
        if let (Some(capacity), None) = (capacity, at(node, &["status", "allocatable"])) {
            set(object(node, "status"), "allocatable", capacity);
        }
        one_range(node);
    },
    prepare_update: |new, old| put(new, "status", old.get("status").cloned()),
    validate,
    validate_update,
    fields: |node| vec![("spec.unschedulable", is_set(&node["spec"], "unschedulable").to_string())],
    columns: &[
        Column::NAME,
        Column::text("Status", "Whether it is ready and takes pods."),
        Column::text("Roles", "Its roles."),
        Column::AGE,
        Column::text("Version", "The version of its agent."),
        Column::wide("Internal-IP", "Its address inside the cluster."),
        Column::wide("External-IP", "Its address outside the cluster."),
        Column::wide("OS-Image", "Its operating system."),
        Column::wide("Kernel-Version", "Its kernel."),
        Column::wide("Container-Runtime", "What runs its containers."),
    ],
    cells,
    ..Behaviour::PLAIN
};

/// `podCIDR` is the old name of the first of `podCIDRs`, and wins where they differ.
fn one_range(node: &mut Value) {
    let (old, first) =
        (text_at(node, &["spec", "podCIDR"]).to_owned(), items(&node["spec"], "podCIDRs").first().cloned());
    match (old.as_str(), first) {
        ("", Some(first)) => set(object(node, "spec"), "podCIDR", first),
        ("", None) => {}
        (old, first) if first.as_ref().is_none_or(|first| first != old) => {
            set(object(node, "spec"), "podCIDRs", vec![Value::from(old)]);
        }
        _ => {}
    }
}

fn validate(node: &Value) -> Vec<FieldError> {
    let mut errors = taints(node);
    cidrs(&mut errors, node);
    errors
}

fn taints(node: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut taken = BTreeSet::new();
    let list = Path::new("metadata").child("taints");
    for (number, taint) in items(&node["spec"], "taints").iter().enumerate() {
        let path = list.index(number);
        let [key, value, effect] = ["key", "value", "effect"].map(|name| text(taint, name));
        check::report(&mut errors, &path.child("key"), key, check::label_key(key));
        let wrongs = check::label_value(value);
        if !wrongs.is_empty() {
            errors.push(FieldError::invalid(&path.child("value"), value, wrongs.join(";")));
        }
        let words = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        check::one_of(&mut errors, &path.child("effect"), effect, &words);
        if !taken.insert((key, effect)) {
            let mut error = FieldError::duplicate(&path, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
    errors
}

fn cidrs(errors: &mut Vec<FieldError>, node: &Value) {
    let path = Path::new("spec").child("podCIDRs");
    for (number, cidr) in items(&node["spec"], "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
        let good = cidr.split_once('/').is_some_and(|(address, length)| {
            check::ip_address(address).is_empty() && length.parse::<u8>().is_ok_and(|length| length <= 128)
        });
        if !good {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(&path.index(number), cidr, detail));
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = taints(new);
    let (spec, before) = (&new["spec"], &old["spec"]);
    let fixed = items(before, "podCIDRs");
    // Unlike upstream, whose nodes have one range for life: here a node claims further blocks when it needs them.
    if !items(spec, "podCIDRs").starts_with(fixed) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&Path::new("spec").child("podCIDRs"), detail));
    }
    let path = Path::new("spec").child("providerID");
    match (text(before, "providerID"), text(spec, "providerID")) {
        ("", _) => {}
        (_, "") => errors.push(FieldError::invalid(&path, Value::Null, "field cannot be cleared once set")),
        (old, new) if old != new => {
            errors.push(FieldError::invalid(&path, Value::Null, "field cannot be modified once set"));
        }
        _ => {}
    }
    errors
}

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |name| match at(node, &["status", "nodeInfo"]).map(|info| text(info, name)).unwrap_or_default() {
        "" => "<unknown>",
        value => value,
    };
    let address = |kind: &str| {
        let found = items(&node["status"], "addresses").iter().find(|address| text(address, "type") == kind);
        found.map_or("<none>", |address| text(address, "address"))
    };
    let version = at(node, &["status", "nodeInfo"]).map(|info| text(info, "kubeletVersion")).unwrap_or_default();
    vec![
        json!(text(&node["metadata"], "name")),
        json!(status(node)),
        json!(roles(node)),
        age_cell(node, now),
        json!(version),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        json!(info("osImage")),
        json!(info("kernelVersion")),
        json!(info("containerRuntimeVersion")),
    ]
}

fn status(node: &Value) -> String {
    let ready = items(&node["status"], "conditions").iter().find(|condition| text(condition, "type") == "Ready");
    let mut shown = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if is_set(&node["spec"], "unschedulable") {
        shown.push_str(",SchedulingDisabled");
    }
    shown
}

fn roles(node: &Value) -> String {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        _ if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()).map(str::to_owned),
        _ => None,
    };
    let roles: BTreeSet<_> = entries(&node["metadata"], "labels").filter_map(role).collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

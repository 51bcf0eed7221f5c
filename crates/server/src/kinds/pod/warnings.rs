//! What upstream warns the author of a Pod of: things that are allowed and yet hardly meant. In upstream's order.

use std::collections::{BTreeMap, BTreeSet};

use api::field::quote;
use api::quantity::Quantity;
use serde_json::Value;

use super::affinity::{PREFERRED, REQUIRED};
use super::defaults::plain;
use crate::tree::{at, entries, integer, items, present, text};

/// Labels of nodes that have newer names.
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// All of it.
pub(super) fn of(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut found = Vec::new();
    for (key, _) in entries(spec, "nodeSelector") {
        let old = OLD_LABELS.iter().find(|(label, _)| label == key);
        found.extend(old.map(|(label, message)| format!("spec.nodeSelector[{label}]: {message}")));
    }
    unselective(&mut found, items(spec, "topologySpreadConstraints"), "spec.topologySpreadConstraints");
    twice(&mut found, spec);
    let containers: Vec<_> = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| {
            items(spec, list).iter().enumerate().map(move |(number, item)| (item, format!("spec.{list}[{number}]")))
        })
        .collect();
    for (container, path) in &containers {
        fractions(&mut found, container, path);
        hidden_variables(&mut found, container, path);
    }
    ports(&mut found, &containers);
    for name in ["podAffinity", "podAntiAffinity"] {
        neighbours(&mut found, &spec["affinity"][name], &format!("spec.affinity.{name}"));
    }
    found
}

fn neighbours(found: &mut Vec<String>, affinity: &Value, path: &str) {
    unselective(found, items(affinity, REQUIRED), &format!("{path}.{REQUIRED}"));
    for (number, item) in items(affinity, PREFERRED).iter().enumerate() {
        if present(&item["podAffinityTerm"], "labelSelector").is_none() {
            found.push(no_pod(&format!("{path}.{PREFERRED}[{number}].podAffinityTerm")));
        }
    }
}

/// Rules about other pods that are about none.
fn unselective(found: &mut Vec<String>, rules: &[Value], path: &str) {
    let rules = rules.iter().enumerate().filter(|(_, rule)| present(rule, "labelSelector").is_none());
    found.extend(rules.map(|(number, _)| no_pod(&format!("{path}[{number}]"))));
}

fn no_pod(path: &str) -> String {
    format!("{path}.labelSelector: a null labelSelector results in matching no pod")
}

fn twice(found: &mut Vec<String>, spec: &Value) {
    let mut addresses = BTreeSet::new();
    for (number, alias) in items(spec, "hostAliases").iter().enumerate() {
        let ip = text(alias, "ip");
        if !addresses.insert(ip) {
            found.push(format!("spec.hostAliases[{number}].ip: duplicate ip {}", quote(ip)));
        }
    }
    let mut names = BTreeSet::new();
    for (number, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        let (name, path) = (text(secret, "name"), format!("spec.imagePullSecrets[{number}].name"));
        if !name.is_empty() && !names.insert(name) {
            found.push(format!("{path}: duplicate name {}", quote(name)));
        } else if name.is_empty() {
            found.push(format!("{path}: invalid empty name {}", quote(name)));
        }
    }
}

fn fractions(found: &mut Vec<String>, container: &Value, path: &str) {
    for name in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            let Some(written) = at(container, &["resources", list, name]).map(plain) else { continue };
            if Quantity::parse(&written).is_ok_and(|quantity| !quantity.is_integer()) {
                let value = quote(&written);
                found.push(format!(
                    "{path}.resources.{list}[{name}]: fractional byte value {value} is invalid, must be an integer"
                ));
            }
        }
    }
}

fn hidden_variables(found: &mut Vec<String>, container: &Value, path: &str) {
    let variables = items(container, "env");
    for (number, variable) in variables.iter().enumerate() {
        let name = text(variable, "name");
        // A later definition that builds on the earlier one is meant.
        let refers = text(variable, "value").contains(&format!("$({name})"));
        if !refers && variables[..number].iter().any(|earlier| text(earlier, "name") == name) {
            let name = quote(name);
            found.push(format!(
                "{path}.env[{number}]: hides previous definition of {name}, which may be dropped when using apply"
            ));
        }
    }
}

type Numbered<'a> = (&'a Value, String);

fn ports(found: &mut Vec<String>, containers: &[Numbered<'_>]) {
    let all = || {
        containers.iter().flat_map(|(container, path)| {
            let ports = items(container, "ports").iter().enumerate();
            ports.map(move |(number, port)| (port, format!("{path}.ports[{number}]")))
        })
    };
    let mut seen: BTreeMap<(i64, &str), Vec<Numbered<'_>>> = BTreeMap::new();
    for (port, path) in all() {
        let key = (integer(port, "containerPort").unwrap_or_default(), text(port, "protocol"));
        let others = seen.entry(key).or_default();
        for (other, other_path) in others.iter() {
            found.extend(overlap(port, other).map(|word| format!("{path}: {word} port definition with {other_path}")));
        }
        others.push((port, path));
    }
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    for (port, path) in all().filter(|(port, _)| !text(port, "name").is_empty()) {
        let name = text(port, "name");
        if let Some(other) = names.get(name) {
            let name = quote(name);
            found.push(format!(
                "{path}: duplicate port name {name} with {other}, services and probes that select ports by name will use {other}"
            ));
        } else {
            names.insert(name, path);
        }
    }
}

/// How two ports of the same number and protocol get into each other's way.
fn overlap(port: &Value, other: &Value) -> Option<&'static str> {
    let place = |port: &Value| (integer(port, "hostPort").unwrap_or_default(), text(port, "hostIP").to_owned());
    let ((host, ip), (other_host, other_ip)) = (place(port), place(other));
    match () {
        () if host == other_host && ip == other_ip => Some("duplicate"),
        () if host == 0 || other_host == 0 => Some("overlapping"),
        () if host == other_host && (ip.is_empty() != other_ip.is_empty()) => Some("dangerously ambiguous"),
        () => None,
    }
}

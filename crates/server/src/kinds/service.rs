//! Service: a name for a set of pods. Only the cluster's own `kubernetes` exists so far.

use serde_json::{Value, json};

use super::{Behaviour, check};
use crate::table::{Column, age_cell};
use crate::tree::{default, default_text, entries, integer, items, items_mut, object, put, text};

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    defaults,
    prepare_update: |new, old| put(new, "status", old.get("status").cloned()),
    name: check::dns_label,
    fields: |service| {
        let of = |name| text(&service["spec"], name).to_owned();
        vec![("spec.clusterIP", of("clusterIP")), ("spec.type", of("type"))]
    },
    columns: &[
        Column::NAME,
        Column::text("Type", "How it is reached."),
        Column::text("Cluster-IP", "Its address inside the cluster."),
        Column::text("External-IP", "Its addresses outside the cluster."),
        Column::text("Port(s)", "Its ports."),
        Column::AGE,
        Column::wide("Selector", "The labels of its pods."),
    ],
    cells: |service, now| {
        let spec = &service["spec"];
        vec![
            json!(text(&service["metadata"], "name")),
            json!(text(spec, "type")),
            json!(or_none(text(spec, "clusterIP"))),
            json!("<none>"),
            json!(ports(spec)),
            age_cell(service, now),
            json!(selector(spec)),
        ]
    },
    ..Behaviour::PLAIN
};

fn defaults(service: &mut Value) {
    let spec = object(service, "spec");
    default_text(spec, "type", "ClusterIP");
    default_text(spec, "sessionAffinity", "None");
    default_text(spec, "internalTrafficPolicy", "Cluster");
    for port in items_mut(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let same = integer(port, "port").unwrap_or_default();
        default(port, "targetPort", same);
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn ports(spec: &Value) -> String {
    let port = |port: &Value| format!("{}/{}", integer(port, "port").unwrap_or_default(), text(port, "protocol"));
    let ports: Vec<_> = items(spec, "ports").iter().map(port).collect();
    or_none(&ports.join(",")).to_owned()
}

fn selector(spec: &Value) -> String {
    let pair = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    let pairs: Vec<_> = entries(spec, "selector").map(pair).collect();
    or_none(&pairs.join(",")).to_owned()
}

//! Deployment and ReplicationController: stored and told apart from mistakes, but nothing acts on them yet; their author is told so.

use serde_json::{Value, json};

use super::{Behaviour, pod};
use crate::table::{Column, age_cell};
use crate::tree::{at, default, default_text, integer, items, object, put, text};

pub(super) const DEPLOYMENT: Behaviour = Behaviour {
    defaults: |deployment| {
        let spec = object(deployment, "spec");
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        let strategy = object(spec, "strategy");
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            let rolling = object(strategy, "rollingUpdate");
            default(rolling, "maxSurge", "25%");
            default(rolling, "maxUnavailable", "25%");
        }
        pod::fill_spec(object(object(spec, "template"), "spec"));
    },
    columns: &[
        Column::NAME,
        Column::text("Ready", "How many pods are ready."),
        Column::text("Up-to-date", "How many pods are of the newest template."),
        Column::text("Available", "How many pods have been ready for long enough."),
        Column::AGE,
        Column::wide("Containers", "Names of the containers."),
        Column::wide("Images", "Their images."),
        Column::wide("Selector", "The labels of its pods."),
    ],
    cells: |deployment, now| {
        let (wanted, status) = (count(&deployment["spec"], "replicas"), &deployment["status"]);
        let mut cells = vec![
            json!(text(&deployment["metadata"], "name")),
            json!(format!("{}/{wanted}", count(status, "readyReplicas"))),
            json!(count(status, "updatedReplicas")),
            json!(count(status, "availableReplicas")),
            age_cell(deployment, now),
        ];
        cells.extend(template_cells(deployment, &deployment["spec"]["selector"]["matchLabels"]));
        cells
    },
    ..WORKLOAD
};

pub(super) const REPLICATION_CONTROLLER: Behaviour = Behaviour {
    defaults: |controller| {
        let spec = object(controller, "spec");
        default(spec, "replicas", 1);
        pod::fill_spec(object(object(spec, "template"), "spec"));
        // What its pods are labelled with is also what it selects and is labelled with itself, unless it says so.
        let labels = at(spec, &["template", "metadata", "labels"]).cloned();
        if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|labels| !labels.is_empty())) {
            default(spec, "selector", labels.clone());
            default(object(controller, "metadata"), "labels", labels);
        }
    },
    prepare_create: |controller, _| put(controller, "status", Some(json!({"replicas": 0}))),
    columns: &[
        Column::NAME,
        Column::count("Desired", "How many pods there should be."),
        Column::count("Current", "How many pods there are."),
        Column::count("Ready", "How many pods are ready."),
        Column::AGE,
        Column::wide("Containers", "Names of the containers."),
        Column::wide("Images", "Their images."),
        Column::wide("Selector", "The labels of its pods."),
    ],
    cells: |controller, now| {
        let status = &controller["status"];
        let mut cells = vec![
            json!(text(&controller["metadata"], "name")),
            json!(count(&controller["spec"], "replicas")),
            json!(count(status, "replicas")),
            json!(count(status, "readyReplicas")),
            age_cell(controller, now),
        ];
        cells.extend(template_cells(controller, &controller["spec"]["selector"]));
        cells
    },
    ..WORKLOAD
};

const WORKLOAD: Behaviour = Behaviour {
    prepare_create: |object, _| put(object, "status", Some(json!({}))),
    prepare_update: |new, old| put(new, "status", old.get("status").cloned()),
    prepare_status: |new, old| put(new, "spec", old.get("spec").cloned()),
    warnings: |object| {
        let kind = text(object, "kind");
        vec![format!("podling stores a {kind} but does not act on it yet: no pods are made of its template")]
    },
    has_generation: true,
    ..Behaviour::PLAIN
};

fn count(parent: &Value, name: &str) -> i64 {
    integer(parent, name).unwrap_or(0)
}

fn template_cells(object: &Value, selector: &Value) -> [Value; 3] {
    let containers = items(&object["spec"]["template"]["spec"], "containers");
    let joined = |field: &str| containers.iter().map(|container| text(container, field)).collect::<Vec<_>>().join(",");
    let labels = selector.as_object().into_iter().flatten();
    let labels: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    [json!(joined("name")), json!(joined("image")), json!(labels.join(","))]
}

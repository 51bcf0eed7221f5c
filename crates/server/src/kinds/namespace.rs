//! Namespace: a room for names. It is removed only after all that is in it.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::{Behaviour, check};
use crate::table::{Column, age_cell};
use crate::tree::{at, items, object, put, set, text};

/// The finalizer that keeps a namespace until it is empty.
pub(crate) const FINALIZER: &str = "kubernetes";

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    defaults: |namespace| {
        let name = text(&namespace["metadata"], "name").to_owned();
        if !name.is_empty() {
            set(object(object(namespace, "metadata"), "labels"), "kubernetes.io/metadata.name", name);
        }
    },
    prepare_create: |namespace, _| {
        set(namespace, "status", json!({"phase": "Active"}));
        let spec = object(namespace, "spec");
        let mut finalizers = items(spec, "finalizers").to_vec();
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        set(spec, "finalizers", finalizers);
    },
    prepare_update: |new, old| {
        put(object(new, "spec"), "finalizers", at(old, &["spec", "finalizers"]).cloned());
        put(new, "status", old.get("status").cloned());
    },
    validate: |namespace| {
        let mut errors = Vec::new();
        for (number, name) in items(&namespace["spec"], "finalizers").iter().filter_map(Value::as_str).enumerate() {
            finalizer(&mut errors, name, &Path::new("spec").child("finalizers").index(number));
        }
        errors
    },
    validate_status,
    name: check::dns_label,
    fields: |namespace| {
        let phase = text(&namespace["status"], "phase");
        vec![("status.phase", phase.to_owned()), ("name", text(&namespace["metadata"], "name").to_owned())]
    },
    columns: &[Column::NAME, Column::text("Status", "Active, or Terminating."), Column::AGE],
    cells: |object, now| {
        let phase = text(&object["status"], "phase");
        vec![json!(text(&object["metadata"], "name")), json!(phase), age_cell(object, now)]
    },
    ..Behaviour::PLAIN
};

fn finalizer(errors: &mut Vec<FieldError>, name: &str, path: &Path) {
    check::report(errors, path, name, check::label_key(name));
    if !name.contains('/') && ![FINALIZER, "orphan", "foregroundDeletion"].contains(&name) {
        errors.push(FieldError::invalid(
            path,
            name,
            "name is neither a standard finalizer name nor is it fully qualified",
        ));
    }
}

fn validate_status(new: &Value, _old: &Value) -> Vec<FieldError> {
    let deleted = at(new, &["metadata", "deletionTimestamp"]).is_some();
    let phase = text(&new["status"], "phase");
    let path = Path::new("status").child("Phase");
    match (deleted, phase) {
        (false, "Active") | (true, "Terminating") => Vec::new(),
        (false, _) => vec![FieldError::invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty")],
        (true, _) => {
            vec![FieldError::invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")]
        }
    }
}

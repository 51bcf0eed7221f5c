//! Rules for the metadata that all kinds share.

use api::field::{FieldError, Path};
use api::kind::Kind;
use serde_json::Value;

use super::check::{self, Wrongs, report};
use crate::tree::{entries, integer, is_set, items, present, text};

const MAX_ANNOTATIONS: usize = 256 << 10;

/// What is wrong with the metadata of a new object.
pub(crate) fn validate(object: &Value, kind: &Kind, name: fn(&str) -> Wrongs) -> Vec<FieldError> {
    let namespaced = kind.is_namespaced();
    let meta = &object["metadata"];
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    let prefix = text(meta, "generateName");
    if !prefix.is_empty() {
        report(&mut errors, &path.child("generateName"), prefix, check::prefix(name, prefix));
    }
    match text(meta, "name") {
        "" => errors.push(FieldError::required(&path.child("name"), "name or generateName is required")),
        value => report(&mut errors, &path.child("name"), value, name(value)),
    }
    match (namespaced, text(meta, "namespace")) {
        (true, "") => errors.push(FieldError::required(&path.child("namespace"), "")),
        (true, value) => report(&mut errors, &path.child("namespace"), value, check::dns_label(value)),
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type")),
    }
    not_negative(&mut errors, meta, "generation", &path);
    shared(&mut errors, meta, &path);
    finalizers(&mut errors, meta, &path.child("finalizers"));
    qualified_finalizers(&mut errors, kind, meta, &path.child("finalizers"));
    errors
}

/// What is wrong with the metadata of a changed object.
pub(crate) fn validate_update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let (meta, before) = (&new["metadata"], &old["metadata"]);
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    if present(before, "deletionTimestamp").is_some() {
        no_new_finalizers(&mut errors, meta, before, &path.child("finalizers"));
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(&mut errors, meta.get(name), before.get(name), &path.child(name));
    }
    shared(&mut errors, meta, &path);
    qualified_finalizers(&mut errors, kind, meta, &path.child("finalizers"));
    errors
}

/// Finalizers of core kinds name a domain, unless they are Kubernetes' own.
fn qualified_finalizers(errors: &mut Vec<FieldError>, kind: &Kind, meta: &Value, path: &Path) {
    let own = ["kubernetes", "orphan", "foregroundDeletion"];
    for (number, name) in items(meta, "finalizers").iter().filter_map(Value::as_str).enumerate() {
        if kind.group.is_empty() && !name.contains('/') && !own.contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path.index(number), name, detail));
        }
    }
}

/// A field that may not change.
pub(crate) fn immutable(errors: &mut Vec<FieldError>, new: Option<&Value>, old: Option<&Value>, path: &Path) {
    let plain = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
    if plain(new) != plain(old) {
        errors.push(FieldError::invalid(path, new.cloned().unwrap_or_default(), "field is immutable"));
    }
}

fn shared(errors: &mut Vec<FieldError>, meta: &Value, path: &Path) {
    labels(errors, meta, "labels", &path.child("labels"));
    annotations(errors, meta, &path.child("annotations"));
    owners(errors, meta, &path.child("ownerReferences"));
}

/// A map of labels.
pub(crate) fn labels(errors: &mut Vec<FieldError>, object: &Value, name: &str, path: &Path) {
    for (key, value) in entries(object, name) {
        report(errors, path, key, check::label_key(key));
        let value = value.as_str().unwrap_or_default();
        report(errors, path, value, check::label_value(value));
    }
}

fn annotations(errors: &mut Vec<FieldError>, meta: &Value, path: &Path) {
    let mut size = 0;
    for (key, value) in entries(meta, "annotations") {
        report(errors, path, key, check::label_key(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}

fn owners(errors: &mut Vec<FieldError>, meta: &Value, path: &Path) {
    let owners = items(meta, "ownerReferences");
    let mut controller: Option<String> = None;
    for (number, owner) in owners.iter().enumerate() {
        let path_here = path.index(number);
        for name in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, name).is_empty() {
                errors.push(FieldError::required(&path_here.child(name), "must not be empty"));
            }
        }
        if text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(&path_here, owner.clone(), detail));
        }
        if is_set(owner, "controller") {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.push(FieldError::invalid(path, owners.to_vec(), detail));
            } else {
                controller = Some(this);
            }
        }
    }
}

fn finalizers(errors: &mut Vec<FieldError>, meta: &Value, path: &Path) {
    let names = items(meta, "finalizers");
    for name in names.iter().filter_map(Value::as_str) {
        report(errors, path, name, check::label_key(name));
    }
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has("foregroundDeletion") && has("orphan") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, names.to_vec(), detail));
    }
}

fn no_new_finalizers(errors: &mut Vec<FieldError>, meta: &Value, before: &Value, path: &Path) {
    let old = items(before, "finalizers");
    let new: Vec<_> = items(meta, "finalizers").iter().filter(|name| !old.contains(name)).collect();
    if !new.is_empty() {
        let names: Vec<_> = new.iter().map(|name| name.to_string()).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            names.join(", ")
        );
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// A number that may not be below zero.
pub(crate) fn not_negative(errors: &mut Vec<FieldError>, object: &Value, name: &str, path: &Path) {
    if let Some(value) = integer(object, name).filter(|value| *value < 0) {
        errors.push(FieldError::invalid(&path.child(name), value, "must be greater than or equal to 0"));
    }
}

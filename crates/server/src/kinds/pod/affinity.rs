//! Rules for which nodes a pod may be on, and near which other pods.

use api::field::{FieldError, Path};
use api::name;
use serde_json::Value;

use crate::kinds::check::{self, report};
use crate::kinds::selector;
use crate::tree::{integer, items, present, text};

pub(super) const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
pub(super) const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// What is wrong with `spec.affinity`.
pub(super) fn validate(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    let Some(affinity) = present(spec, "affinity") else { return };
    let path = path.child("affinity");
    if let Some(node) = present(affinity, "nodeAffinity") {
        nodes(errors, node, &path.child("nodeAffinity"));
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        pods(errors, &affinity[name], &path.child(name));
    }
}

fn nodes(errors: &mut Vec<FieldError>, node: &Value, path: &Path) {
    if let Some(required) = present(node, REQUIRED) {
        let path = path.child(REQUIRED).child("nodeSelectorTerms");
        let terms = items(required, "nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(FieldError::required(&path, "must have at least one node selector term"));
        }
        for (number, item) in terms.iter().enumerate() {
            term(errors, item, &path.index(number));
        }
    }
    for (number, item) in items(node, PREFERRED).iter().enumerate() {
        let path = path.child(PREFERRED).index(number);
        weight(errors, item, &path);
        term(errors, &item["preference"], &path.child("preference"));
    }
}

/// All terms and constraints of a pod that select other pods.
pub(super) fn terms_mut(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let Value::Object(spec) = spec else { return Vec::new().into_iter() };
    let mut terms = Vec::new();
    for (name, value) in spec {
        match name.as_str() {
            "topologySpreadConstraints" => terms.extend(value.as_array_mut().into_iter().flatten()),
            "affinity" => terms.extend(
                value
                    .as_object_mut()
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| *name != "nodeAffinity")
                    .flat_map(|(_, affinity)| pod_terms_mut(affinity)),
            ),
            _ => {}
        }
    }
    terms.into_iter()
}

fn pod_terms_mut(affinity: &mut Value) -> impl Iterator<Item = &mut Value> {
    let lists = affinity.as_object_mut().into_iter().flatten();
    lists.flat_map(|(name, list)| {
        let is_weighted = name == PREFERRED;
        list.as_array_mut().into_iter().flatten().filter_map(move |item| match is_weighted {
            true => item.get_mut("podAffinityTerm"),
            false => Some(item),
        })
    })
}

fn weight(errors: &mut Vec<FieldError>, item: &Value, path: &Path) {
    let weight = integer(item, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn pods(errors: &mut Vec<FieldError>, affinity: &Value, path: &Path) {
    for (number, term) in items(affinity, REQUIRED).iter().enumerate() {
        neighbours(errors, term, &path.child(REQUIRED).index(number));
    }
    for (number, item) in items(affinity, PREFERRED).iter().enumerate() {
        let path = path.child(PREFERRED).index(number);
        weight(errors, item, &path);
        neighbours(errors, &item["podAffinityTerm"], &path.child("podAffinityTerm"));
    }
}

/// One term that speaks of other pods.
fn neighbours(errors: &mut Vec<FieldError>, term: &Value, path: &Path) {
    for name in ["labelSelector", "namespaceSelector"] {
        selector::validate(errors, &term[name], &path.child(name));
    }
    for namespace in items(term, "namespaces").iter().filter_map(Value::as_str) {
        report(errors, &path.child("namespace"), namespace, check::dns_label(namespace));
    }
    label_keys(errors, term, path);
    let (key, path) = (text(term, "topologyKey"), path.child("topologyKey"));
    if key.is_empty() {
        errors.push(FieldError::required(&path, "can not be empty"));
    }
    report(errors, &path, key, name::label_key(key));
}

fn label_keys(errors: &mut Vec<FieldError>, term: &Value, path: &Path) {
    let selector = present(term, "labelSelector");
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, path) = (items(term, list), path.child(list));
        if !keys.is_empty() && selector.is_none() {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(&path, detail));
        }
        for (number, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            report(errors, &path.index(number), key, name::label_key(key));
        }
    }
    let (keys, others) = (items(term, "matchLabelKeys"), items(term, "mismatchLabelKeys"));
    for (number, key) in keys.iter().enumerate().filter(|(_, key)| others.contains(key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(FieldError::invalid(&path.child("matchLabelKeys").index(number), key.clone(), detail));
    }
    if let Some(selector) = selector {
        selector::tested_twice(errors, selector, keys, path);
    }
}

fn term(errors: &mut Vec<FieldError>, term: &Value, path: &Path) {
    for (number, test) in items(term, "matchExpressions").iter().enumerate() {
        expression(errors, test, &path.child("matchExpressions").index(number));
    }
    for (number, test) in items(term, "matchFields").iter().enumerate() {
        field(errors, test, &path.child("matchFields").index(number));
    }
}

fn expression(errors: &mut Vec<FieldError>, test: &Value, path: &Path) {
    let (values, count) = (path.child("values"), items(test, "values").len());
    match text(test, "operator") {
        "In" | "NotIn" if count == 0 => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&values, detail));
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values, detail));
        }
        "Gt" | "Lt" if count != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&values, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(test, "key");
    errors.extend(name::label_key(key).into_iter().map(|wrong| FieldError::invalid(&path.child("key"), key, wrong)));
}

fn field(errors: &mut Vec<FieldError>, test: &Value, path: &Path) {
    match text(test, "operator") {
        "In" | "NotIn" if items(test, "values").len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(&path.child("values"), detail));
        }
        "In" | "NotIn" => {}
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(test, "key");
    if key != "metadata.name" {
        errors.push(FieldError::invalid(&path.child("key"), key, "not a valid field selector key"));
    }
}

//! Rules for which nodes a pod may be on.

use api::field::{FieldError, Path};
use api::name;
use serde_json::Value;

use crate::tree::{integer, items, present, text};

/// What is wrong with `spec.affinity`, as far as it speaks of nodes.
pub(super) fn validate(errors: &mut Vec<FieldError>, spec: &Value, path: &Path) {
    let Some(node) = present(spec, "affinity").and_then(|affinity| present(affinity, "nodeAffinity")) else { return };
    let path = path.child("affinity").child("nodeAffinity");
    if let Some(required) = present(node, "requiredDuringSchedulingIgnoredDuringExecution") {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        let terms = items(required, "nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(FieldError::required(&path, "must have at least one node selector term"));
        }
        for (number, item) in terms.iter().enumerate() {
            term(errors, item, &path.index(number));
        }
    }
    let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (number, item) in items(node, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        let path = path.index(number);
        let weight = integer(item, "weight").unwrap_or(0);
        if !(1..=100).contains(&weight) {
            errors.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
        }
        term(errors, &item["preference"], &path.child("preference"));
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

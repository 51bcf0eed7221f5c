//! What may change in a Pod once it exists.

use api::field::{FieldError, Path};
use serde_json::Value;

use super::validate::{only_additions, tolerations, validate_spec};
use crate::kinds::check;
use crate::tree::{integer, items, put, remove, set, text};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What is wrong with a change of a pod.
pub(super) fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    validate_spec(&mut errors, spec, &path);
    for list in ["containers", "initContainers"] {
        if items(spec, list).len() != items(before, list).len() {
            errors.push(FieldError::forbidden(&path.child(list), "pod updates may not add or remove containers"));
            return errors;
        }
    }
    if !deadline(&mut errors, spec, before, &path.child("activeDeadlineSeconds")) {
        return errors;
    }
    only_added_tolerations(&mut errors, spec, before, &path.child("tolerations"));
    let gates = |spec| items(spec, "schedulingGates");
    if gates(spec).iter().any(|gate| !gates(before).contains(gate)) {
        let detail =
            format!("only deletion is allowed, but found new scheduling gate {}", text(&gates(spec)[0], "name"));
        errors.push(FieldError::forbidden(&path.child("schedulingGates"), detail));
    }
    let mut rest = with_old_mutables(spec, before);
    if !gates(before).is_empty() {
        if !only_additions(spec, before, "nodeSelector") {
            let detail = "only additions are allowed (no mutations or deletions)";
            let value = spec.get("nodeSelector").cloned().unwrap_or_default();
            errors.push(FieldError::invalid(&path.child("nodeSelector"), value, detail));
        }
        put(&mut rest, "nodeSelector", before.get("nodeSelector").cloned());
    }
    let changes = differences(&rest, before, "spec");
    if !changes.is_empty() {
        errors.push(FieldError::forbidden(&path, format!("{MAY_CHANGE}\n{}", changes.join("\n"))));
    }
    errors
}

/// A deadline may be set, and brought forward.
fn deadline(errors: &mut Vec<FieldError>, spec: &Value, before: &Value, path: &Path) -> bool {
    let count = errors.len();
    match (integer(spec, "activeDeadlineSeconds"), integer(before, "activeDeadlineSeconds")) {
        (Some(new), old) => {
            let wrongs = check::in_range(new, 0, i64::from(i32::MAX));
            check::report_number(errors, path, new, wrongs);
            if errors.len() == count && old.is_some_and(|old| old < new) {
                errors.push(FieldError::invalid(path, new, "must be less than or equal to previous value"));
            }
            errors.len() == count
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Value::Null, detail));
            true
        }
        (None, None) => true,
    }
}

fn only_added_tolerations(errors: &mut Vec<FieldError>, spec: &Value, before: &Value, path: &Path) {
    let timeless = |toleration: &Value| crate::tree::without(toleration, "tolerationSeconds");
    let new: Vec<_> = items(spec, "tolerations").iter().map(timeless).collect();
    if items(before, "tolerations").iter().any(|old| !new.contains(&timeless(old))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    tolerations(&mut Vec::new(), spec, path);
}

/// The new spec with everything that may change put back, so that what still differs may not.
fn with_old_mutables(spec: &Value, before: &Value) -> Value {
    let mut rest = spec.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<_> = items(before, list).iter().map(|item| item.get("image").cloned()).collect();
        for (item, image) in crate::tree::items_mut(&mut rest, list).zip(images) {
            put(item, "image", image);
        }
    }
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put(&mut rest, name, before.get(name).cloned());
    }
    let (new, old) =
        (integer(&rest, "terminationGracePeriodSeconds"), integer(before, "terminationGracePeriodSeconds"));
    if let (Some(1), Some(old)) = (new, old.filter(|old| *old < 0)) {
        set(&mut rest, "terminationGracePeriodSeconds", old);
    }
    rest
}

/// The fields in which two trees differ, one line each. Empty and absent are the same.
fn differences(new: &Value, old: &Value, path: &str) -> Vec<String> {
    if is_empty(new) && is_empty(old) || new == old {
        return Vec::new();
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            let null = Value::Null;
            let child = |name: &String| {
                let (new, old) = (a.get(name).unwrap_or(&null), b.get(name).unwrap_or(&null));
                differences(new, old, &format!("{path}.{name}"))
            };
            names.into_iter().flat_map(child).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.flat_map(|(number, (new, old))| differences(new, old, &format!("{path}[{number}]"))).collect()
        }
        _ => vec![format!("- {path}: {old}"), format!("+ {path}: {new}")],
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Takes what a status update may not touch from the old pod.
pub(super) fn prepare_status(new: &mut Value, old: &Value) {
    let owners = old["metadata"].get("ownerReferences").cloned();
    let meta = crate::tree::object(new, "metadata");
    put(meta, "ownerReferences", owners);
    put(meta, "deletionTimestamp", old["metadata"].get("deletionTimestamp").cloned());
    let before = &old["status"];
    let status = crate::tree::object(new, "status");
    crate::tree::default_text(status, "qosClass", text(before, "qosClass"));
    if integer(status, "observedGeneration").unwrap_or_default() == 0 {
        put(status, "observedGeneration", before.get("observedGeneration").cloned());
    }
    for condition in crate::tree::items_mut(status, "conditions") {
        let kind = text(condition, "type");
        let same = items(before, "conditions").iter().find(|old| text(old, "type") == kind);
        if integer(condition, "observedGeneration").unwrap_or_default() == 0 {
            put(condition, "observedGeneration", same.and_then(|same| same.get("observedGeneration")).cloned());
        }
    }
    if text(status, "qosClass").is_empty() {
        remove(status, "qosClass");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_name_the_field() {
        let (new, old) = (json!({"a": {"b": [1, {"c": 2}]}, "e": []}), json!({"a": {"b": [1, {"c": 3}]}}));
        assert_eq!(differences(&new, &old, "spec"), ["- spec.a.b[1].c: 3", "+ spec.a.b[1].c: 2"]);
    }

    #[test]
    fn a_deadline_only_comes_nearer() {
        let check = |new: Value, old: Value| {
            let mut errors = Vec::new();
            deadline(&mut errors, &new, &old, &Path::new("d"));
            errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>()
        };
        let at = |n: i64| json!({"activeDeadlineSeconds": n});
        assert_eq!(check(at(5), at(6)), [""; 0]);
        assert_eq!(check(at(7), at(6)), ["d: Invalid value: 7: must be less than or equal to previous value"]);
        assert_eq!(
            check(json!({}), at(6)),
            ["d: Invalid value: null: must not update from a positive integer to nil value"]
        );
    }
}

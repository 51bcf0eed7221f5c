//! JSON merge patches (RFC 7386), and the difference of two documents as one.

use serde_json::{Map, Value};

/// `current` with `patch` merged into it: objects field by field, null removes, anything else replaces.
pub fn apply(current: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut merged = match current {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(&key);
        } else {
            let before = merged.remove(&key).unwrap_or(Value::Null);
            merged.insert(key, apply(before, value));
        }
    }
    Value::Object(merged)
}

/// The patch that makes `modified` of `current`.
pub fn diff(current: &Value, modified: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (current, modified) else { return modified.clone() };
    let mut patch = Map::new();
    for (key, value) in to {
        match from.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                patch.insert(key.clone(), diff(before, value));
            }
            _ => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    for key in from.keys().filter(|k| !to.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

/// The patch of an apply: it removes what `original` (applied last time) had and `modified` (applied now) has no more,
/// and sets what `modified` says differently from `current`; what others put into `current` stays.
pub fn three_way(original: &Value, modified: &Value, current: &Value) -> Value {
    let changes = without(diff(current, modified), Value::is_null);
    let removals = removals(original, modified, current);
    combine(changes, removals)
}

/// Takes out what `unwanted` says, and objects that become empty by it.
fn without(value: Value, unwanted: fn(&Value) -> bool) -> Value {
    let Value::Object(map) = value else { return value };
    let mut kept = Map::new();
    for (key, value) in map {
        if unwanted(&value) {
            continue;
        }
        let had_fields = value.as_object().is_some_and(|m| !m.is_empty());
        let value = without(value, unwanted);
        if !(had_fields && value.as_object().is_some_and(Map::is_empty)) {
            kept.insert(key, value);
        }
    }
    Value::Object(kept)
}

fn removals(original: &Value, modified: &Value, current: &Value) -> Value {
    let mut patch = Map::new();
    let (Some(from), Some(to)) = (original.as_object(), modified.as_object()) else { return Value::Object(patch) };
    for (key, before) in from {
        let now = current.get(key);
        match to.get(key) {
            None if now.is_some() => drop(patch.insert(key.clone(), Value::Null)),
            Some(after) if before.is_object() && after.is_object() => {
                let inner = removals(before, after, now.unwrap_or(&Value::Null));
                if inner.as_object().is_some_and(|m| !m.is_empty()) {
                    patch.insert(key.clone(), inner);
                }
            }
            _ => {}
        }
    }
    Value::Object(patch)
}

fn combine(left: Value, right: Value) -> Value {
    match (left, right) {
        (Value::Object(mut left), Value::Object(right)) => {
            for (key, value) in right {
                let joined = match left.remove(&key) {
                    Some(before) => combine(before, value),
                    None => value,
                };
                left.insert(key, joined);
            }
            Value::Object(left)
        }
        (_, right) => right,
    }
}

//! ConfigMap: settings as text and bytes.

use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::{Behaviour, check, meta};
use crate::table::{Column, age_cell};
use crate::tree::{entries, is_set, text};

const MAX_BYTES: usize = 1 << 20;

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    validate,
    validate_update,
    columns: &[Column::NAME, Column::text("Data", "How many keys it has."), Column::AGE],
    cells: |object, now| {
        let count = entries(object, "data").chain(entries(object, "binaryData")).count();
        vec![json!(text(&object["metadata"], "name")), json!(count), age_cell(object, now)]
    },
    ..Behaviour::PLAIN
};

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for list in ["data", "binaryData"] {
        let other = if list == "data" { "binaryData" } else { "data" };
        for (key, value) in entries(object, list) {
            let path = Path::new(list).key(key);
            check::report(&mut errors, &path, key, check::config_key(key));
            if list == "data" && object.get(other).is_some_and(|map| map.get(key).is_some()) {
                errors.push(FieldError::invalid(&path, key.as_str(), "duplicate of key present in binaryData"));
            }
            let length = value.as_str().map_or(0, str::len);
            size += if list == "data" { length } else { length / 4 * 3 };
        }
    }
    if size > MAX_BYTES {
        errors.push(FieldError::too_long(&Path::default(), MAX_BYTES));
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = frozen(new, old, &["data", "binaryData"]);
    errors.extend(validate(new));
    errors
}

/// Once an object is marked as immutable, neither the mark nor the content changes.
pub(super) fn frozen(new: &Value, old: &Value, content: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !is_set(old, "immutable") {
        return errors;
    }
    let detail = "field is immutable when `immutable` is set";
    if !is_set(new, "immutable") {
        errors.push(FieldError::forbidden(&Path::new("immutable"), detail));
    }
    for name in content {
        let mut changed = Vec::new();
        meta::immutable(&mut changed, new.get(*name), old.get(*name), &Path::new(*name));
        if !changed.is_empty() {
            errors.push(FieldError::forbidden(&Path::new(*name), detail));
        }
    }
    errors
}

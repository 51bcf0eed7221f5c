//! Parts of objects, read without asking whether they are there: what is not is empty.

use std::collections::BTreeMap;

use serde_json::Value;

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn string(value: &Value) -> String {
    text(value).to_owned()
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Texts by name, such as labels.
pub(crate) fn map(value: &Value) -> BTreeMap<String, String> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), string(value))).collect()
}

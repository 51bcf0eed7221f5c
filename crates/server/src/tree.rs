//! Reading and writing objects as JSON trees. What is absent reads as empty; the strict decoder has made sure that what
//! is present has the type of the schema. Knows no kinds.

use serde_json::{Map, Value};

/// The value at a path of field names.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name)).filter(|value| !value.is_null())
}

/// A string field; empty if absent.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A string at a path; empty if absent.
pub(crate) fn text_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// An integer field.
pub(crate) fn integer(object: &Value, name: &str) -> Option<i64> {
    object.get(name).and_then(Value::as_i64)
}

/// A boolean field; false if absent.
pub(crate) fn is_set(object: &Value, name: &str) -> bool {
    object.get(name).and_then(Value::as_bool).unwrap_or_default()
}

/// The elements of a list field.
pub(crate) fn items<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The elements of a list field, to be changed.
pub(crate) fn items_mut<'a>(object: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The entries of a map field.
pub(crate) fn entries<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(name).and_then(Value::as_object).into_iter().flatten()
}

/// A field that is present and not null.
pub(crate) fn present<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// A field as an object, made if it is not there.
pub(crate) fn object<'a>(parent: &'a mut Value, name: &str) -> &'a mut Value {
    let child = fields(parent).entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child
}

/// The fields of an object; whatever else the value was gives way to an empty object.
pub(crate) fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made an object")
}

/// Sets a field.
pub(crate) fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    fields(object).insert(name.to_owned(), value.into());
}

/// Sets a field, or removes it where there is no value.
pub(crate) fn put(object: &mut Value, name: &str, value: Option<Value>) {
    match value {
        Some(value) => set(object, name, value),
        None => remove(object, name),
    }
}

/// Removes a field.
pub(crate) fn remove(object: &mut Value, name: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(name);
    }
}

/// Sets a field that is absent or null.
pub(crate) fn default(object: &mut Value, name: &str, value: impl Into<Value>) {
    if present(object, name).is_none() {
        set(object, name, value);
    }
}

/// Sets a string field that is absent or empty.
pub(crate) fn default_text(object: &mut Value, name: &str, value: &str) {
    if text(object, name).is_empty() {
        set(object, name, value);
    }
}

/// An object without one of its fields.
pub(crate) fn without(object: &Value, name: &str) -> Value {
    let mut copy = object.clone();
    remove(&mut copy, name);
    copy
}

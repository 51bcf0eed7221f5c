//! Reading and changing the metadata of an object that is a tree. Absent text reads as empty.

use serde_json::{Map, Value};

const FINALIZERS: &str = "finalizers";

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.generateName`.
pub fn prefix(object: &Value) -> &str {
    text(object, "generateName")
}

/// `metadata.namespace`.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.deletionTimestamp`, if set.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(text(object, "deletionTimestamp")).filter(|t| !t.is_empty())
}

/// `metadata.generation`.
pub fn generation(object: &Value) -> i64 {
    object.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or_default()
}

/// The metadata, made if it is not there.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    fields(fields(object).entry("metadata").or_insert_with(|| Value::Object(Map::new())))
}

/// The fields of a tree; anything but an object gives way to an empty one.
fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made an object")
}

/// Sets a field of the metadata; `None` or an empty text removes it.
pub fn set(object: &mut Value, field: &str, value: Option<&str>) {
    let metadata = metadata_mut(object);
    match value.filter(|v| !v.is_empty()) {
        Some(value) => drop(metadata.insert(field.to_owned(), value.into())),
        None => drop(metadata.remove(field)),
    }
}

/// Sets `metadata.resourceVersion`; `None` removes it.
pub fn set_resource_version(object: &mut Value, version: Option<&str>) {
    set(object, "resourceVersion", version);
}

/// Sets `metadata.generation`.
pub fn set_generation(object: &mut Value, generation: i64) {
    metadata_mut(object).insert("generation".to_owned(), generation.into());
}

fn map<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let entries = object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_object);
    entries.into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()))
}

/// The labels.
pub fn labels(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    map(object, "labels")
}

/// One label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// The annotations.
pub fn annotations(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    map(object, "annotations")
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// Sets an annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    let map = metadata_mut(object).entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    fields(map).insert(key.to_owned(), value.into());
}

/// The finalizers.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = object.get("metadata").and_then(|m| m.get(FINALIZERS)).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// Adds a finalizer that is not there yet.
pub fn add_finalizer(object: &mut Value, name: &str) {
    if finalizers(object).any(|f| f == name) {
        return;
    }
    let list = metadata_mut(object).entry(FINALIZERS).or_insert_with(|| Value::Array(Vec::new()));
    match list.as_array_mut() {
        Some(list) => list.push(name.into()),
        None => *list = Value::Array(vec![name.into()]),
    }
}

/// Removes a finalizer, and the list with its last one. Whether it was there.
pub fn remove_finalizer(object: &mut Value, name: &str) -> bool {
    let metadata = metadata_mut(object);
    let Some(list) = metadata.get_mut(FINALIZERS).and_then(Value::as_array_mut) else { return false };
    let before = list.len();
    list.retain(|f| f != name);
    let removed = list.len() < before;
    if list.is_empty() {
        metadata.remove(FINALIZERS);
    }
    removed
}

/// The owner references as trees.
pub fn owner_references(object: &Value) -> &[Value] {
    let list = object.get("metadata").and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

/// The owner that manages the object.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|owner| owner["controller"] == true)
}

/// A name for a generateName: the prefix, cut so that the whole fits a DNS label, and five characters chosen by `random`.
/// The alphabet has no vowels, so that no words come out.
pub fn generate_name(prefix: &str, random: [u8; 5]) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    const LONGEST: usize = 63 - 5;
    let mut end = prefix.len().min(LONGEST);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let suffix = random.iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]));
    prefix[..end].chars().chain(suffix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_and_writes() {
        let mut object = json!({"metadata": {"name": "a", "labels": {"k": "v"}, "resourceVersion": "3"}});
        assert_eq!((name(&object), namespace(&object), resource_version(&object)), ("a", "", "3"));
        set_resource_version(&mut object, None);
        set_annotation(&mut object, "x", "y");
        set_generation(&mut object, 2);
        assert_eq!(
            object,
            json!({"metadata": {"name": "a", "labels": {"k": "v"}, "annotations": {"x": "y"}, "generation": 2}})
        );
        assert_eq!((label(&object, "k"), annotation(&object, "x"), generation(&object)), (Some("v"), Some("y"), 2));
        let mut bare = json!(null);
        set(&mut bare, "uid", Some("u"));
        assert_eq!(uid(&bare), "u");
    }

    #[test]
    fn finalizers_come_and_go() {
        let mut object = json!({});
        add_finalizer(&mut object, "a/b");
        add_finalizer(&mut object, "a/b");
        assert_eq!(finalizers(&object).collect::<Vec<_>>(), ["a/b"]);
        assert!(remove_finalizer(&mut object, "a/b") && !remove_finalizer(&mut object, "a/b"));
        assert_eq!(object, json!({"metadata": {}}));
    }

    #[test]
    fn owners() {
        let object = json!({"metadata": {"ownerReferences": [{"uid": "1"}, {"uid": "2", "controller": true}]}});
        assert_eq!(controller(&object).map(|o| &o["uid"]), Some(&json!("2")));
    }

    #[test]
    fn generated_names_fit() {
        assert_eq!(generate_name("web-", [0, 26, 27, 1, 255]), "web-b9bcq");
        assert_eq!(generate_name(&"a".repeat(80), [0; 5]).len(), 63);
        assert_eq!(generate_name(&"ä".repeat(40), [0; 5]).len(), 63);
    }
}

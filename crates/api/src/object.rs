//! An object as it is kept: the JSON it is served as, and its head read from it. Knows no kind's fields.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::Error;

/// The encoded JSON of an object together with what everyone asks about it. The bytes are served as they are.
#[derive(Debug, Clone)]
pub struct Object {
    bytes: Bytes,
    head: Head,
}

impl Object {
    /// Reads the head of an object that we encoded.
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        let head = Head::parse(&bytes)?;
        Ok(Self { bytes, head })
    }

    /// The encoded JSON.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What identifies and labels it.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The whole tree, parsed anew.
    pub fn value(&self) -> Result<Value, Error> {
        serde_json::from_slice(&self.bytes).map_err(|error| untyped(&error))
    }
}

/// Type and metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Head {
    /// Such as `v1`.
    pub api_version: String,
    /// Such as `Pod`.
    pub kind: String,
    /// The metadata without managedFields.
    pub metadata: Metadata,
}

impl Head {
    /// Reads type and metadata and skips the rest.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(json).map_err(|error| untyped(&error))
    }

    /// `namespace/name`, or the name alone for objects outside of namespaces.
    pub fn key(&self) -> String {
        match self.metadata.namespace.as_str() {
            "" => self.metadata.name.clone(),
            namespace => format!("{namespace}/{}", self.metadata.name),
        }
    }
}

/// The metadata that selection, garbage collection and preconditions look at. Absent text is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Unique per kind and namespace.
    pub name: String,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Unique for ever.
    pub uid: String,
    /// The revision of this version.
    pub resource_version: String,
    /// Counts changes of the spec.
    pub generation: Option<i64>,
    /// When it was made.
    pub creation_timestamp: Option<String>,
    /// When it is to be gone.
    pub deletion_timestamp: Option<String>,
    /// Seconds granted for that.
    pub deletion_grace_period_seconds: Option<i64>,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// For people and tools.
    pub annotations: BTreeMap<String, String>,
    /// Who must agree before it is gone.
    pub finalizers: Vec<String>,
    /// On whom it depends.
    pub owner_references: Vec<OwnerReference>,
}

/// A link to an owner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerReference {
    /// The owner's apiVersion.
    pub api_version: String,
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's uid, which decides.
    pub uid: String,
    /// Whether this owner manages the object.
    pub controller: Option<bool>,
    /// Whether foreground deletion of the owner waits for the object.
    pub block_owner_deletion: Option<bool>,
}

fn untyped(error: &serde_json::Error) -> Error {
    Error::Untyped(format!("object: {error}"))
}

/// An encoded object whose resourceVersion is still to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// JSON with an empty resourceVersion.
    pub bytes: Vec<u8>,
    /// Where in `bytes` its digits belong.
    pub stamp: usize,
}

/// Encodes an object for the store, which alone knows the revision; a resourceVersion in the tree is left out.
pub fn encode(object: &Value) -> Encoded {
    let mut out = Writer { bytes: Vec::with_capacity(1024), stamp: 0 };
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    out.bytes.push(b'{');
    let mut first = true;
    let has_metadata = fields.get("metadata").is_some_and(Value::is_object);
    for (name, value) in fields.iter().filter(|(name, _)| has_metadata || *name != "metadata") {
        out.key(&mut first, name);
        match value {
            Value::Object(metadata) if name == "metadata" => out.metadata(metadata),
            value => out.value(value),
        }
    }
    if !has_metadata {
        out.key(&mut first, "metadata");
        out.metadata(&empty);
    }
    out.bytes.push(b'}');
    Encoded { bytes: out.bytes, stamp: out.stamp }
}

/// Where the revision belongs in what [`encode`] has made. `None` for anything else.
pub fn stamp(json: &[u8]) -> Option<usize> {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        metadata: Meta<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta<'a> {
        #[serde(borrow)]
        resource_version: &'a RawValue,
    }
    let whole: Whole<'_> = serde_json::from_slice(json).ok()?;
    let quotes = whole.metadata.resource_version.get();
    // It is a piece of `json`, so the distance of the two is its place.
    (quotes == "\"\"").then(|| quotes.as_ptr() as usize - json.as_ptr() as usize + 1)
}

struct Writer {
    bytes: Vec<u8>,
    stamp: usize,
}

impl Writer {
    fn key(&mut self, first: &mut bool, name: &str) {
        if !std::mem::take(first) {
            self.bytes.push(b',');
        }
        serde_json::to_writer(&mut self.bytes, name).expect("memory takes all that is written");
        self.bytes.push(b':');
    }

    fn value(&mut self, value: &Value) {
        serde_json::to_writer(&mut self.bytes, value).expect("memory takes all that is written");
    }

    /// The fields with an empty resourceVersion in its place by name.
    fn metadata(&mut self, fields: &Map<String, Value>) {
        const STAMP: &str = "resourceVersion";
        self.bytes.push(b'{');
        let mut first = true;
        for (name, value) in fields.iter().filter(|(name, _)| name.as_str() < STAMP) {
            self.key(&mut first, name);
            self.value(value);
        }
        self.key(&mut first, STAMP);
        self.bytes.push(b'"');
        self.stamp = self.bytes.len();
        self.bytes.push(b'"');
        for (name, value) in fields.iter().filter(|(name, _)| name.as_str() > STAMP) {
            self.key(&mut first, name);
            self.value(value);
        }
        self.bytes.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::{Object, encode, stamp};
    use serde_json::{Value, json};

    fn stamped(object: &Value, revision: &str) -> String {
        let encoded = encode(object);
        let mut text = String::from_utf8(encoded.bytes).expect("JSON is UTF-8");
        text.insert_str(encoded.stamp, revision);
        text
    }

    #[test]
    fn leaves_room_for_the_revision() {
        let object = json!({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "9", "uid": "u"}, "spec": {}});
        assert_eq!(
            stamped(&object, "12"),
            r#"{"kind":"Pod","metadata":{"name":"a","resourceVersion":"12","uid":"u"},"spec":{}}"#
        );
        assert_eq!(stamped(&json!({}), "12"), r#"{"metadata":{"resourceVersion":"12"}}"#);
        assert_eq!(stamped(&json!({"metadata": null}), "1"), r#"{"metadata":{"resourceVersion":"1"}}"#);
        assert_eq!(stamped(&json!({"metadata": {"a": 1}}), "1"), r#"{"metadata":{"a":1,"resourceVersion":"1"}}"#);
    }

    #[test]
    fn finds_the_room_again() {
        for object in [
            json!({}),
            json!({"metadata": {"annotations": {"a": "\"resourceVersion\":\"\"", "z": 1}, "name": "a", "zzz": []}, "spec": {"metadata": {"resourceVersion": ""}}}),
            json!({"aaa": {"metadata": {"resourceVersion": ""}}, "metadata": {"resourceVersion": "9"}}),
        ] {
            let encoded = encode(&object);
            assert_eq!(stamp(&encoded.bytes), Some(encoded.stamp));
        }
        for other in ["", "{}", "[]", r#"{"metadata":{"resourceVersion":"1"}}"#, r#"{"metadata":{}}"#, "k8s\0\n"] {
            assert_eq!(stamp(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn reads_the_head() {
        let text = stamped(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n",
            "labels": {"x": "y"}, "ownerReferences": [{"uid": "u", "controller": true}]}, "spec": {"containers": []}}),
            "7",
        );
        let object = Object::parse(text.clone().into()).expect("an object");
        let head = object.head();
        assert_eq!(
            (head.kind.as_str(), head.key().as_str(), head.metadata.resource_version.as_str()),
            ("Pod", "n/a", "7")
        );
        assert_eq!(head.metadata.labels["x"], "y");
        assert_eq!(head.metadata.owner_references[0].controller, Some(true));
        assert_eq!(object.value().expect("a tree").to_string(), text);
    }

    #[test]
    fn foreign_text_is_no_object() {
        assert!(Object::parse("[]x".into()).is_err() && Object::parse("{".into()).is_err());
    }
}

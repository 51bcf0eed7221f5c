//! An object between its tree and its stored bytes, and what is derived from the bytes once for all readers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::Resource;
use crate::tree::{object, set};

/// What is read of an object's metadata without reading the rest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct OnlyHead {
    #[serde(default)]
    metadata: Head,
}

/// How a change looks to a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// What is derived from a stored version.
pub(crate) struct Derived {
    pub(crate) head: Head,
    fields: OnceLock<Vec<(&'static str, String)>>,
    frames: [OnceLock<Bytes>; 3],
    /// What admission reads of it, which judges writes to one object by many others.
    pub(crate) admission: store::Memo,
}

/// What is derived from a version; made when first asked for.
pub(crate) fn derived(entry: &store::Entry) -> Arc<Derived> {
    entry.memo.get_or(|| Derived {
        head: serde_json::from_slice::<OnlyHead>(&entry.value).unwrap_or_default().metadata,
        fields: OnceLock::new(),
        frames: Default::default(),
        admission: store::Memo::default(),
    })
}

impl Derived {
    /// The fields by which the object can be selected.
    pub(crate) fn fields(&self, resource: &Resource, entry: &store::Entry) -> &[(&'static str, String)] {
        self.fields.get_or_init(|| (resource.behaviour.fields)(&decode(entry)))
    }

    /// The object as an event of a watch, encoded once for all watchers.
    pub(crate) fn frame(&self, change: Change, entry: &store::Entry) -> Bytes {
        self.frames[change as usize].get_or_init(|| frame(change.as_str(), &entry.value)).clone()
    }
}

/// One line of a watch.
pub(crate) fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

/// The tree of a stored version. Stored bytes are our own encoding, so they can be read.
pub(crate) fn decode(entry: &store::Entry) -> Value {
    serde_json::from_slice(&entry.value).unwrap_or_else(|error| {
        tracing::error!(key = &*entry.key, %error, "a stored object cannot be read");
        Value::Null
    })
}

/// Encodes an object for the store. Its resourceVersion is left open, to be filled in by the commit.
pub(crate) fn encode(tree: &Value) -> store::Value {
    let encoded = api::object::encode(tree);
    store::Value::stamped(encoded.bytes, encoded.stamp)
}

/// What an engine that does not keep the place of the revision finds in its bytes: an object, wherever it comes from. `None` for what is none.
pub fn stored(bytes: Bytes) -> Option<store::Value> {
    if let Some(place) = api::object::stamp(&bytes) {
        return Some(store::Value::stamped(bytes, place));
    }
    let tree: Value = serde_json::from_slice(&bytes).ok()?;
    let is_object = tree["kind"].is_string() && tree["metadata"]["name"].is_string();
    is_object.then(|| encode(&tree))
}

/// An object that was not stored, as if it had been: the answer to a dry run.
pub(crate) fn unstored(key: store::Key, tree: &Value, modified: store::Revision) -> Arc<store::Entry> {
    let value = crate::table::json_bytes(tree);
    let (created, memo) = (modified, store::Memo::default());
    Arc::new(store::Entry { key, value, created, modified, stamp: None, memo })
}

/// Sets the resourceVersion of a tree.
pub(crate) fn set_revision(tree: &mut Value, revision: store::Revision) {
    set(object(tree, "metadata"), "resourceVersion", revision.to_string());
}

//! An object between its tree and its stored bytes, and what is derived of a version once for all readers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;

use super::Resource;
use crate::tree::{entries, object, set, text};

/// So many trees are kept of those that were written last: a pod is bound and runs within moments, and watchers hear of it at once. With more
/// of them each would have left the processor's caches by the time it is let go.
const RECENT: usize = 128;

/// What is read of an object's metadata without reading the rest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Head {
    fn of(tree: &Value) -> Self {
        let meta = &tree["metadata"];
        let of = |name| text(meta, name).to_owned();
        let labels = entries(meta, "labels").filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Self { name: of("name"), namespace: of("namespace"), uid: of("uid"), labels: labels.collect() }
    }
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

/// What is derived of a stored version.
#[derive(Default)]
pub(crate) struct Derived {
    head: OnceLock<Head>,
    fields: OnceLock<Vec<(&'static str, String)>>,
    kept: Mutex<Kept>,
    /// What admission reads of it, which judges writes to one object by many others.
    pub(crate) admission: store::Memo,
}

/// The tree of a version, as long as it is kept.
#[derive(Default)]
enum Kept {
    /// As it was written: it does not say its own version.
    Raw(Value),
    /// As it reads.
    Read(Arc<Value>),
    /// It has to be decoded.
    #[default]
    Forgotten,
}

/// What is derived of a version; made when first asked for.
pub(crate) fn derived(entry: &store::Entry) -> Arc<Derived> {
    entry.memo.get_or(Derived::default)
}

/// The tree of a stored version.
pub(crate) fn tree(entry: &store::Entry) -> Arc<Value> {
    derived(entry).tree(entry)
}

impl Derived {
    fn tree(&self, entry: &store::Entry) -> Arc<Value> {
        let mut kept = lock(&self.kept);
        if let Kept::Raw(raw) = &mut *kept {
            let mut tree = raw.take();
            set_revision(&mut tree, entry.modified);
            *kept = Kept::Read(Arc::new(tree));
        }
        match &*kept {
            Kept::Read(tree) => tree.clone(),
            _ => Arc::new(decode(entry)),
        }
    }

    /// What identifies and labels it.
    pub(crate) fn head(&self, entry: &store::Entry) -> &Head {
        let read = || serde_json::from_slice::<OnlyHead>(&entry.value).unwrap_or_default().metadata;
        self.head.get_or_init(|| match &*lock(&self.kept) {
            Kept::Raw(tree) => Head::of(tree),
            Kept::Read(tree) => Head::of(tree),
            Kept::Forgotten => read(),
        })
    }

    /// The fields by which the object can be selected.
    pub(crate) fn fields(&self, resource: &Resource, entry: &store::Entry) -> &[(&'static str, String)] {
        self.fields.get_or_init(|| (resource.behaviour.fields)(&self.tree(entry)))
    }
}

/// The versions that were written last, whose trees are still there.
#[derive(Default)]
pub(crate) struct Recent(Mutex<VecDeque<Arc<Derived>>>);

impl Recent {
    /// Encodes an object for the store. Its resourceVersion is left open, to be filled in by the commit.
    ///
    /// The trees of kinds whose objects are written by one after the other (those that have a spec and a status) are kept for a while.
    pub(crate) fn encode(&self, resource: &Resource, tree: Value) -> store::Value {
        let encoded = encode(&tree);
        if !resource.behaviour.has_generation {
            return encoded;
        }
        let derived = Arc::new(Derived { kept: Mutex::new(Kept::Raw(tree)), ..Derived::default() });
        let mut recent = lock(&self.0);
        let oldest = if recent.len() < RECENT { None } else { recent.pop_front() };
        recent.push_back(derived.clone());
        drop(recent);
        if let Some(oldest) = oldest {
            *lock(&oldest.kept) = Kept::Forgotten;
        }
        store::Value { memo: store::Memo::filled(derived), ..encoded }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole at each step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one line of a watch.
pub(crate) fn frame(line: &mut BytesMut, kind: &str, object: &[u8]) {
    const AROUND: usize = 40;
    line.reserve(object.len() + AROUND);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
}

/// The tree of a stored version, read anew. Stored bytes are our own encoding, so they can be read.
pub(crate) fn decode(entry: &store::Entry) -> Value {
    serde_json::from_slice(&entry.value).unwrap_or_else(|error| {
        tracing::error!(key = &*entry.key, %error, "a stored object cannot be read");
        Value::Null
    })
}

fn encode(tree: &Value) -> store::Value {
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

//! From stored versions to response bodies.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use store::Revision;
use wire::Body;

use crate::negotiate::Form;
use crate::registry::{Change, Item, Page, Resource, object};
use crate::table::{self, Format, Include, json_bytes};

/// A response of JSON text.
pub(crate) fn json(code: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(wire::body::full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response of a JSON tree.
pub(crate) fn tree(code: StatusCode, tree: &Value) -> Response<Body> {
    json(code, json_bytes(tree))
}

/// One object.
pub(crate) fn one(
    code: StatusCode,
    resource: &Resource,
    entry: &store::Entry,
    form: Form,
    now: Timestamp,
) -> Response<Body> {
    json(code, object_bytes(resource, entry, form, now))
}

fn object_bytes(resource: &Resource, entry: &store::Entry, form: Form, now: Timestamp) -> Bytes {
    match form {
        Form::Json => stored(resource, entry),
        Form::Partial(version) => {
            let partial = table::partial(&resource.tree(entry), "PartialObjectMetadata", version);
            json_bytes(&partial)
        }
        Form::Table(format) => {
            let meta = json!({"resourceVersion": entry.modified.to_string()});
            let row = table::row(resource.behaviour, format, &object::decode(entry), now);
            json_bytes(&table::table(resource.behaviour, format, meta, vec![row], true))
        }
    }
}

/// The object's bytes as they are stored, unless it is served in another version.
fn stored(resource: &Resource, entry: &store::Entry) -> Bytes {
    match resource.conversion {
        None => entry.value.clone(),
        Some(_) => json_bytes(&resource.tree(entry)),
    }
}

/// A list.
pub(crate) fn list(resource: &Resource, page: &Page, form: Form, now: Timestamp) -> Response<Body> {
    let mut meta = Map::new();
    meta.insert("resourceVersion".to_owned(), page.revision.to_string().into());
    if !page.continue_token.is_empty() {
        meta.insert("continue".to_owned(), page.continue_token.clone().into());
    }
    if let Some(remaining) = page.remaining {
        meta.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let bytes = match form {
        Form::Json => list_bytes(resource, &page.entries, meta),
        Form::Partial(version) => {
            let items = page
                .entries
                .iter()
                .map(|entry| table::partial(&resource.tree(entry), "PartialObjectMetadata", version));
            let (items, version) = (items.collect::<Vec<_>>(), format!("meta.k8s.io/{version}"));
            json_bytes(
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": meta, "items": items}),
            )
        }
        Form::Table(format) => {
            let row = |entry: &Arc<store::Entry>| table::row(resource.behaviour, format, &object::decode(entry), now);
            let rows = page.entries.iter().map(row).collect();
            json_bytes(&table::table(resource.behaviour, format, meta.into(), rows, true))
        }
    };
    json(StatusCode::OK, bytes)
}

/// The bytes of all objects, one after the other: nothing is parsed.
fn list_bytes(resource: &Resource, entries: &[Arc<store::Entry>], meta: Map<String, Value>) -> Bytes {
    let size: usize = entries.iter().map(|entry| entry.value.len() + 1).sum();
    let mut bytes = BytesMut::with_capacity(size + 256);
    let (kind, version) = (resource.kind.kind, resource.kind.api_version());
    let opening =
        format!(r#"{{"kind":"{kind}List","apiVersion":"{version}","metadata":{},"items":["#, Value::from(meta));
    bytes.extend_from_slice(opening.as_bytes());
    for (number, entry) in entries.iter().enumerate() {
        if number > 0 {
            bytes.extend_from_slice(b",");
        }
        bytes.extend_from_slice(&stored(resource, entry));
    }
    bytes.extend_from_slice(b"]}");
    bytes.freeze()
}

/// Objects that are no longer there, as a list.
pub(crate) fn deleted_list(resource: &Resource, entries: &[Arc<store::Entry>], revision: Revision) -> Response<Body> {
    let meta = Map::from_iter([("resourceVersion".to_owned(), revision.to_string().into())]);
    json(StatusCode::OK, list_bytes(resource, entries, meta))
}

/// The lines of a watch. Tables name their columns only once, so this remembers.
pub(crate) struct Lines {
    resource: Resource,
    form: Form,
    columns_told: bool,
}

impl Lines {
    pub(crate) fn new(resource: Resource, form: Form) -> Self {
        Self { resource, form, columns_told: false }
    }

    /// Writes one item as a line.
    pub(crate) fn line(&mut self, line: &mut BytesMut, item: &Item, now: Timestamp) {
        match item {
            Item::Change(change, entry) => self.change(line, *change, entry, now),
            Item::Left(entry, revision) => {
                let value = entry.stamped_as(*revision);
                let (key, created, stamp) = (entry.key.clone(), entry.created, entry.stamp);
                let memo = store::Memo::default();
                let left = store::Entry { key, value, created, modified: *revision, stamp, memo };
                self.change(line, Change::Deleted, &left, now);
            }
            Item::Bookmark { revision, initial } => self.bookmark(line, *revision, *initial, now),
        }
    }

    fn change(&mut self, line: &mut BytesMut, change: Change, entry: &store::Entry, now: Timestamp) {
        match self.form {
            Form::Table(format) => {
                let meta = json!({"resourceVersion": entry.modified.to_string()});
                let row = table::row(self.resource.behaviour, format, &object::decode(entry), now);
                let with_columns = !std::mem::replace(&mut self.columns_told, true);
                let table = table::table(self.resource.behaviour, format, meta, vec![row], with_columns);
                object::frame(line, change.as_str(), &json_bytes(&table));
            }
            form => object::frame(line, change.as_str(), &object_bytes(&self.resource, entry, form, now)),
        }
    }

    fn bookmark(&mut self, line: &mut BytesMut, revision: Revision, initial: bool, now: Timestamp) {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Json => {
                json!({"kind": self.resource.kind.kind, "apiVersion": self.resource.kind.api_version(), "metadata": meta})
            }
            Form::Partial(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta})
            }
            Form::Table(format) => {
                // The row of an object of which nothing is known but the revision.
                let format = Format { include: Include::Metadata, ..format };
                let row = table::row(self.resource.behaviour, format, &json!({"metadata": meta}), now);
                let list = json!({"resourceVersion": revision.to_string()});
                table::table(self.resource.behaviour, format, list, vec![row], !self.columns_told)
            }
        };
        object::frame(line, "BOOKMARK", &json_bytes(&object));
    }
}

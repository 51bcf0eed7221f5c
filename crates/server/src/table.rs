//! Tables: objects as rows for people, as kubectl prints them. Knows columns and cells, not what is in them.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kinds::Behaviour;
use crate::tree::at;

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) format: &'static str,
    pub(crate) description: &'static str,
    /// Columns of priority 1 are shown only on demand.
    pub(crate) priority: u8,
}

impl Column {
    /// The name of the object.
    pub(crate) const NAME: Self = Self {
        format: "name",
        ..Self::text("Name", "The name, which is unique among those of its kind in its namespace.")
    };
    /// How old the object is.
    pub(crate) const AGE: Self = Self::text("Age", "How long ago it was created.");

    /// A column of text.
    pub(crate) const fn text(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "string", format: "", description, priority: 0 }
    }

    /// A column of numbers.
    pub(crate) const fn count(name: &'static str, description: &'static str) -> Self {
        Self { kind: "integer", ..Self::text(name, description) }
    }

    /// A column that is shown only on demand.
    pub(crate) const fn wide(name: &'static str, description: &'static str) -> Self {
        Self { priority: 1, ..Self::text(name, description) }
    }

    fn definition(&self) -> Value {
        let Self { name, kind, format, description, priority } = self;
        json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
    }
}

/// How much of the object each row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// A table's version and what its rows carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Format {
    pub(crate) version: &'static str,
    pub(crate) include: Include,
}

/// A table of some objects. `meta` is the list's metadata.
pub(crate) fn table(behaviour: &Behaviour, format: Format, meta: Value, rows: Vec<Value>, with_columns: bool) -> Value {
    let definitions: Vec<_> = behaviour.columns.iter().map(Column::definition).collect();
    let definitions = if with_columns { json!(definitions) } else { Value::Null };
    let version = format!("meta.k8s.io/{}", format.version);
    json!({"kind": "Table", "apiVersion": version, "metadata": meta, "columnDefinitions": definitions, "rows": rows})
}

/// An object's row.
pub(crate) fn row(behaviour: &Behaviour, format: Format, object: &Value, now: Timestamp) -> Value {
    let mut row = Map::new();
    row.insert("cells".to_owned(), json!((behaviour.cells)(object, now)));
    if let Some(conditions) = (behaviour.row_conditions)(object) {
        row.insert("conditions".to_owned(), conditions);
    }
    let object = match format.include {
        Include::None => Value::Null,
        Include::Metadata => partial(object, "PartialObjectMetadata", format.version),
        Include::Object => object.clone(),
    };
    row.insert("object".to_owned(), object);
    row.into()
}

/// The metadata of an object, as an object.
pub(crate) fn partial(object: &Value, kind: &str, version: &str) -> Value {
    let meta = object.get("metadata").cloned().unwrap_or_default();
    json!({"kind": kind, "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta})
}

/// The cell of the age column.
pub(crate) fn age_cell(object: &Value, now: Timestamp) -> Value {
    json!(age(at(object, &["metadata", "creationTimestamp"]).and_then(timestamp), now))
}

/// Reads a time.
pub(crate) fn timestamp(value: &Value) -> Option<Timestamp> {
    api::time::parse(value.as_str()?).ok()
}

/// A time as Kubernetes writes it: whole seconds, UTC.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    api::time::format(time)
}

/// How long ago something was, as roughly as people want to know.
pub(crate) fn age(time: Option<Timestamp>, now: Timestamp) -> String {
    time.map_or_else(|| "<unknown>".to_owned(), |time| api::time::human_duration(now.duration_since(time)))
}

/// JSON text of a tree.
pub(crate) fn json_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a tree has string keys only").into()
}

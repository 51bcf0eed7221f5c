//! From request bodies to trees: decoding, pruning and patching by the schema.

use api::codec::json::{self, Decoded, Policy};
use api::kind::{self, Kind};
use api::status::Status;
use serde_json::{Map, Value};

use crate::call::Call;
use crate::error;
use crate::registry::Target;
use crate::tree::default_text;

/// The media types of bodies.
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Reads an object of a kind. Answers it with what its author should be told.
pub(crate) async fn read(call: &mut Call, kind: &'static Kind, policy: Policy) -> Result<(Value, Vec<String>), Status> {
    let media = call.content_type();
    let bytes = call.body().await?;
    let decoded = match media.as_str() {
        "" | JSON => json::decode(kind, &bytes, policy),
        _ => return Err(Status::unsupported_media_type(&[JSON, YAML, PROTOBUF])),
    };
    let Decoded { value, warnings } = decoded.map_err(error::of_api)?;
    Ok((value, warnings))
}

fn decode(bytes: &[u8]) -> Result<Value, Status> {
    json::parse(bytes).map_err(error::of_api)
}

fn with_type(mut tree: Value, kind: &Kind) -> Value {
    default_text(&mut tree, "apiVersion", &kind.api_version());
    default_text(&mut tree, "kind", kind.kind);
    tree
}

/// Reads a body that need not say what it is.
pub(crate) async fn loose(call: &mut Call, group: &str, name: &str) -> Result<Value, Status> {
    let kind = kind::by_kind(group, "v1", name).ok_or_else(Status::unknown_path)?;
    let bytes = call.body().await?;
    Ok(with_type(decode(&bytes)?, kind))
}

/// Reads the options of a deletion; no body means none.
pub(crate) async fn delete_options(call: &mut Call) -> Result<Value, Status> {
    let bytes = call.body().await?;
    if bytes.is_empty() {
        return Ok(Map::new().into());
    }
    decode(&bytes)
}

/// A patch that has been read.
pub(crate) struct Patch {
    body: Value,
}

impl Patch {
    pub(crate) async fn read(call: &mut Call) -> Result<Self, Status> {
        let bytes = call.body().await?;
        Ok(Self { body: decode(&bytes)? })
    }

    /// Applies it. Answers the object with what its author should be told.
    pub(crate) fn apply(
        &self,
        kind: &'static Kind,
        old: &Value,
        policy: Policy,
        target: &Target,
    ) -> Result<(Value, Vec<String>), Status> {
        let _ = target;
        let mut new = old.clone();
        merge(&mut new, &self.body);
        let decoded = json::normalize(kind, &new, policy).map_err(error::of_api)?;
        Ok((decoded.value, decoded.warnings))
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let fields = crate::tree::fields(target);
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

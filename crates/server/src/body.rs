//! From request bodies to trees: decoding, pruning and patching by the schema.

use api::codec::json::{self, Decoded, Policy};
use api::codec::{protobuf, yaml};
use api::field::{FieldError, Path, quote};
use api::kind::{self, Kind};
use api::patch::{self, Form};
use api::schema;
use api::status::{Details, Resource, Status};
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::call::Call;
use crate::error;
use crate::registry::Target;
use crate::tree::default_text;

/// The media types of bodies.
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

fn unsupported() -> Status {
    Status::unsupported_media_type(&[JSON, YAML, PROTOBUF])
}

/// Reads an object of a kind. Answers it with what its author should be told.
pub(crate) async fn read(call: &mut Call, kind: &'static Kind, policy: Policy) -> Result<(Value, Vec<String>), Status> {
    let media = call.content_type();
    let bytes = call.body().await?;
    let decoded = match media.as_str() {
        "" | JSON => json::decode(kind, &bytes, policy),
        YAML => json::decode(kind, &from_yaml(&bytes)?, policy),
        PROTOBUF => protobuf::decode(kind, &bytes),
        _ => return Err(unsupported()),
    };
    let Decoded { value, warnings } = decoded.map_err(error::of_api)?;
    Ok((value, warnings))
}

/// The first document of a YAML text, as JSON.
fn from_yaml(bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let text = std::str::from_utf8(bytes).map_err(|error| Status::bad_request(format!("yaml: {error}")))?;
    let documents = yaml::decode(text).map_err(error::of_api)?;
    let first = documents.into_iter().next().unwrap_or_default();
    Ok(crate::table::json_bytes(&first).to_vec())
}

/// Reads a struct that need not say what it is.
async fn read_type(call: &mut Call, of: &str, policy: Policy) -> Result<(Value, Vec<String>), Status> {
    let media = call.content_type();
    let bytes = call.body().await?;
    if bytes.is_empty() {
        return Ok((Map::new().into(), Vec::new()));
    }
    let of = schema::lookup(of).ok_or_else(|| Status::internal(format!("no type {of} in the schema")))?;
    let decoded = match media.as_str() {
        PROTOBUF => protobuf::envelope(&bytes)
            .and_then(|envelope| protobuf::decode_type(of, envelope.raw))
            .map(|value| Decoded { value, warnings: Vec::new() }),
        YAML => json::decode_type(of, &from_yaml(&bytes)?, policy),
        "" | JSON => match json::parse(&bytes) {
            Ok(_) => json::decode_type(of, &bytes, policy),
            Err(error) => {
                return Err(Status::bad_request(format!("couldn't get version/kind; json parse error: {error}")));
            }
        },
        _ => return Err(unsupported()),
    };
    let Decoded { value, warnings } = decoded.map_err(error::of_api)?;
    Ok((value, warnings))
}

/// Reads an object that need not say what it is.
pub(crate) async fn loose(
    call: &mut Call,
    group: &str,
    name: &str,
    policy: Policy,
) -> Result<(Value, Vec<String>), Status> {
    let kind = kind::by_kind(group, "v1", name).ok_or_else(Status::unknown_path)?;
    let (mut tree, warnings) = read_type(call, kind.schema, policy).await?;
    default_text(&mut tree, "apiVersion", &kind.api_version());
    default_text(&mut tree, "kind", kind.kind);
    Ok((tree, warnings))
}

/// Reads the options of a deletion; no body means none.
pub(crate) async fn delete_options(call: &mut Call) -> Result<Value, Status> {
    let options = read_type(call, DELETE_OPTIONS, Policy::Ignore).await?.0;
    // Whoever sends an object instead of options meant something else than a deletion.
    match options.get("kind").and_then(Value::as_str) {
        None | Some("" | "DeleteOptions") => Ok(options),
        Some(other) => Err(Status::bad_request(format!(
            "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
            quote(other),
            quote(options.get("apiVersion").and_then(Value::as_str).unwrap_or_default())
        ))),
    }
}

/// A patch that has been read.
pub(crate) struct Patch {
    form: Form,
    bytes: Bytes,
}

/// The forms of patches that are understood. Server-side apply is not one yet.
const FORMS: [Form; 3] = [Form::Json, Form::Merge, Form::Strategic];

impl Patch {
    pub(crate) async fn read(call: &mut Call) -> Result<Self, Status> {
        let form = Form::from_media_type(&call.content_type()).filter(|form| FORMS.contains(form));
        let Some(form) = form else {
            let status = Status::unsupported_media_type(&FORMS.map(Form::media_type));
            return Err(status.with_details(Details::default()));
        };
        Ok(Self { form, bytes: call.body().await? })
    }

    /// Applies it. Answers the object with what its author should be told.
    pub(crate) fn apply(
        &self,
        kind: &'static Kind,
        old: &Value,
        policy: Policy,
        target: &Target,
    ) -> Result<(Value, Vec<String>), Status> {
        let patched = patch::apply(self.form, kind, old, &self.bytes).map_err(|error| match error {
            api::Error::Unprocessable(message) => Status::unprocessable(message).with_details(Details::default()),
            error => error::of_api(error),
        })?;
        let (changed, kept) = changed(patched, old);
        let Decoded { mut value, warnings } = json::normalize(kind, &changed, policy).map_err(|error| match error {
            api::Error::Strict(_) | api::Error::Malformed(_) => {
                refusal(&self.shown(with(changed, kept.clone())), &error)
            }
            error => error::of_api(error),
        })?;
        value = with(value, kept);
        check_head(&value, old, target)?;
        Ok((value, warnings))
    }

    /// What a refusal shows: what came of the patch, or for a strategic one the patch itself.
    fn shown(&self, patched: Value) -> String {
        match self.form {
            Form::Strategic => go(&json::parse(&self.bytes).unwrap_or_default()),
            _ => patched.to_string(),
        }
    }
}

/// Takes out of a patched object the fields that are as they were, which need not be brought to their normal form again.
fn changed(patched: Value, old: &Value) -> (Value, Map<String, Value>) {
    let Value::Object(fields) = patched else { return (patched, Map::new()) };
    let (kept, changed) = fields.into_iter().partition(|(name, value)| old.get(name) == Some(value));
    (Value::Object(changed), kept)
}

/// Puts fields into an object.
fn with(mut object: Value, fields: Map<String, Value>) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.extend(fields);
    }
    object
}

/// A tree as Go prints it.
fn go(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}:{}", go(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

/// A patch whose outcome is no object of the kind.
fn refusal(shown: &str, error: &api::Error) -> Status {
    let errors = [FieldError::invalid(&Path::new("patch"), shown, error.to_string())];
    Status::invalid(Resource { group: "", name: "" }, "", &errors)
}

/// What an object is cannot be patched.
fn check_head(new: &Value, old: &Value, target: &Target) -> Result<(), Status> {
    if new.get("kind") == old.get("kind") && new.get("apiVersion") == old.get("apiVersion") {
        return Ok(());
    }
    let kind = target.resource.kind.kind;
    let found = new.get("kind").and_then(Value::as_str).unwrap_or_default();
    Err(Status::bad_request(format!(
        "{found} in the patched object is not the {kind} of the request, or not of its version"
    )))
}

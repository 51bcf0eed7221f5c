//! Patches: from what is there and what a client sent to what shall be there. Which object that is, and whether it
//! may be, is for others.

pub mod json;

pub mod merge;

pub mod strategic;

use serde_json::Value;

use crate::kind::Kind;
use crate::{Error, codec};

/// The forms of patches, by their media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, which knows the keys of lists.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl Form {
    /// From a Content-Type; its parameters do not matter.
    pub fn from_media_type(text: &str) -> Option<Self> {
        Some(match text.split(';').next().unwrap_or(text).trim() {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            "application/apply-patch+yaml" => Self::Apply,
            _ => return None,
        })
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// What `current` becomes by a JSON, merge or strategic patch; not normalised yet (see [`codec::json::normalize`]).
/// Server-side apply is no patch in this sense: it also needs to know who asks.
pub fn apply(form: Form, kind: &Kind, current: &Value, patch: &[u8]) -> Result<Value, Error> {
    match form {
        Form::Json => json::apply(current, patch),
        Form::Merge => Ok(merge::apply(current.clone(), document(patch)?)),
        Form::Strategic => strategic::apply(crate::schema::lookup(kind.schema), current.clone(), document(patch)?),
        Form::Apply => Err(Error::Unprocessable("server-side apply is not a patch of this form".to_owned())),
    }
}

/// A merge patch as JSON; it has to be an object.
fn document(patch: &[u8]) -> Result<Value, Error> {
    let value = parse(patch)?;
    if value.is_object() { Ok(value) } else { Err(mistyped(&value, "map[string]interface {}")) }
}

fn mistyped(value: &Value, want: &str) -> Error {
    let word = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Error::Malformed(format!("error decoding patch: json: cannot unmarshal {word} into Go value of type {want}"))
}

/// A patch as JSON. Upstream does not say where its text is wrong.
fn parse(patch: &[u8]) -> Result<Value, Error> {
    codec::json::parse(patch).map_err(|_| Error::Malformed("invalid JSON patch".to_owned()))
}

#[cfg(test)]
mod tests;

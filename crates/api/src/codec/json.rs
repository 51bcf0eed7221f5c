//! JSON bodies: strict decoding along the schema, normalised as a round trip through Go would. What an object means
//! is not known here; defaults and validation come later.

mod text;
mod walk;

use serde_json::{Map, Value};

use crate::kind::{self, Kind};
use crate::schema::{self, Type};
use crate::{Error, field};

/// What is done about unknown and duplicate fields (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the body.
    Strict,
}

impl Policy {
    /// The value of the query parameter; empty is the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A body that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object as Go would encode it again, with its apiVersion and kind.
    pub value: Value,
    /// What was dropped, if the policy is to warn: `unknown field "spec.foo"`.
    pub warnings: Vec<String>,
}

/// Decodes the body of a create or update: an object of `kind`, whose apiVersion and kind may be left out.
pub fn decode(kind: &'static Kind, body: &[u8], policy: Policy) -> Result<Decoded, Error> {
    let of = schema_type(kind.schema)?;
    let mut walk = walk::Walk::new(body);
    let mut value = walk.document(of).map_err(|error| unrecognized(kind, &error, body))?;
    if let Some(cause) = &walk.headless {
        return Err(unrecognized(kind, cause, body));
    }
    if !value.is_object() {
        return Err(unrecognized(kind, walk.mistyped.as_deref().unwrap_or_default(), body));
    }
    check_head(kind, &mut value)?;
    if let Some(message) = walk.mistyped {
        return Err(Error::Malformed(cannot_be_handled(kind, &message)));
    }
    let warnings =
        judge(walk.complaints, policy).map_err(|e| Error::Malformed(cannot_be_handled(kind, &e.to_string())))?;
    Ok(Decoded { value, warnings })
}

/// Decodes a struct that is no object of a kind (DeleteOptions, a part of an object). Errors carry no prefix.
pub fn decode_type(of: &'static Type, body: &[u8], policy: Policy) -> Result<Decoded, Error> {
    let mut walk = walk::Walk::new(body);
    let value = walk.document(of).map_err(Error::Malformed)?;
    match walk.mistyped {
        Some(message) => Err(Error::Malformed(message)),
        None => Ok(Decoded { value, warnings: judge(walk.complaints, policy)? }),
    }
}

/// Brings a patched working form back to what [`decode`] yields; errors carry no prefix, so that
/// [`Error::Strict`] can be told apart.
pub fn normalize(kind: &Kind, value: &Value, policy: Policy) -> Result<Decoded, Error> {
    let text = serde_json::to_vec(value).map_err(|e| Error::Malformed(e.to_string()))?;
    decode_type(schema_type(kind.schema)?, &text, policy)
}

/// Reads JSON without a schema, with Go's words for what is wrong (patches, kinds made at run time).
pub fn parse(body: &[u8]) -> Result<Value, Error> {
    let mut text = text::Text::new(body);
    let read = text.token().and_then(|token| text.any(token)).and_then(|value| text.end().map(|()| value));
    read.map_err(Error::Malformed)
}

/// Upstream's sentence about a body that is of this kind but not decodable.
pub fn cannot_be_handled(kind: &Kind, cause: &str) -> String {
    format!("{} in version {} cannot be handled as a {}: {cause}", kind.kind, field::quote(kind.version), kind.kind)
}

fn schema_type(name: &str) -> Result<&'static Type, Error> {
    schema::lookup(name).ok_or_else(|| Error::Untyped(format!("no type {name} in the schema")))
}

fn judge(complaints: Vec<String>, policy: Policy) -> Result<Vec<String>, Error> {
    match policy {
        Policy::Strict if !complaints.is_empty() => Err(Error::Strict(complaints)),
        Policy::Warn => Ok(complaints),
        _ => Ok(Vec::new()),
    }
}

fn unrecognized(kind: &Kind, cause: &str, body: &[u8]) -> Error {
    let shown = summary(body);
    Error::Malformed(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {cause} ({shown})",
        kind.kind
    ))
}

/// The first bytes of a body: as text if it looks like JSON, else in hexadecimal.
pub(super) fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let head = &body[..body.len().min(SHOWN)];
    let more = if body.len() > SHOWN { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{more}", head.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// Writes apiVersion and kind as they came beside the object; what is empty was left out.
pub(super) fn set_head(value: &mut Value, api_version: &str, kind: &str) {
    if let Value::Object(map) = value {
        map.insert("apiVersion".to_owned(), api_version.into());
        map.insert("kind".to_owned(), kind.into());
    }
}

/// Fills in apiVersion and kind, or refuses those of something else.
pub(super) fn check_head(kind: &Kind, value: &mut Value) -> Result<(), Error> {
    let Value::Object(map) = value else { return Ok(()) };
    let own = kind::api_version(kind.group, kind.version);
    let found = (text_or(map, "apiVersion", &own), text_or(map, "kind", kind.kind));
    if found != (own.clone(), kind.kind.to_owned()) {
        return Err(Error::Malformed(mismatch(kind, &own, &found.0, &found.1)));
    }
    map.insert("apiVersion".to_owned(), own.into());
    map.insert("kind".to_owned(), kind.kind.into());
    Ok(())
}

fn text_or(map: &Map<String, Value>, key: &str, default: &str) -> String {
    map.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).unwrap_or(default).to_owned()
}

fn mismatch(kind: &Kind, own: &str, api_version: &str, found: &str) -> String {
    if api_version.matches('/').count() > 1 {
        let kind = kind.kind;
        return format!(
            "the object provided is unrecognized (must be of type {kind}): unexpected GroupVersion string: {api_version}"
        );
    }
    let (group, version) = kind::split_api_version(api_version);
    let handled = |cause: String| {
        format!("{found} in version {} cannot be handled as a {}: {cause}", field::quote(version), kind.kind)
    };
    match kind::by_kind(group, version, found) {
        None => handled(format!(
            "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            field::quote(found),
            field::quote(api_version)
        )),
        Some(_) if found == kind.kind => {
            format!("the API version in the data ({api_version}) does not match the expected API version ({own})")
        }
        Some(other) => handled(format!(
            "converting ({}.{found}) to ({}.{}): unknown conversion",
            other.version,
            if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() },
            kind.kind
        )),
    }
}

#[cfg(test)]
mod tests;

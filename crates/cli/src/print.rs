//! How objects and sentences reach people.

pub(crate) mod table;

use std::io::Write;

use serde_json::Value;

use crate::failure::Failure;
use crate::target;

/// How objects are shown.
#[derive(Debug, Clone)]
pub(crate) enum Format {
    /// As the server tabulates them; with all columns.
    Wide,
    /// `pod/web`.
    Name,
    /// YAML documents.
    Yaml,
    /// JSON, indented.
    Json,
}

impl Format {
    /// Reads the value of `-o`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "wide" => Ok(Self::Wide),
            "name" => Ok(Self::Name),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            other => Err(Failure::text(format!(
                "unable to match a printer suitable for the output format \"{other}\", allowed formats are: \
                 custom-columns,custom-columns-file,json,jsonpath,jsonpath-file,name,wide,yaml"
            ))),
        }
    }

    /// One object, or a list of them, as text.
    pub(crate) fn show(&self, object: &Value) -> Result<String, Failure> {
        match self {
            Self::Wide => Ok(String::new()),
            Self::Name => Ok(names(object)),
            Self::Yaml => Ok(api::codec::yaml::encode(&public(object))),
            Self::Json => Ok(json(&public(object))),
        }
    }
}

/// Prints text as it is. A reader that has gone away ends the program, as it ends others in a pipe.
pub(crate) fn out(text: &str) {
    bytes(text.as_bytes());
}

/// Prints bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Prints a line.
pub(crate) fn line(text: &str) {
    out(&format!("{text}\n"));
}

/// Prints a line on standard error.
pub(crate) fn complain(text: &str) {
    // Who does not listen to complaints is not told so.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// JSON in kubectl's layout: four blanks a level.
fn json(value: &Value) -> String {
    use serde::Serialize;
    let mut buffer = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut buffer, formatter);
    if value.serialize(&mut serializer).is_err() {
        return String::new();
    }
    buffer.push(b'\n');
    // Go escapes what a browser might misread.
    let text = String::from_utf8_lossy(&buffer).into_owned();
    text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// An object without the record of who wrote which field.
fn public(object: &Value) -> Value {
    let mut object = object.clone();
    strip(&mut object);
    if let Some(items) = object["items"].as_array_mut() {
        items.iter_mut().for_each(strip);
    } else if let Some(fields) = object.as_object_mut()
        && fields.get("items").is_some_and(Value::is_null)
    {
        fields.remove("items");
    }
    object
}

fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn names(object: &Value) -> String {
    let one = |object: &Value| {
        let word = target::of_object(object)
            .map_or_else(|| object["kind"].as_str().unwrap_or_default().to_ascii_lowercase(), target::word);
        format!("{word}/{}\n", api::meta::name(object))
    };
    match object.get("items").and_then(Value::as_array) {
        Some(items) => items.iter().map(one).collect(),
        None => one(object),
    }
}

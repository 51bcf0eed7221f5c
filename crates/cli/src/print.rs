//! How objects and sentences reach people.

mod columns;
pub(crate) mod jsonpath;
pub(crate) mod table;
pub(crate) mod tabs;

use std::io::Write;

use serde_json::Value;

use crate::failure::Failure;
use crate::target;
use columns::Column;
use jsonpath::Template;

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
    /// What a template makes of them.
    JsonPath {
        /// As it was given.
        text: String,
        /// As it was read.
        template: Template,
    },
    /// A table of one's own.
    Columns(Vec<Column>),
}

impl Format {
    /// Reads the value of `-o`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (word, argument) = text.split_once('=').unwrap_or((text, ""));
        match word {
            "jsonpath" => Self::json_path(argument),
            "jsonpath-file" => Self::json_path(&read(argument)?),
            "custom-columns" => columns::parse(argument).map(Self::Columns),
            "custom-columns-file" => {
                let text = read(argument)?;
                let (headers, paths) = text.split_once('\n').unwrap_or((&text, ""));
                let pairs = headers.split_whitespace().zip(paths.split_whitespace());
                let pairs: Vec<String> = pairs.map(|(header, path)| format!("{header}:{path}")).collect();
                columns::parse(&pairs.join(",")).map(Self::Columns)
            }
            "wide" => Ok(Self::Wide),
            "name" => Ok(Self::Name),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            _ => Err(Failure::text(format!(
                "unable to match a printer suitable for the output format \"{text}\", allowed formats are: \
                 custom-columns,custom-columns-file,json,jsonpath,jsonpath-file,name,wide,yaml"
            ))),
        }
    }

    fn json_path(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Err(Failure::text("template format specified but no template given"));
        }
        let template =
            Template::parse(text).map_err(|error| Failure::text(format!("error parsing jsonpath {text}, {error}")))?;
        Ok(Self::JsonPath { text: text.to_owned(), template })
    }

    /// One object, or a list of them, as text.
    pub(crate) fn show(&self, object: &Value) -> Result<String, Failure> {
        match self {
            Self::Wide => Ok(String::new()),
            Self::Name => Ok(names(object)),
            Self::Yaml => Ok(api::codec::yaml::encode(&public(object))),
            Self::Json => Ok(json(&public(object))),
            Self::JsonPath { text, template } => template.render(object).map_err(|error| {
                Failure::text(format!(
                    "error executing jsonpath \"{}\": Error executing template: {error}",
                    text.escape_default()
                ))
            }),
            Self::Columns(columns) => columns::show(columns, object, true),
        }
    }
}

fn read(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::text(format!("error reading template {path}, {error}")))
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

/// Prints bytes on standard error.
pub(crate) fn error_bytes(bytes: &[u8]) {
    // Who does not listen to complaints is not told so.
    drop(std::io::stderr().lock().write_all(bytes));
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

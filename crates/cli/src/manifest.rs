//! Objects out of files, directories and standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use api::kind::Kind;
use serde_json::Value;

use crate::failure::Failure;
use crate::session::Session;
use crate::target;

/// The files that a command reads.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Files {
    /// File, directory, or - for standard input; JSON or YAML, any number of documents (may be repeated)
    #[arg(short, long = "filename", value_name = "FILE", value_delimiter = ',')]
    pub(crate) filename: Vec<String>,
    /// Read the directories below a directory too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

/// One object of a file.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// The file, or `STDIN`.
    pub(crate) source: String,
    pub(crate) kind: &'static Kind,
    /// Where the object belongs; empty if its kind has no namespaces.
    pub(crate) namespace: String,
    pub(crate) object: Value,
}

impl Document {
    pub(crate) fn name(&self) -> &str {
        api::meta::name(&self.object)
    }

    /// `pod/web`.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", target::word(self.kind), self.name())
    }

    pub(crate) fn path(&self) -> String {
        crate::session::object(self.kind, &self.namespace, self.name())
    }
}

impl Files {
    /// All objects, and what could not be read.
    pub(crate) fn read(&self, session: &Session) -> (Vec<Document>, Vec<Failure>) {
        let (mut documents, mut failures) = (Vec::new(), Vec::new());
        for argument in &self.filename {
            match self.one(argument) {
                Ok(texts) => {
                    for (source, text) in texts {
                        take(session, &source, &text, &mut documents, &mut failures);
                    }
                }
                Err(failure) => failures.push(failure),
            }
        }
        if documents.is_empty() && failures.is_empty() {
            failures.push(Failure::text("no objects passed to create"));
        }
        (documents, failures)
    }

    /// All objects as the server has them, and what could not be read or found.
    pub(crate) async fn fetch(&self, session: &Session) -> (Vec<(&'static Kind, Value)>, Vec<Failure>) {
        let (documents, mut failures) = self.read(session);
        let mut objects = Vec::new();
        for document in documents {
            match session.get(&document.path()).await {
                Ok(object) => objects.push((document.kind, object)),
                Err(failure) => failures.push(failure),
            }
        }
        (objects, failures)
    }

    fn one(&self, argument: &str) -> Result<Vec<(String, String)>, Failure> {
        if argument == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            return Ok(vec![("STDIN".to_owned(), text)]);
        }
        let path = Path::new(argument);
        let about = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::text(format!("the path \"{argument}\" does not exist")),
            _ => Failure::text(format!("the path \"{argument}\" cannot be accessed: {error}")),
        };
        let is_directory = std::fs::metadata(path).map_err(about)?.is_dir();
        let mut paths = Vec::new();
        if is_directory {
            self.walk(path, &mut paths)?;
        } else {
            paths.push(path.to_owned());
        }
        if paths.is_empty() {
            return Err(Failure::text(format!(
                "error reading [{argument}]: recognized file extensions are [.json .yaml .yml]"
            )));
        }
        let read = |path: &PathBuf| {
            let text = std::fs::read(path).map_err(about)?;
            Ok((path.display().to_string(), String::from_utf8_lossy(&text).into_owned()))
        };
        paths.iter().map(read).collect()
    }

    fn walk(&self, directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
        let mut entries =
            std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, Failure>>()?;
        entries.sort();
        for path in entries {
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if path.is_dir() {
                if self.recursive {
                    self.walk(&path, found)?;
                }
            } else if matches!(extension, "json" | "yaml" | "yml") {
                found.push(path);
            }
        }
        Ok(())
    }
}

fn take(session: &Session, source: &str, text: &str, documents: &mut Vec<Document>, failures: &mut Vec<Failure>) {
    let objects = match decode(text) {
        Ok(objects) => objects,
        Err(error) => {
            failures.push(Failure::text(format!("error parsing {source}: {error}")));
            return;
        }
    };
    for object in objects.into_iter().flat_map(unfold) {
        match document(session, source, object) {
            Ok(document) => documents.push(document),
            Err(failure) => failures.push(failure),
        }
    }
}

/// The documents of a text, JSON or YAML.
fn decode(text: &str) -> Result<Vec<Value>, String> {
    if text.trim_start().starts_with('{') {
        let stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        return stream.collect::<Result<_, _>>().map_err(|error| error.to_string());
    }
    let plain = |error: api::Error| error.to_string().replace("error parsing YAML: ", "");
    api::codec::yaml::decode(text).map_err(plain)
}

/// The objects of a list.
fn unfold(mut object: Value) -> Vec<Value> {
    let is_list = object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && object["items"].is_array();
    match object["items"].take() {
        Value::Array(items) if is_list => items.into_iter().flat_map(unfold).collect(),
        items => {
            if !items.is_null() {
                object["items"] = items;
            } else if let Some(fields) = object.as_object_mut() {
                fields.remove("items");
            }
            vec![object]
        }
    }
}

fn document(session: &Session, source: &str, mut object: Value) -> Result<Document, Failure> {
    let missing =
        |field: &str| Failure::text(format!("error validating \"{source}\": error validating data: {field} not set"));
    if !object.is_object() {
        return Err(Failure::text(format!("error parsing {source}: a document is no object")));
    }
    let (version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
    let (version, kind) = match (version, kind) {
        (Some(version), Some(kind)) => (version, kind),
        (None, Some(_)) => return Err(missing("apiVersion")),
        (Some(_), None) => return Err(missing("kind")),
        (None, None) => {
            return Err(Failure::text(format!(
                "error validating \"{source}\": error validating data: [apiVersion not set, kind not set]"
            )));
        }
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let own = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let Some(row) = target::of_object(&object) else {
        return Err(Failure::text(format!(
            "resource mapping not found for name: \"{name}\" namespace: \"{own}\" from \"{source}\": no matches for kind \
             \"{kind}\" in version \"{version}\"\nensure CRDs are installed first"
        )));
    };
    if !row.is_namespaced() {
        return Ok(Document { source: source.to_owned(), kind: row, namespace: String::new(), object });
    }
    if session.is_namespace_given && !own.is_empty() && own != session.namespace {
        return Err(Failure::text(format!(
            "the namespace from the provided object \"{own}\" does not match the namespace \"{}\". You must pass \
             '--namespace={own}' to perform this operation.",
            session.namespace
        )));
    }
    let namespace = if own.is_empty() { session.namespace.clone() } else { own };
    if object["metadata"].is_object() || object["metadata"].is_null() {
        object["metadata"]["namespace"] = namespace.as_str().into();
    }
    Ok(Document { source: source.to_owned(), kind: row, namespace, object })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_and_several_documents() {
        assert_eq!(decode("{\"a\":1}\n{\"b\":2}").unwrap().len(), 2);
        assert_eq!(decode("a: 1\n---\nb: 2").unwrap().len(), 2);
        assert_eq!(decode("a: 1\nb: [").unwrap_err(), "unclosed bracket '[' at line 2, column 4");
        assert_eq!(decode("{\"a\":").unwrap_err(), "EOF while parsing a value at line 1 column 5");
    }

    #[test]
    fn a_list_is_its_items() {
        let list = serde_json::json!({"kind": "List", "items": [{"kind": "Pod"}, {"kind": "PodList", "items": [{"kind": "Pod"}]}]});
        assert_eq!(unfold(list).len(), 2);
        assert_eq!(unfold(serde_json::json!({"kind": "Pod"})), [serde_json::json!({"kind": "Pod"})]);
    }
}

//! `apply`: makes objects be as files say, and leaves alone what files never said.

use api::kind::Kind;
use api::patch::strategic;
use client::Patch;
use client::resource::with_query;
use http::Method;
use serde_json::Value;

use crate::create::{DryRun, LAST_APPLIED, Writing, remember};
use crate::failure::Failure;
use crate::manifest::{Document, Files};
use crate::print;
use crate::session::{Call, Connection, Session, collection};

const MANAGER: &str = "kubectl-client-side-apply";

/// The options of `apply`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    writing: Writing,
}

/// Applies files.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    if options.files.filename.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    let session = options.connection.open()?;
    let (documents, mut failures) = options.files.read(&session);
    for document in documents {
        failures.extend(apply(&session, document, &options.writing).await.err());
    }
    Failure::of(failures)
}

async fn apply(session: &Session, document: Document, writing: &Writing) -> Result<(), Failure> {
    let label = document.label();
    let path = document.path();
    let current = match session.get(&path).await {
        Ok(current) => current,
        Err(failure) if failure.is_not_found() => return create(session, document, writing).await,
        Err(failure) => return Err(failure.while_doing("retrieving current configuration of", &document.source)),
    };
    if current["metadata"]["annotations"][LAST_APPLIED].is_null() {
        print::complain(&format!(
            "Warning: resource {}/{} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. kubectl \
             apply should only be used on resources created declaratively by either kubectl create --save-config or \
             kubectl apply. The missing annotation will be patched automatically.",
            document.kind.plural,
            document.name()
        ));
    }
    let (patch, changed) = difference(document.kind, &document.object, &current);
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return writing.tell(&label, "unchanged", &current);
    }
    if writing.dry_run == DryRun::Client {
        return writing.tell(&label, "configured", &changed);
    }
    let path = with_query(&path, &writing.query(MANAGER)?);
    let call = Call::write(Method::PATCH, path, &patch).media(Patch::Strategic.media_type());
    let patched =
        session.call(call).await.map_err(|failure| failure.while_doing("applying patch to", &document.source))?;
    let is_same = patched["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"];
    writing.tell(&label, if is_same { "unchanged" } else { "configured" }, &patched)
}

async fn create(session: &Session, document: Document, writing: &Writing) -> Result<(), Failure> {
    let label = document.label();
    let mut object = document.object;
    remember(&mut object);
    if writing.dry_run == DryRun::Client {
        return writing.tell(&label, "created", &object);
    }
    let namespace = document.kind.is_namespaced().then_some(document.namespace.as_str());
    let path = with_query(&collection(document.kind, namespace), &writing.query(MANAGER)?);
    let created = session.call(Call::write(Method::POST, path, &object)).await;
    let created = created.map_err(|failure| failure.while_doing("creating", &document.source))?;
    writing.tell(&label, "created", &created)
}

/// The patch from what is there to what the file says, given what the file said before; and what comes of it.
fn difference(kind: &Kind, wanted: &Value, current: &Value) -> (Value, Value) {
    let before = current["metadata"]["annotations"][LAST_APPLIED].as_str();
    let before: Value = before.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let before = if before.is_object() { before } else { Value::Object(serde_json::Map::new()) };
    let mut wanted = wanted.clone();
    remember(&mut wanted);
    let of = api::schema::lookup(kind.schema);
    let patch = strategic::three_way(of, &before, &wanted, current);
    let changed = strategic::apply(of, current.clone(), patch.clone()).unwrap_or_else(|_| current.clone());
    (patch, changed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::difference;
    use crate::create::{LAST_APPLIED, remember};

    #[test]
    fn only_what_the_file_said_changes() {
        let kind = crate::target::kind("cm").unwrap();
        let mut before = json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "gone": "x"}});
        remember(&mut before);
        let mut current = before.clone();
        current["data"]["other"] = "kept".into();
        let wanted = json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "2"}});
        let (patch, changed) = difference(kind, &wanted, &current);
        assert_eq!(patch["data"], json!({"a": "2", "gone": null}));
        assert_eq!(changed["data"], json!({"a": "2", "other": "kept"}));
        let (again, _) = difference(kind, &wanted, &changed);
        assert_eq!(again, json!({}));
        assert!(changed["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap().ends_with("}\n"));
    }
}

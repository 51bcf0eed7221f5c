//! `create`: makes objects of files, or namespaces, config maps and secrets of what is said on the command line.

use client::resource::with_query;
use http::Method;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::manifest::{Document, Files};
use crate::print::{self, Format};
use crate::session::{Call, Connection, Session, collection};

/// The options of `create`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    writing: Writing,
    #[command(subcommand)]
    noun: Option<Noun>,
}

/// How objects are written and what is shown of it.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Writing {
    /// Change nothing: do not ask the server at all (client), or let it only check (server)
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_value = "none", default_missing_value = "unchanged")]
    pub(crate) dry_run: DryRun,
    /// How to show the object: yaml, json, name, jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<String>,
    /// What becomes of fields that the server does not know: strict, warn, ignore
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_value = "strict", default_missing_value = "strict")]
    pub(crate) validate: String,
    /// Keep the object as given in an annotation, so that it can be applied later
    #[arg(long)]
    pub(crate) save_config: bool,
}

/// Where a dry run happens.
#[derive(clap::ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum DryRun {
    /// Nowhere: it is meant.
    #[default]
    None,
    /// Here.
    #[value(alias = "unchanged")]
    Client,
    /// In the server.
    Server,
}

#[derive(clap::Subcommand, Debug)]
enum Noun {
    /// Create a namespace
    #[command(visible_alias = "ns")]
    Namespace(Plain),
    /// Create a config map
    #[command(visible_alias = "cm")]
    Configmap(Keyed),
    /// Create a secret
    #[command(subcommand)]
    Secret(Secret),
    /// Create a service account
    #[command(visible_alias = "sa")]
    Serviceaccount(Plain),
}

#[derive(clap::Subcommand, Debug)]
enum Secret {
    /// Of files or literals
    Generic(Keyed),
}

#[derive(clap::Args, Debug)]
struct Plain {
    /// Its name
    name: String,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    writing: Writing,
}

#[derive(clap::Args, Debug)]
struct Keyed {
    #[command(flatten)]
    plain: Plain,
    /// A key and its value (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
    /// A file, under its own name or another; or a directory of files (may be repeated)
    #[arg(long, value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
    /// The type of a secret
    #[arg(long, value_name = "TYPE", default_value = "Opaque")]
    r#type: String,
}

impl DryRun {
    /// What is said behind the verb.
    pub(crate) fn note(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

impl Writing {
    /// The query of a write by `manager`.
    pub(crate) fn query(&self, manager: &'static str) -> Result<Vec<(&'static str, &'static str)>, Failure> {
        let validation = match self.validate.as_str() {
            "strict" | "true" => "Strict",
            "warn" => "Warn",
            "ignore" | "false" => "Ignore",
            other => return Err(Failure::text(format!("invalid - validate option \"{other}\""))),
        };
        let mut query = vec![("fieldManager", manager), ("fieldValidation", validation)];
        if self.dry_run == DryRun::Server {
            query.insert(0, ("dryRun", "All"));
        }
        Ok(query)
    }

    /// Tells what became of an object: by `-o`, or in a sentence.
    pub(crate) fn tell(&self, label: &str, verb: &str, object: &Value) -> Result<(), Failure> {
        match self.output.as_deref().map(Format::parse).transpose()? {
            None => print::line(&format!("{label} {verb}{}", self.dry_run.note())),
            Some(Format::Name) => print::line(label),
            Some(format) => print::out(&format.show(object)?),
        }
        Ok(())
    }
}

/// Creates objects.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    match options.noun {
        None => of_files(&options.connection, &options.files, &options.writing).await,
        Some(Noun::Namespace(plain)) => {
            make(&plain, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": plain.name}, "spec": {}, "status": {}})).await
        }
        Some(Noun::Serviceaccount(plain)) => {
            make(&plain, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": plain.name}})).await
        }
        Some(Noun::Configmap(keyed)) => make(&keyed.plain, config_map(&keyed)?).await,
        Some(Noun::Secret(Secret::Generic(keyed))) => make(&keyed.plain, secret(&keyed)?).await,
    }
}

async fn of_files(connection: &Connection, files: &Files, writing: &Writing) -> Result<(), Failure> {
    if files.filename.is_empty() {
        return Err(Failure::text("must specify one of -f and -k"));
    }
    let session = connection.open()?;
    let (documents, mut failures) = files.read(&session);
    let mut several = documents.len() > 1;
    for document in documents {
        if std::mem::take(&mut several) && matches!(writing.output.as_deref(), Some("yaml")) {
            several = true;
            print::out(if failures.is_empty() { "" } else { "---\n" });
        }
        if let Err(failure) = create(&session, &document, writing).await {
            failures.push(failure.while_doing("creating", &document.source));
        }
    }
    Failure::of(failures)
}

/// Creates one object and tells of it.
async fn create(session: &Session, document: &Document, writing: &Writing) -> Result<(), Failure> {
    let mut object = document.object.clone();
    if writing.save_config {
        crate::create::remember(&mut object);
    }
    let label = document.label();
    if writing.dry_run == DryRun::Client {
        return writing.tell(&label, "created", &object);
    }
    let namespace = document.kind.is_namespaced().then_some(document.namespace.as_str());
    let path = with_query(&collection(document.kind, namespace), &writing.query("kubectl-create")?);
    let created = session.call(Call::write(Method::POST, path, &object)).await?;
    let label = format!("{}/{}", crate::target::word(document.kind), api::meta::name(&created));
    writing.tell(&label, "created", &created)
}

/// The annotation in which `apply` keeps what it was given.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Keeps an object as it was given inside itself.
pub(crate) fn remember(object: &mut Value) {
    // An empty map is kept too, as kubectl keeps it: whoever applies next finds no difference.
    match object["metadata"]["annotations"].as_object_mut() {
        Some(annotations) => drop(annotations.remove(LAST_APPLIED)),
        None => object["metadata"]["annotations"] = Value::Object(serde_json::Map::new()),
    }
    let text = format!("{object}\n");
    api::meta::set_annotation(object, LAST_APPLIED, &text);
}

/// Creates an object that was described on the command line.
async fn make(plain: &Plain, mut object: Value) -> Result<(), Failure> {
    let session = plain.connection.open()?;
    let kind = crate::target::of_object(&object).ok_or_else(|| Failure::text("no such kind"))?;
    let namespace = kind.is_namespaced().then_some(session.namespace.as_str());
    if session.is_namespace_given && kind.is_namespaced() {
        object["metadata"]["namespace"] = session.namespace.as_str().into();
    }
    let label = format!("{}/{}", crate::target::word(kind), plain.name);
    let writing = &plain.writing;
    if writing.dry_run == DryRun::Client {
        return writing.tell(&label, "created", &object);
    }
    let path = with_query(&collection(kind, namespace), &writing.query("kubectl-create")?);
    let created = session.call(Call::write(Method::POST, path, &object)).await?;
    writing.tell(&label, "created", &created)
}

fn config_map(keyed: &Keyed) -> Result<Value, Failure> {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": keyed.plain.name}});
    for (key, content) in keyed.content()? {
        match String::from_utf8(content) {
            Ok(text) => object["data"][key] = text.into(),
            Err(error) => object["binaryData"][key] = base64(error.as_bytes()).into(),
        }
    }
    Ok(object)
}

fn secret(keyed: &Keyed) -> Result<Value, Failure> {
    let metadata = json!({"name": keyed.plain.name});
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": keyed.r#type});
    for (key, content) in keyed.content()? {
        object["data"][key] = base64(&content).into();
    }
    Ok(object)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

impl Keyed {
    fn content(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let mut content = Vec::new();
        for file in &self.from_file {
            let (key, path) = file.split_once('=').map_or((None, file.as_str()), |(key, path)| (Some(key), path));
            self.read(key, std::path::Path::new(path), &mut content)?;
        }
        for literal in &self.from_literal {
            let pair = literal.split_once('=').filter(|(key, _)| !key.is_empty());
            let (key, value) =
                pair.ok_or_else(|| Failure::text(format!("invalid literal source {literal}, expected key=value")))?;
            content.push((key.to_owned(), value.trim_matches(['"', '\'']).as_bytes().to_vec()));
        }
        let mut keys: Vec<&String> = content.iter().map(|(key, _)| key).collect();
        keys.sort();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Failure::text(format!(
                "cannot add key \"{}\", another key by that name already exists in Data for ConfigMap \"{}\"",
                pair[0], self.plain.name
            ))),
            None => Ok(content),
        }
    }

    fn read(
        &self,
        key: Option<&str>,
        path: &std::path::Path,
        content: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<(), Failure> {
        let about = |error| Failure::text(format!("error reading {}: {error}", path.display()));
        let name = |path: &std::path::Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !path.is_dir() {
            let key = key.map_or_else(|| name(path), str::to_owned);
            content.push((key, std::fs::read(path).map_err(about)?));
            return Ok(());
        }
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(path).map_err(about)? {
            paths.push(entry.map_err(about)?.path());
        }
        paths.sort();
        for path in paths.iter().filter(|path| path.is_file()) {
            content.push((name(path), std::fs::read(path).map_err(about)?));
        }
        Ok(())
    }
}

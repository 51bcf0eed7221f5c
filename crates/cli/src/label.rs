//! `label` and `annotate`: set and remove the pairs that objects carry.

use std::collections::BTreeMap;

use api::kind::Kind;
use client::Patch;
use client::resource::with_query;
use http::Method;
use serde_json::{Value, json};

use crate::create::DryRun;
use crate::failure::Failure;
use crate::manifest::Files;
use crate::print::{self, Format};
use crate::session::{Call, Connection, Session, object};
use crate::target::{self, Selection};

/// The options of `label`.
#[derive(clap::Args, Debug)]
pub struct LabelOptions {
    #[command(flatten)]
    common: Common,
}

/// The options of `annotate`.
#[derive(clap::Args, Debug)]
pub struct AnnotateOptions {
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct Common {
    #[command(flatten)]
    connection: Connection,
    /// Objects, then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "TYPE NAME… KEY=VALUE…", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Replace values that are there
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    selection: Selection,
    /// Only if the object is at this version
    #[arg(long, value_name = "VERSION", default_value = "")]
    resource_version: String,
    /// Show what is there
    #[arg(long)]
    list: bool,
    /// Change nothing: do not ask the server at all (client), or let it only check (server)
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_value = "none", default_missing_value = "unchanged")]
    dry_run: DryRun,
    /// How to show the object: yaml, json, name, jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
}

/// Which of the two maps of an object is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Map {
    Labels,
    Annotations,
}

impl Map {
    fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Labels => "label",
            Self::Annotations => "annotation",
        }
    }

    fn manager(self) -> &'static str {
        match self {
            Self::Labels => "kubectl-label",
            Self::Annotations => "kubectl-annotate",
        }
    }
}

/// What is to become of the pairs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    set: BTreeMap<String, String>,
    remove: Vec<String>,
}

/// Sets or removes labels.
pub(crate) async fn label(options: LabelOptions) -> Result<(), Failure> {
    options.common.run(Map::Labels).await
}

/// Sets or removes annotations.
pub(crate) async fn annotate(options: AnnotateOptions) -> Result<(), Failure> {
    options.common.run(Map::Annotations).await
}

impl Common {
    async fn run(&self, map: Map) -> Result<(), Failure> {
        let (objects, pairs) = split(&self.words);
        let changes = changes(&pairs, map)?;
        if objects.is_empty() && self.files.filename.is_empty() {
            return Err(Failure::text(
                "one or more resources must be specified as <resource> <name> or <resource>/<name>",
            ));
        }
        if pairs.is_empty() && !self.list {
            return Err(Failure::text(format!("at least one {} update is required", map.word())));
        }
        let session = self.connection.open()?;
        let (found, mut failures) = self.find(&session, &objects).await?;
        if found.is_empty() && failures.is_empty() {
            print::complain("No resources found");
        }
        let is_alone = found.len() == 1;
        for (kind, current) in found {
            let done = match self.list {
                true => {
                    list(kind, &current, map, is_alone);
                    Ok(())
                }
                false => self.change(&session, kind, &current, map, &changes).await,
            };
            failures.extend(done.err());
        }
        Failure::of(failures)
    }

    async fn find(
        &self,
        session: &Session,
        objects: &[String],
    ) -> Result<(Vec<(&'static Kind, Value)>, Vec<Failure>), Failure> {
        if !self.files.filename.is_empty() {
            return Ok(self.files.fetch(session).await);
        }
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for target in target::parse(objects)? {
            let Some(name) = &target.name else {
                let items = self.selection.list(session, target.kind).await?;
                found.extend(items.into_iter().map(|item| (target.kind, item)));
                continue;
            };
            match session.get(&session.object(target.kind, name)).await {
                Ok(object) => found.push((target.kind, object)),
                Err(failure) => failures.push(failure),
            }
        }
        Ok((found, failures))
    }

    async fn change(
        &self,
        session: &Session,
        kind: &'static Kind,
        current: &Value,
        map: Map,
        changes: &Changes,
    ) -> Result<(), Failure> {
        let have = &current["metadata"][map.field()];
        if !self.overwrite {
            refuse_overwriting(have, map, changes)?;
        }
        if map == Map::Labels {
            for key in changes.remove.iter().filter(|key| have[key.as_str()].is_null()) {
                print::line(&format!("label \"{key}\" not found."));
            }
        }
        let mut pairs: serde_json::Map<String, Value> =
            changes.set.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        pairs.extend(changes.remove.iter().map(|key| (key.clone(), Value::Null)));
        let mut patch = json!({"metadata": {map.field(): pairs}});
        if !self.resource_version.is_empty() {
            patch["metadata"]["resourceVersion"] = self.resource_version.as_str().into();
        }
        let changed = match self.dry_run {
            DryRun::Client => api::patch::merge::apply(current.clone(), patch),
            _ => self.send(session, kind, current, map, &patch).await?,
        };
        let label = format!("{}/{}", target::word(kind), api::meta::name(current));
        match self.output.as_deref().map(Format::parse).transpose()? {
            Some(Format::Name) => print::line(&label),
            Some(format) => print::out(&format.show(&changed)?),
            None => print::line(&format!("{label} {}{}", self.verb(map, changes, have), self.dry_run.note())),
        }
        Ok(())
    }

    fn verb(&self, map: Map, changes: &Changes, have: &Value) -> &'static str {
        if map == Map::Annotations {
            return "annotated";
        }
        let is_set = changes.set.iter().any(|(key, value)| have[key.as_str()] != value.as_str());
        let is_removed = changes.remove.iter().any(|key| !have[key.as_str()].is_null());
        match (is_set, is_removed) {
            (false, false) => "not labeled",
            (false, true) if !self.overwrite => "unlabeled",
            _ => "labeled",
        }
    }

    async fn send(
        &self,
        session: &Session,
        kind: &'static Kind,
        current: &Value,
        map: Map,
        patch: &Value,
    ) -> Result<Value, Failure> {
        let mut query = vec![("fieldManager", map.manager())];
        if self.dry_run == DryRun::Server {
            query.insert(0, ("dryRun", "All"));
        }
        let path = object(kind, api::meta::namespace(current), api::meta::name(current));
        let call = Call::write(Method::PATCH, with_query(&path, &query), patch).media(Patch::Merge.media_type());
        session.call(call).await
    }
}

fn refuse_overwriting(have: &Value, map: Map, changes: &Changes) -> Result<(), Failure> {
    let is_other = |(key, value): &(&String, &String)| {
        have[key.as_str()].as_str().is_some_and(|current| map == Map::Annotations || current != value.as_str())
    };
    let held = changes.set.iter().filter(is_other);
    let held: Vec<String> = held
        .map(|(key, _)| format!("'{key}' already has a value ({})", have[key.as_str()].as_str().unwrap_or_default()))
        .collect();
    match (map, held.is_empty()) {
        (_, true) => Ok(()),
        (Map::Labels, false) => {
            let one = |text: &String| Failure::text(format!("{text}, and --overwrite is false"));
            Failure::of(held.iter().map(one).collect())
        }
        (Map::Annotations, false) => Err(Failure::text(format!(
            "--overwrite is false but found the following declared annotation(s): {}",
            held.join("; ")
        ))),
    }
}

fn list(kind: &Kind, object: &Value, map: Map, is_alone: bool) {
    let mut indent = "";
    if !is_alone {
        indent = " ";
        let (name, group) = (api::meta::name(object), kind.group);
        print::line(&format!("Listing {} for {}.{group}/{name}:", map.field(), kind.kind));
    }
    for (key, value) in object["metadata"][map.field()].as_object().into_iter().flatten() {
        print::line(&format!("{indent}{key}={}", value.as_str().unwrap_or_default()));
    }
}

/// The objects come first; the pairs begin with the first word that looks like one.
fn split(words: &[String]) -> (Vec<String>, Vec<String>) {
    let is_pair = |word: &String| word.contains('=') || word.ends_with('-');
    let first = words.iter().position(is_pair).unwrap_or(words.len());
    (words[..first].to_vec(), words[first..].to_vec())
}

fn changes(pairs: &[String], map: Map) -> Result<Changes, Failure> {
    let mut changes = Changes::default();
    for pair in pairs {
        match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                valid(pair, value, map)?;
                changes.set.insert(key.to_owned(), value.to_owned());
            }
            None if pair.len() > 1 && pair.ends_with('-') => changes.remove.push(pair[..pair.len() - 1].to_owned()),
            _ if map == Map::Labels => return Err(Failure::text(format!("unknown label spec: {pair}"))),
            _ => return Err(Failure::text(format!("invalid annotation format: {pair}"))),
        }
    }
    match changes.remove.iter().find(|key| changes.set.contains_key(*key)) {
        None => Ok(changes),
        Some(_) if map == Map::Labels => {
            Err(Failure::text("can not both modify and remove a label in the same command"))
        }
        Some(_) => Err(Failure::text("can not both modify and remove an annotation in the same command")),
    }
}

fn valid(pair: &str, value: &str, map: Map) -> Result<(), Failure> {
    if map != Map::Labels {
        return Ok(());
    }
    // Whether the key is one is for the server to say.
    let wrong = api::name::label_value(value);
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::text(format!("invalid label value: \"{pair}\": {}", wrong.join(";")))),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(words: &str, want: &Expect) {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let (objects, pairs) = split(&words);
        let shown = match changes(&pairs, Map::Labels) {
            Ok(changes) => format!("{objects:?} {changes:?}"),
            Err(failure) => failure.lines(),
        };
        want.assert_eq(&shown);
    }

    #[test]
    fn words_are_objects_then_pairs() {
        check("po a b=c d-", &expect![[r#"["po", "a"] Changes { set: {"b": "c"}, remove: ["d"] }"#]]);
        check("po/a b=", &expect![[r#"["po/a"] Changes { set: {"b": ""}, remove: [] }"#]]);
        check("po a b=c b-", &expect!["error: can not both modify and remove a label in the same command"]);
        check("po a b=c d", &expect!["error: unknown label spec: d"]);
    }

    #[test]
    fn values_are_not_replaced_unasked() {
        let changes = changes(&["env=debug".into()], Map::Labels).unwrap();
        let failure = refuse_overwriting(&json!({"env": "prod"}), Map::Labels, &changes).unwrap_err();
        assert_eq!(failure.lines(), "error: 'env' already has a value (prod), and --overwrite is false");
        assert!(refuse_overwriting(&json!({"env": "debug"}), Map::Labels, &changes).is_ok());
    }
}

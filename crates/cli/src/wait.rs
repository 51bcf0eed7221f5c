//! `wait`: until objects are as they should be.

use std::time::Duration;

use api::kind::Kind;
use client::watch::Event;
use serde_json::Value;

use crate::delete::gone;
use crate::failure::Failure;
use crate::manifest::Files;
use crate::print;
use crate::print::jsonpath::{Template, show};
use crate::session::{Connection, Session, collection};
use crate::target::{self, Selection};

/// Whoever waits for as long as it takes waits a week.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The options of `wait`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// TYPE NAME…, TYPE/NAME… or TYPE with --all or -l
    #[arg(value_name = "TYPE [NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// What to wait for: condition=TYPE[=STATUS], jsonpath={PATH}[=VALUE], create or delete
    #[arg(long = "for", value_name = "WHAT")]
    goal: String,
    /// How long to wait; 0 looks once, less than 0 waits a week
    #[arg(long, value_name = "DURATION", default_value = "30s", allow_hyphen_values = true)]
    timeout: String,
    #[command(flatten)]
    selection: Selection,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
enum Goal {
    Condition { name: String, status: String },
    Field { path: Template, value: Option<String> },
    Create,
    Delete,
}

impl Goal {
    fn parse(text: &str) -> Result<Self, Failure> {
        let lower = text.to_ascii_lowercase();
        if lower == "delete" {
            return Ok(Self::Delete);
        }
        if lower == "create" {
            return Ok(Self::Create);
        }
        if lower.starts_with("condition=") {
            let (name, status) = text[10..].split_once('=').unwrap_or((&text[10..], "true"));
            return Ok(Self::Condition { name: name.to_owned(), status: status.to_owned() });
        }
        if lower.starts_with("jsonpath=") {
            return Self::field(&text[9..]);
        }
        Err(Failure::text(format!("unrecognized condition: \"{text}\"")))
    }

    fn field(text: &str) -> Result<Self, Failure> {
        // The value stands behind the path, which may hold an = of its own within its braces.
        let text = text.trim_matches('\'');
        let (path, value) = match text.rfind('}') {
            Some(end) => (&text[..=end], text[end + 1..].strip_prefix('=')),
            None => text.split_once('=').map_or((text, None), |(path, value)| (path, Some(value))),
        };
        let value = value.map(|value| value.trim_matches(['\'', '"']).to_owned());
        if value.as_deref() == Some("") {
            return Err(Failure::text(
                "jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3",
            ));
        }
        Ok(Self::Field { path: Template::relaxed(path).map_err(Failure::text)?, value })
    }

    fn is_met(&self, object: &Value) -> bool {
        match self {
            Self::Condition { name, status } => {
                let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                let text =
                    |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_lowercase();
                conditions.any(|c| text(c, "type") == name.to_lowercase() && text(c, "status") == status.to_lowercase())
            }
            Self::Field { path, value } => {
                let found = path.values(object).unwrap_or_default();
                match (found.as_slice(), value) {
                    ([], _) => false,
                    (_, None) => true,
                    ([one], Some(value)) => show(one) == *value,
                    _ => false,
                }
            }
            Self::Create => true,
            Self::Delete => false,
        }
    }
}

struct Subject {
    kind: &'static Kind,
    namespace: String,
    name: String,
    uid: String,
}

impl Subject {
    fn of(kind: &'static Kind, object: &Value) -> Self {
        let (namespace, name) = (api::meta::namespace(object).to_owned(), api::meta::name(object).to_owned());
        Self { kind, namespace, name, uid: api::meta::uid(object).to_owned() }
    }

    fn label(&self) -> String {
        format!("{}/{}", target::word(self.kind), self.name)
    }
}

/// Waits.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let goal = Goal::parse(&options.goal)?;
    let limit = match options.timeout.strip_prefix('-') {
        Some(_) => WEEK,
        None => crate::session::duration(&options.timeout).map_err(Failure::text)?,
    };
    let session = options.connection.open()?;
    let mut failures = Vec::new();
    let deadline = tokio::time::Instant::now() + limit;
    let subjects = options.subjects(&session, &goal, &mut failures).await?;
    if subjects.is_empty() && failures.is_empty() {
        return if goal == Goal::Delete { Ok(()) } else { Err(Failure::text("no matching resources found")) };
    }
    for subject in &subjects {
        let result = match limit.is_zero() {
            true => look(&session, subject, &goal).await,
            false => match tokio::time::timeout_at(deadline, reach(&session, subject, &goal)).await {
                Ok(result) => result,
                Err(_) => Err(late(subject)),
            },
        };
        match result {
            Ok(()) => print::line(&format!("{} condition met", subject.label())),
            Err(failure) => failures.push(failure),
        }
    }
    Failure::of(failures)
}

fn late(subject: &Subject) -> Failure {
    Failure::text(format!("timed out waiting for the condition on {}/{}", plural(subject.kind), subject.name))
}

fn plural(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.plural.to_owned() } else { format!("{}.{}", kind.plural, kind.group) }
}

impl Options {
    async fn subjects(
        &self,
        session: &Session,
        goal: &Goal,
        failures: &mut Vec<Failure>,
    ) -> Result<Vec<Subject>, Failure> {
        let mut named: Vec<(&'static Kind, String, String)> = Vec::new();
        let mut subjects = Vec::new();
        if !self.files.filename.is_empty() {
            let (documents, unread) = self.files.read(session);
            failures.extend(unread);
            named.extend(documents.iter().map(|d| (d.kind, d.namespace.clone(), d.name().to_owned())));
        }
        for target in target::parse(&self.targets)? {
            if let Some(name) = target.name {
                named.push((target.kind, session.namespace.clone(), name));
                continue;
            }
            let items = self.selection.list(session, target.kind).await?;
            subjects.extend(items.iter().map(|item| Subject::of(target.kind, item)));
        }
        for (kind, namespace, name) in named {
            if *goal == Goal::Create {
                subjects.push(Subject { kind, namespace, name, uid: String::new() });
                continue;
            }
            match session.get(&crate::session::object(kind, &namespace, &name)).await {
                Ok(object) => subjects.push(Subject::of(kind, &object)),
                Err(failure) if failure.is_not_found() && *goal == Goal::Delete => {}
                Err(failure) => failures.push(failure),
            }
        }
        Ok(subjects)
    }
}

/// Looks once.
async fn look(session: &Session, subject: &Subject, goal: &Goal) -> Result<(), Failure> {
    let object = session.get(&crate::session::object(subject.kind, &subject.namespace, &subject.name)).await;
    match object {
        Ok(object) if goal.is_met(&object) => Ok(()),
        Err(failure) if failure.is_not_found() && *goal == Goal::Delete => Ok(()),
        Err(failure) if *goal != Goal::Create => Err(failure),
        _ => Err(Failure::text(format!("condition not met for {}/{}", plural(subject.kind), subject.name))),
    }
}

/// Resolves when the goal is met.
async fn reach(session: &Session, subject: &Subject, goal: &Goal) -> Result<(), Failure> {
    if *goal == Goal::Delete {
        return gone(session, subject.kind, &subject.namespace, &subject.name, &subject.uid).await;
    }
    let path = collection(subject.kind, subject.kind.is_namespaced().then_some(subject.namespace.as_str()));
    let selector = format!("metadata.name={}", subject.name);
    let query = [("fieldSelector", selector.as_str())];
    let is_it = |object: &Value| subject.uid.is_empty() || object["metadata"]["uid"] == subject.uid.as_str();
    let vanished = || {
        let (resource, name) = (plural(subject.kind), &subject.name);
        Failure::Bare(format!("Error from server (NotFound): {resource} \"{name}\" not found"))
    };
    loop {
        let list = session.client.list(&path, &query).await.map_err(|error| session.failure(error))?;
        if list.items.iter().any(|object| is_it(object) && goal.is_met(object)) {
            return Ok(());
        }
        if list.items.is_empty() && *goal != Goal::Create {
            return Err(vanished());
        }
        let watch = session.client.watch(&path, &query, &list.resource_version).await;
        let mut watch = watch.map_err(|error| session.failure(error))?;
        loop {
            match watch.next().await {
                Ok(Some(Event::Added(object) | Event::Modified(object))) if goal.is_met(&object) => return Ok(()),
                Ok(Some(Event::Deleted(_))) if *goal != Goal::Create => return Err(vanished()),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) if error.is_expired() => break,
                Err(error) => return Err(session.failure(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Goal;

    #[test]
    fn goals_are_read_and_met() {
        let pod = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let is_met = |text: &str| Goal::parse(text).unwrap().is_met(&pod);
        assert!(is_met("condition=Ready") && is_met("condition=ready=True") && !is_met("condition=Ready=false"));
        assert!(is_met("jsonpath={.status.phase}=Running") && !is_met("jsonpath={.status.phase}=Failed"));
        assert!(is_met("jsonpath={.status.phase}") && !is_met("jsonpath={.status.podIP}"));
        assert!(is_met("jsonpath='{.status.conditions[?(@.type==\"Ready\")].status}'=True"));
        assert_eq!(Goal::parse("delete").unwrap(), Goal::Delete);
        assert_eq!(Goal::parse("x").unwrap_err().lines(), "error: unrecognized condition: \"x\"");
    }
}

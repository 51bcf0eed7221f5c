//! `describe`: objects told at length, with what happened to them.

mod generic;
mod node;
mod page;
mod pod;
mod small;

use api::kind::Kind;
use client::resource;
use serde_json::Value;

use crate::failure::Failure;
use crate::manifest::Files;
use crate::print::{self, tabs};
use crate::session::{Connection, Session, object};
use crate::target;
use page::Page;

/// The options of `describe`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// TYPE, TYPE NAME…, TYPE/NAME… or the beginning of a name
    #[arg(value_name = "TYPE [NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Only objects with such labels
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "")]
    selector: String,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Tell what happened to them [default: if there is one object]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    show_events: Option<bool>,
}

/// Describes objects.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let session = options.connection.open()?;
    let (subjects, failures) = options.subjects(&session).await?;
    if subjects.is_empty() && failures.is_empty() {
        print::complain(&match options.all_namespaces {
            true => "No resources found".to_owned(),
            false => format!("No resources found in {} namespace.", session.namespace),
        });
    }
    let has_events = options.show_events.unwrap_or(subjects.len() == 1);
    for (index, (kind, object)) in subjects.iter().enumerate() {
        let events = if has_events { Some(events(&session, object).await?) } else { None };
        let text = match (kind.group, kind.kind) {
            ("", "Node") => node::describe(&session, object, events.as_deref()).await?,
            _ => describe(kind, object, events.as_deref()),
        };
        if index > 0 {
            print::out("\n\n");
        }
        print::out(&tabs::align(&text));
    }
    Failure::of(failures)
}

fn describe(kind: &Kind, object: &Value, events: Option<&[Value]>) -> String {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::describe(object, events),
        ("", "Namespace") => small::namespace(object),
        ("", "ConfigMap") => small::config_map(object, events),
        ("", "Secret") => small::secret(object),
        ("", "ServiceAccount") => small::service_account(object, events),
        ("scheduling.k8s.io", "PriorityClass") => small::priority_class(object, events),
        _ => generic::describe(object, events),
    }
}

impl Options {
    async fn subjects(&self, session: &Session) -> Result<(Vec<(&'static Kind, Value)>, Vec<Failure>), Failure> {
        if !self.files.filename.is_empty() {
            return Ok(self.files.fetch(session).await);
        }
        let targets = target::parse(&self.targets)?;
        if targets.is_empty() {
            return Err(Failure::Bare(
                "error: You must specify the type of resource to describe. Use \"podling api-resources\" for a complete \
                 list of supported resources."
                    .to_owned(),
            ));
        }
        let (mut subjects, mut failures) = (Vec::new(), Vec::new());
        for target in targets {
            let selector = [("labelSelector", self.selector.as_str())];
            let query = if self.selector.is_empty() { &[][..] } else { &selector[..] };
            let path = session.collection(target.kind, self.all_namespaces);
            let typed = |mut item: Value| {
                item["apiVersion"] = target.kind.api_version().into();
                item["kind"] = target.kind.kind.into();
                (target.kind, item)
            };
            let Some(name) = target.name else {
                subjects.extend(session.list(&path, query).await?.into_iter().map(typed));
                continue;
            };
            match session.get(&object(target.kind, &session.namespace, &name)).await {
                Ok(object) => subjects.push((target.kind, object)),
                Err(failure) if failure.is_not_found() => {
                    // Perhaps it is only the beginning of a name.
                    let all = session.list(&path, query).await?;
                    let mut alike = all.into_iter().filter(|item| api::meta::name(item).starts_with(&name)).peekable();
                    if alike.peek().is_none() {
                        failures.push(failure);
                    }
                    subjects.extend(alike.map(typed));
                }
                Err(failure) => failures.push(failure),
            }
        }
        Ok((subjects, failures))
    }
}

/// The events about an object, the oldest first.
async fn events(session: &Session, object: &Value) -> Result<Vec<Value>, Failure> {
    let namespace = api::meta::namespace(object);
    let mut events = Vec::new();
    let uid = api::meta::uid(object);
    let uids = if object["kind"] == "Node" { vec![uid, api::meta::name(object)] } else { vec![uid] };
    for uid in uids {
        let name = api::meta::name(object);
        let selector =
            format!("involvedObject.name={name},involvedObject.namespace={namespace},involvedObject.uid={uid}");
        let place = if namespace.is_empty() { None } else { Some(namespace) };
        let path = resource::EVENTS.collection(place);
        events.extend(session.list(&path, &[("fieldSelector", &selector), ("limit", "500")]).await?);
    }
    let last = |event: &Value| {
        event["lastTimestamp"].as_str().or_else(|| event["eventTime"].as_str()).unwrap_or_default().to_owned()
    };
    events.sort_by_key(last);
    Ok(events)
}

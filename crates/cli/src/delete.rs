//! `delete`: removes objects, and waits until they are gone.

use std::time::Duration;

use api::kind::Kind;
use client::watch::Event;
use http::Method;
use serde_json::{Value, json};

use crate::create::DryRun;
use crate::failure::Failure;
use crate::manifest::Files;
use crate::print;
use crate::session::{Call, Connection, Session, collection, object};
use crate::target::{self, Selection};

/// The options of `delete`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// TYPE NAME…, TYPE/NAME… or TYPE with --all or -l
    #[arg(value_name = "TYPE [NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    selection: Selection,
    /// Seconds that containers have to end
    #[arg(long, value_name = "SECONDS", default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// Ask containers to end within a second
    #[arg(long)]
    now: bool,
    /// Do not wait for containers to end
    #[arg(long)]
    force: bool,
    /// Wait until the objects are gone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait; 0 is as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = crate::session::duration)]
    timeout: Duration,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    /// What becomes of dependents: background, foreground, orphan
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_value = "background", default_missing_value = "background")]
    cascade: String,
    /// Change nothing: do not ask the server at all (client), or let it only check (server)
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_value = "none", default_missing_value = "unchanged")]
    dry_run: DryRun,
    /// Show only the names (name)
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
}

const AT_ONCE: &str = "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
    The resource may continue to run on the cluster indefinitely.";

/// One object to delete.
struct Victim {
    kind: &'static Kind,
    namespace: String,
    name: String,
}

/// Deletes objects.
pub(crate) async fn run(mut options: Options) -> Result<(), Failure> {
    options.settle()?;
    let session = options.connection.open()?;
    let (victims, mut failures) = options.victims(&session).await?;
    if victims.is_empty() && failures.is_empty() {
        print::line("No resources found");
    }
    if options.force && options.grace_period == 0 && !victims.is_empty() {
        print::complain(AT_ONCE);
    }
    let mut dying = Vec::new();
    for victim in victims {
        match options.delete(&session, &victim).await {
            Ok(uid) => dying.push((victim, uid)),
            Err(failure) if options.ignore_not_found && failure.is_not_found() => {}
            Err(failure) => failures.push(failure),
        }
    }
    if options.wait && options.dry_run == DryRun::None {
        options.attend(&session, &dying).await?;
    }
    Failure::of(failures)
}

impl Options {
    /// Refuses flags that do not go together, and settles how long containers get.
    fn settle(&mut self) -> Result<(), Failure> {
        if self.now && self.grace_period != -1 {
            return Err(Failure::text("--now and --grace-period cannot be specified together"));
        }
        if self.selection.all && !self.selection.selectors.selector.is_empty() {
            return Err(Failure::text("setting 'all' parameter but found a non empty selector. "));
        }
        self.grace_period = match self.grace_period {
            _ if self.now => 1,
            // Zero would forget running containers: that needs --force.
            0 if !self.force => 1,
            unsaid if unsaid < 0 && self.force => 0,
            said => said,
        };
        Ok(())
    }

    /// Waits until all are gone, as long as the command line says.
    async fn attend(&self, session: &Session, dying: &[(Victim, String)]) -> Result<(), Failure> {
        let all = async {
            for (victim, uid) in dying {
                gone(session, victim.kind, &victim.namespace, &victim.name, uid).await?;
            }
            Ok(())
        };
        if self.timeout.is_zero() {
            return all.await;
        }
        let waited = tokio::time::timeout(self.timeout, all).await;
        waited.unwrap_or_else(|_| {
            let (victim, _) = &dying[0];
            Err(Failure::text(format!("timed out waiting for the condition on {}/{}", victim.kind.plural, victim.name)))
        })
    }

    async fn victims(&self, session: &Session) -> Result<(Vec<Victim>, Vec<Failure>), Failure> {
        if !self.files.filename.is_empty() {
            let (documents, failures) = self.files.read(session);
            let victim = |document: crate::manifest::Document| Victim {
                kind: document.kind,
                name: document.name().to_owned(),
                namespace: document.namespace,
            };
            return Ok((documents.into_iter().map(victim).collect(), failures));
        }
        let targets = target::parse(&self.targets)?;
        if targets.is_empty() {
            return Err(Failure::text(
                "You must provide one or more resources by argument or filename.\nExample resource specifications \
                 include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'",
            ));
        }
        let mut victims = Vec::new();
        for target in targets {
            if let Some(name) = target.name {
                if self.selection.all || !self.selection.selectors.selector.is_empty() {
                    let how = if self.selection.all { "all flag" } else { "a selector" };
                    return Err(Failure::text(format!("name cannot be provided when {how} is specified")));
                }
                victims.push(Victim { kind: target.kind, namespace: session.namespace.clone(), name });
                continue;
            }
            let items = self.selection.list(session, target.kind).await?;
            victims.extend(items.iter().map(|item| Victim {
                kind: target.kind,
                namespace: api::meta::namespace(item).to_owned(),
                name: api::meta::name(item).to_owned(),
            }));
        }
        Ok((victims, Vec::new()))
    }

    /// Deletes one object, tells of it, and gives its uid.
    async fn delete(&self, session: &Session, victim: &Victim) -> Result<String, Failure> {
        let path = object(victim.kind, &victim.namespace, &victim.name);
        let mut uid = String::new();
        if self.dry_run == DryRun::Client {
            session.get(&path).await?;
        } else {
            let answer = session.call(Call::write(Method::DELETE, path, &self.how()?)).await?;
            let of_object = answer["metadata"]["uid"].as_str();
            uid = of_object.or_else(|| answer["details"]["uid"].as_str()).unwrap_or_default().to_owned();
        }
        self.tell(victim);
        Ok(uid)
    }

    fn how(&self) -> Result<Value, Failure> {
        let propagation = match self.cascade.as_str() {
            "background" | "true" => "Background",
            "foreground" => "Foreground",
            "orphan" | "false" => "Orphan",
            other => {
                return Err(Failure::text(format!(
                    "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
                )));
            }
        };
        let mut how = json!({"propagationPolicy": propagation});
        if self.grace_period >= 0 {
            how["gracePeriodSeconds"] = self.grace_period.into();
        }
        if self.dry_run == DryRun::Server {
            how["dryRun"] = json!(["All"]);
        }
        Ok(how)
    }

    fn tell(&self, victim: &Victim) {
        let word = target::word(victim.kind);
        if self.output.as_deref() == Some("name") {
            return print::line(&format!("{word}/{}", victim.name));
        }
        let verb = if self.grace_period == 0 { "force deleted" } else { "deleted" };
        let place = match victim.kind.is_namespaced() {
            true => format!(" from {} namespace", victim.namespace),
            false => String::new(),
        };
        print::line(&format!("{word} \"{}\" {verb}{place}{}", victim.name, self.dry_run.note()));
    }
}

/// Resolves when the object of that uid is there no more.
pub(crate) async fn gone(
    session: &Session,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), Failure> {
    let is_it = |object: &Value| uid.is_empty() || object["metadata"]["uid"] == uid;
    let path = collection(kind, kind.is_namespaced().then_some(namespace));
    let selector = format!("metadata.name={name}");
    let query = [("fieldSelector", selector.as_str())];
    loop {
        let list = session.client.list(&path, &query).await.map_err(|error| session.failure(error))?;
        if !list.items.iter().any(is_it) {
            return Ok(());
        }
        let mut watch = match session.client.watch(&path, &query, &list.resource_version).await {
            Ok(watch) => watch,
            Err(error) if error.is_expired() => continue,
            Err(error) => return Err(session.failure(error)),
        };
        loop {
            match watch.next().await {
                Ok(Some(Event::Deleted(object))) if is_it(&object) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) if error.is_expired() => break,
                Err(error) => return Err(session.failure(error)),
            }
        }
    }
}

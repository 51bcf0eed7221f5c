//! `run`: a pod of one container, described on the command line.

use std::time::Duration;

use client::resource::{PODS, with_query};
use client::watch::Event;
use http::Method;
use serde_json::{Value, json};

use crate::create::DryRun;
use crate::delete::gone;
use crate::exec::attach_to;
use crate::failure::Failure;
use crate::print::{self, Format};
use crate::session::{Call, Connection, Session};

/// The options of `run`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// Name of the pod
    name: String,
    /// Image of its container
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// When the image is pulled: Always, IfNotPresent, Never
    #[arg(long, value_name = "WHEN")]
    image_pull_policy: Option<String>,
    /// When the container is started again: Always, OnFailure, Never
    #[arg(long, value_name = "WHEN", default_value = "Always")]
    restart: String,
    /// A variable (may be repeated)
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The port that it listens on
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Labels of the pod
    #[arg(short, long, value_name = "KEY=VALUE,…", value_delimiter = ',')]
    labels: Vec<String>,
    /// Annotations of the pod (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    annotations: Vec<String>,
    /// The words are the command, not its arguments
    #[arg(long)]
    command: bool,
    /// Keep standard input open, and attach to it
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Attach to it once it runs
    #[arg(long)]
    attach: bool,
    /// Delete the pod when it has ended
    #[arg(long)]
    rm: bool,
    /// May do everything
    #[arg(long)]
    privileged: bool,
    /// Print only what the container prints
    #[arg(short, long)]
    quiet: bool,
    /// How long to wait for the pod to run
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = crate::session::duration)]
    pod_running_timeout: Duration,
    /// Change nothing: do not ask the server at all (client), or let it only check (server)
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_value = "none", default_missing_value = "unchanged")]
    dry_run: DryRun,
    /// How to show the pod: yaml, json, name, jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
    /// Words of the container
    #[arg(value_name = "WORD", last = true)]
    words: Vec<String>,
}

/// Runs a pod.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    options.check()?;
    let session = options.connection.open()?;
    let pod = options.pod(&session)?;
    let label = format!("pod/{}", options.name);
    if options.dry_run == DryRun::Client {
        return options.tell(&label, &pod);
    }
    let mut query = vec![("fieldManager", "kubectl-run")];
    if options.dry_run == DryRun::Server {
        query.insert(0, ("dryRun", "All"));
    }
    let path = with_query(&PODS.collection(Some(&session.namespace)), &query);
    let created = session.call(Call::write(Method::POST, path, &pod)).await?;
    if !options.is_attached() {
        return options.tell(&label, &created);
    }
    let result = options.attend(&session, &created).await;
    if options.rm {
        options.remove(&session, &created).await?;
    }
    result
}

impl Options {
    fn is_attached(&self) -> bool {
        self.attach || self.stdin
    }

    /// Refuses flags that do not go together.
    fn check(&self) -> Result<(), Failure> {
        let wrong = if self.rm && !self.is_attached() {
            "--rm should only be used for attached containers".to_owned()
        } else if self.is_attached() && self.dry_run != DryRun::None {
            "--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)"
                .to_owned()
        } else if self.tty && !self.stdin {
            "stdin is required for containers with -t/--tty".to_owned()
        } else if !matches!(self.restart.as_str(), "Always" | "OnFailure" | "Never") {
            format!("invalid restart policy: {}", self.restart)
        } else {
            return Ok(());
        };
        Err(Failure::text(wrong))
    }

    /// The pod that the command line describes.
    fn pod(&self, session: &Session) -> Result<Value, Failure> {
        let mut labels = pairs(&self.labels, "label")?;
        if labels.is_empty() {
            labels.insert("run".to_owned(), self.name.as_str().into());
        }
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": labels},
            "spec": {"containers": [self.container()?], "dnsPolicy": "ClusterFirst", "restartPolicy": self.restart},
            "status": {},
        });
        if !self.annotations.is_empty() {
            pod["metadata"]["annotations"] = pairs(&self.annotations, "annotation")?.into();
        }
        if session.is_namespace_given {
            pod["metadata"]["namespace"] = session.namespace.as_str().into();
        }
        Ok(pod)
    }

    fn container(&self) -> Result<Value, Failure> {
        let mut container = json!({"name": self.name, "image": self.image, "resources": {}});
        if !self.words.is_empty() {
            container[if self.command { "command" } else { "args" }] = json!(self.words);
        }
        for variable in &self.env {
            let (name, value) = variable
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| Failure::text(format!("invalid env: {variable}")))?;
            push(&mut container["env"], json!({"name": name, "value": value}));
        }
        if let Some(port) = self.port {
            push(&mut container["ports"], json!({"containerPort": port}));
        }
        if let Some(policy) = &self.image_pull_policy {
            container["imagePullPolicy"] = policy.as_str().into();
        }
        for (name, is_set) in [("stdin", self.stdin), ("stdinOnce", self.stdin), ("tty", self.tty)] {
            if is_set {
                container[name] = true.into();
            }
        }
        if self.privileged {
            container["securityContext"] = json!({"privileged": true});
        }
        Ok(container)
    }

    /// Deletes the pod again, and waits until it is gone.
    async fn remove(&self, session: &Session, created: &Value) -> Result<(), Failure> {
        let how = json!({"propagationPolicy": "Background"});
        session.call(Call::write(Method::DELETE, session.pod(&self.name), &how)).await?;
        if !self.quiet {
            print::line(&format!("pod \"{}\" deleted from {} namespace", self.name, session.namespace));
        }
        let kind = crate::target::kind("pods")?;
        gone(session, kind, &session.namespace, &self.name, api::meta::uid(created)).await
    }

    fn tell(&self, label: &str, pod: &Value) -> Result<(), Failure> {
        match self.output.as_deref().map(Format::parse).transpose()? {
            Some(Format::Name) => print::line(label),
            Some(format) => print::out(&format.show(pod)?),
            None => print::line(&format!("{label} created{}", self.dry_run.note())),
        }
        Ok(())
    }

    /// Attaches once the pod runs; a pod that has ended before that shows its log. The exit code of the container becomes ours.
    async fn attend(&self, session: &Session, created: &Value) -> Result<(), Failure> {
        let is_begun =
            |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Running" | "Succeeded" | "Failed"));
        let pod = tokio::time::timeout(self.pod_running_timeout, self.until(session, created, is_begun)).await;
        let pod = pod.map_err(|_| Failure::text("timed out waiting for the condition"))??;
        // What it printed before anyone was attached is in its log.
        let shown = self.log(session, 0).await?;
        if pod["status"]["phase"] == "Running" {
            match attach_to(session, &pod, &self.name, (self.stdin, self.tty), self.quiet).await {
                Ok(()) | Err(Failure::Exit(_)) => {}
                Err(failure) => {
                    let text = failure.lines();
                    let text = text.trim_start_matches("error: ");
                    print::complain(&format!(
                        "warning: couldn't attach to pod/{}, falling back to streaming logs: {text}",
                        self.name
                    ));
                    self.log(session, shown).await?;
                }
            }
        }
        if self.restart != "Never" {
            return Ok(());
        }
        let is_ended = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let pod = self.until(session, created, is_ended).await?;
        let code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64().unwrap_or(0);
        if code == 0 {
            return Ok(());
        }
        print::complain(&format!("pod {}/{} terminated ({})", session.namespace, self.name, reason(&pod)));
        Err(Failure::Exit(u8::try_from(code).unwrap_or(1)))
    }

    /// Prints the log from a byte on, and tells how long it is.
    async fn log(&self, session: &Session, from: usize) -> Result<usize, Failure> {
        let path = PODS.subresource(Some(&session.namespace), &self.name, "log");
        let (_, log) = session.client.raw(log_request(&path)?).await.map_err(|error| session.failure(error))?;
        print::bytes(log.get(from..).unwrap_or_default());
        Ok(log.len())
    }

    /// The pod as soon as it is as wanted.
    async fn until(
        &self,
        session: &Session,
        created: &Value,
        is_reached: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let path = PODS.collection(Some(&session.namespace));
        let selector = format!("metadata.name={}", self.name);
        let query = [("fieldSelector", selector.as_str())];
        let is_it = |pod: &Value| pod["metadata"]["uid"] == created["metadata"]["uid"];
        let vanished = || Failure::text(format!("pod \"{}\" was deleted", self.name));
        loop {
            let list = session.client.list(&path, &query).await.map_err(|error| session.failure(error))?;
            let pod = list.items.into_iter().find(is_it).ok_or_else(vanished)?;
            if is_reached(&pod) {
                return Ok(pod);
            }
            let watch = session.client.watch(&path, &query, &list.resource_version).await;
            let mut watch = watch.map_err(|error| session.failure(error))?;
            loop {
                match watch.next().await {
                    Ok(Some(Event::Added(pod) | Event::Modified(pod))) if is_it(&pod) && is_reached(&pod) => {
                        return Ok(pod);
                    }
                    Ok(Some(Event::Deleted(_))) => return Err(vanished()),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) if error.is_expired() => break,
                    Err(error) => return Err(session.failure(error)),
                }
            }
        }
    }
}

/// `KEY=VALUE` as a map.
fn pairs(list: &[String], what: &str) -> Result<serde_json::Map<String, Value>, Failure> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| Failure::text(format!("invalid {what} spec: {text}")))?;
        Ok((key.to_owned(), Value::from(value)))
    };
    list.iter().map(pair).collect()
}

fn reason(pod: &Value) -> &str {
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"].as_str().unwrap_or("Error")
}

fn log_request(path: &str) -> Result<http::Request<wire::Body>, Failure> {
    http::Request::get(path).body(wire::body::empty()).map_err(|error| Failure::text(format!("{error}: \"{path}\"")))
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

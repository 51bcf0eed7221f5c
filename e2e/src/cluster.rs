//! A throw-away cluster: the real binary, with a directory, a kubeconfig and images of its own. It is purged at the end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};

use client::kubeconfig::Kubeconfig;
use client::resource::{self, Resource};
use client::transport::Remote;
use client::watch::Event;
use client::{Client, Error};
use serde_json::{Value, json};
use wire::Identity;
use wire::authority::Authority;

use crate::finger::Finger;
use crate::shell::{Output, Shell};
use crate::{PATIENCE, image};

/// The program: what `PODLING_BIN` names, or else the one of this workspace, built if need be.
pub fn podling() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os("PODLING_BIN").map_or_else(build, PathBuf::from)).clone()
}

fn build() -> PathBuf {
    let status = Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "podling"]).status();
    assert!(status.is_ok_and(|status| status.success()), "podling does not build");
    let test = std::env::current_exe().expect("this program is somewhere");
    test.parent().and_then(Path::parent).expect("tests lie below the programs").join("podling")
}

/// Where cargo puts what it makes.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

/// A cluster that ends with this value.
pub struct Cluster {
    directory: tempfile::TempDir,
    verb: &'static str,
    options: Vec<String>,
    process: Option<Child>,
    /// What `up` printed when the node was ready.
    pub ready_line: String,
}

impl Cluster {
    /// A cluster without images.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A cluster without images, started with further options.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_as("up", options)
    }

    /// A control plane without a node.
    pub fn control_plane(options: &[&str]) -> Self {
        Self::start_as("server", options)
    }

    fn start_as(verb: &'static str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = options.iter().map(ToString::to_string).collect();
        let mut cluster = Self { directory, verb, options, process: None, ready_line: String::new() };
        cluster.up();
        cluster
    }

    /// A cluster with the busybox image.
    pub fn with_busybox() -> Self {
        let cluster = Self::start();
        cluster.import(image::BUSYBOX, image::busybox(), &["--cmd", "sh"]);
        cluster
    }

    /// A cluster with the demonstration's image.
    pub fn with_kubia() -> Self {
        let cluster = Self::start();
        cluster.import(image::KUBIA, image::kubia(), &["--entrypoint", "/kubia"]);
        cluster
    }

    /// Starts the process, and waits until the node is ready.
    pub fn up(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut child = Command::new(podling())
            .args([self.verb, "--listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(self.data())
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("podling can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        self.process = Some(child);
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => self.ready_line = line,
            Err(error) => panic!("the node does not become ready ({error}):\n{}", self.log()),
        }
    }

    /// Ends the whole process at once, as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("the process can be killed");
        process.wait().expect("the process can be waited for");
    }

    /// `podling down`: ends the process and the pods, and keeps what the API knows.
    pub fn down(&mut self) {
        self.machine(&["down"]).ok();
        if let Some(mut process) = self.process.take() {
            let status = process.wait().expect("the process can be waited for");
            assert!(status.success(), "podling ended with {status}:\n{}", self.log());
        }
    }

    /// `podling down --purge`.
    pub fn purge(&mut self) -> Output {
        let output = self.machine(&["down", "--purge"]);
        if let Some(mut process) = self.process.take() {
            if output.code != 0 {
                drop(process.kill());
            }
            drop(process.wait());
        }
        output
    }

    /// Runs one of the commands that act on the machine.
    pub fn machine(&self, arguments: &[&str]) -> Output {
        self.machine_with(arguments, &[])
    }

    /// Runs one of the commands that act on the machine, with something to read.
    pub fn machine_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new("timeout");
        let (verb, rest) = arguments.split_at(1);
        command.args(["-k", "5"]).arg(PATIENCE.as_secs().to_string()).arg(podling());
        command.args(verb).arg("--data-dir").arg(self.data()).args(rest);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("podling can be started");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A command that refuses does not read; its answer says why.
        drop(stdin.write_all(input));
        drop(stdin);
        let output = child.wait_with_output().expect("podling can be waited for");
        Output {
            typed: format!("podling {}", arguments.join(" ")),
            code: output.status.code().unwrap_or(128),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Makes an image of a root file system.
    pub fn import(&self, name: &str, tar: &[u8], options: &[&str]) {
        let words: Vec<&str> = ["image", "import", "-", name].iter().chain(options).copied().collect();
        self.machine_with(&words, tar).ok();
    }

    /// A shell with a client for this cluster.
    pub fn shell(&self, finger: &Finger) -> Shell {
        Shell::new(self.directory.path(), &self.kubeconfig(), finger)
    }

    /// A shell with kubectl, or else with podling's own commands.
    pub fn any_shell(&self) -> Shell {
        self.shell(&Finger::kubectl_137().or_else(Finger::kubectl_133).unwrap_or_else(Finger::own))
    }

    /// A file of the test beside the cluster's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the cluster's state is.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// What the process logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The facts that the cluster decided once.
    pub fn facts(&self) -> Value {
        let bytes = std::fs::read(self.data().join("cluster.json")).expect("a cluster has facts");
        serde_json::from_slice(&bytes).expect("facts are JSON")
    }

    /// A client of our own.
    pub fn client(&self) -> Client {
        let access = Kubeconfig::read(&self.kubeconfig()).and_then(|config| config.access(None)).expect("an access");
        Client::new(Arc::new(Remote::new(&access.server, &access.trust).expect("a transport")), "e2e")
    }

    /// A client that speaks for a node, with a certificate of the cluster's authority.
    pub fn node_client(&self, node: &str) -> Client {
        let authority = Authority::open(&self.data().join("pki"), "").expect("a cluster has an authority");
        let identity = Identity::new(format!("system:node:{node}"), &["system:nodes"]);
        let mut access =
            Kubeconfig::read(&self.kubeconfig()).and_then(|config| config.access(None)).expect("an access");
        access.trust.credential = Some(authority.client(&identity).expect("a certificate"));
        Client::new(Arc::new(Remote::new(&access.server, &access.trust).expect("a transport")), node)
    }

    /// Does something with a client of our own.
    pub fn ask<T>(&self, ask: impl AsyncFnOnce(Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { ask(self.client()).await })
    }

    /// Creates a pod in the namespace `default`: a name, and its specification.
    #[track_caller]
    pub fn run(&self, name: &str, spec: Value) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        self.create(&resource::PODS, pod);
    }

    /// Creates an object in the namespace `default`.
    #[track_caller]
    pub fn create(&self, kind: &Resource, object: Value) {
        let made = self.ask(async |client| client.create(&kind.collection(Some("default")), &object).await);
        assert!(made.is_ok(), "creating {object:#}: {}", made.expect_err("it failed"));
    }

    /// Waits until a pod is as wanted; gives it.
    #[track_caller]
    pub fn pod(&self, name: &str, wanted: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.object(&resource::PODS, Some("default"), name, wanted, holds)
    }

    /// Waits until a pod has come to its end; gives it.
    #[track_caller]
    pub fn ended_pod(&self, name: &str) -> Value {
        let is_over = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        self.pod(name, "comes to its end", is_over)
    }

    /// Waits until a pod is ready; gives it.
    #[track_caller]
    pub fn ready_pod(&self, name: &str) -> Value {
        self.pod(name, "becomes ready", |pod| condition(pod, "Ready") == "True")
    }

    /// Waits until an object is as wanted; gives it.
    #[track_caller]
    pub fn object(
        &self,
        kind: &Resource,
        namespace: Option<&str>,
        name: &str,
        wanted: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        let found = self.ask(async |client| {
            let holds = |object: Option<&Value>| object.is_some_and(&holds);
            tokio::time::timeout(PATIENCE, follow(&client, kind, namespace, name, &mut last, holds)).await
        });
        let (plural, status) = (kind.plural, &last["status"]);
        match found {
            Ok(Ok(())) => last,
            Ok(Err(error)) => panic!("watching {plural}/{name}: {error}"),
            Err(_) => panic!("never seen: {plural}/{name} {wanted}\n{status:#}\n{}\n{}", self.events(), self.log()),
        }
    }

    /// Waits until a pod is no more.
    #[track_caller]
    pub fn gone(&self, name: &str) {
        let mut last = Value::Null;
        let found = self.ask(async |client| {
            let holds = |object: Option<&Value>| object.is_none();
            let following = follow(&client, &resource::PODS, Some("default"), name, &mut last, holds);
            tokio::time::timeout(PATIENCE, following).await
        });
        assert!(matches!(found, Ok(Ok(()))), "pod {name} does not go\n{:#}\n{}", last["status"], self.log());
    }

    fn events(&self) -> String {
        let list = self.ask(async |client| client.list(&resource::EVENTS.collection(Some("default")), &[]).await);
        let line =
            |event: &Value| format!("{} {}: {}", event["involvedObject"]["name"], event["reason"], event["message"]);
        list.map(|list| list.items.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let output = self.purge();
        if std::thread::panicking() {
            eprintln!("the cluster's log:\n{}", self.log());
        } else {
            assert_eq!(output.code, 0, "{output}");
        }
    }
}

/// The status of a condition.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

/// Follows one object until it is as wanted; `last` is what was seen of it last.
async fn follow(
    client: &Client,
    kind: &Resource,
    namespace: Option<&str>,
    name: &str,
    last: &mut Value,
    holds: impl Fn(Option<&Value>) -> bool,
) -> Result<(), Error> {
    let (path, selector) = (kind.collection(namespace), format!("metadata.name={name}"));
    loop {
        let list = client.list(&path, &[("fieldSelector", &selector)]).await?;
        let mut current = list.items.into_iter().next();
        let mut watch = client.watch(&path, &[("fieldSelector", &selector)], &list.resource_version).await?;
        loop {
            if let Some(object) = &current {
                last.clone_from(object);
            }
            if holds(current.as_ref()) {
                return Ok(());
            }
            match watch.next().await? {
                Some(Event::Added(object) | Event::Modified(object)) => current = Some(object),
                Some(Event::Deleted(_)) => current = None,
                Some(Event::Bookmark(_)) => {}
                None => break,
            }
        }
    }
}

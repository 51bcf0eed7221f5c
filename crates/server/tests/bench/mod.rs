//! A server over a store in a temporary directory, and requests to it as a client would send them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::{Cluster, Config, NodeDoor, NodeDoorError, Server};
use wire::{Body, Identity, Peer, Service};

/// A node that answers with what it was asked.
struct Echo;

impl NodeDoor for Echo {
    fn send<'a>(
        &'a self,
        node: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, NodeDoorError>> {
        Box::pin(async move {
            match node {
                "away" => Err(NodeDoorError::Unreachable { node: node.to_owned(), source: "no route".into() }),
                node => Ok(Response::new(wire::body::full(format!("{node}: {} {}", request.method(), request.uri())))),
            }
        })
    }
}

pub(crate) struct Bench {
    server: Arc<Server>,
    _dir: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| json!(self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// The object of an answer that must be a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{}: {}", self.code, self.text());
        self.json()
    }

    /// Code and message of an answer that must be a refusal.
    #[track_caller]
    pub(crate) fn refusal(self) -> String {
        assert!(self.code >= 400, "{}: {}", self.code, self.text());
        let status = self.json();
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["code"], self.code);
        format!(
            "{} {} {}",
            self.code,
            status["reason"].as_str().unwrap_or("-"),
            status["message"].as_str().unwrap_or("-")
        )
    }
}

/// A request in the making.
pub(crate) struct Ask<'a> {
    bench: &'a Bench,
    request: http::request::Builder,
    identity: Option<Identity>,
    body: Bytes,
}

impl<'a> Ask<'a> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn by(mut self, user: &str, groups: &[&str]) -> Self {
        self.identity =
            Some(Identity { user: user.to_owned(), groups: groups.iter().map(|group| (*group).to_owned()).collect() });
        self
    }

    pub(crate) fn anonymous(mut self) -> Self {
        self.identity = None;
        self
    }

    pub(crate) fn raw(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn body(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    pub(crate) fn patch(self, kind: &str, body: &Value) -> Self {
        self.header("content-type", &format!("application/{kind}")).body(body)
    }

    async fn response(self) -> Response<Body> {
        let peer = Peer { identity: self.identity, address: None };
        let request = self.request.extension(peer).body(wire::body::full(self.body)).expect("a request");
        soon(self.bench.server.call(request)).await
    }

    pub(crate) async fn send(self) -> Answer {
        let (parts, body) = self.response().await.into_parts();
        let bytes = soon(body.collect()).await.expect("a body").to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub(crate) async fn watch(self) -> Watch {
        let response = self.response().await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: Vec::new() }
    }
}

/// The lines of a watch.
pub(crate) struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next line; nothing when the watch has ended.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line of JSON"));
            }
            let frame = soon(self.body.frame()).await?;
            self.rest.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
        }
    }

    /// Type and name of the next change.
    pub(crate) async fn change(&mut self) -> String {
        let line = self.line().await.expect("the watch goes on");
        let object = &line["object"];
        format!("{} {}", line["type"].as_str().unwrap_or("-"), object["metadata"]["name"].as_str().unwrap_or("-"))
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within the deadline")
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(store::Disk::open(store::Config::new(dir.path())).expect("a store"));
        let cluster = Cluster {
            version: "v1.37.2+podling".to_owned(),
            commit: "0".to_owned(),
            address: IpAddr::from([127, 0, 0, 1]),
            port: 6443,
            service_address: None,
        };
        let server = Server::new(Config { store, cluster, nodes: Arc::new(Echo) }).await.expect("a server");
        Self { server, _dir: dir }
    }

    /// With the service account that a controller would make.
    pub(crate) async fn ready() -> Self {
        let bench = Self::new().await;
        bench.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.ok();
        bench
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let request = Request::builder().method(method).uri(path);
        let identity = Some(Identity { user: "admin".to_owned(), groups: vec!["system:masters".to_owned()] });
        Ask { bench: self, request, identity, body: Bytes::new() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).send().await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path).body(body).send().await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask("PUT", path).body(body).send().await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path).send().await
    }
}

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";

pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "luksa/kubia"}]}})
}

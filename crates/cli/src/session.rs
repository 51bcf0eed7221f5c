//! The way to a cluster: the flags that name it, and requests whose warnings are printed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::kind::Kind;
use bytes::Bytes;
use client::kubeconfig::{self, Kubeconfig};
use client::resource::with_query;
use client::transport::Remote;
use client::{Client, Resource};
use http::header::{ACCEPT, CONTENT_TYPE, WARNING};
use http::{HeaderMap, Method, Request};
use serde_json::Value;
use wire::body;

use crate::failure::{Failure, chain};

/// Where `podling up` leaves the administrator's kubeconfig.
const OWN: &str = "/var/lib/podling/kubeconfig";
pub(crate) const JSON: &str = "application/json";

/// Which cluster, and where in it.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Connection {
    /// Namespace to work in
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Kubeconfig file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// A cluster that can be asked.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// The namespace of everything that names none.
    pub(crate) namespace: String,
    /// Whether the namespace was named on the command line.
    pub(crate) is_namespace_given: bool,
    /// `https://host:port`.
    pub(crate) server: String,
}

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) accept: &'a str,
    pub(crate) media: &'a str,
    pub(crate) content: Option<Bytes>,
}

impl Connection {
    /// Reads the kubeconfig; nothing is asked of the cluster yet.
    pub(crate) fn open(&self) -> Result<Session, Failure> {
        let path = self.kubeconfig.clone().unwrap_or_else(default_path);
        if self.kubeconfig.is_some() && !path.exists() {
            return Err(Failure::text(format!("stat {}: no such file or directory", path.display())));
        }
        let access = Kubeconfig::read(&path)?.access(self.context.as_deref())?;
        let client = Client::new(Arc::new(Remote::new(&access.server, &access.trust)?), "kubectl");
        let given = self.namespace.clone().filter(|name| !name.is_empty());
        Ok(Session {
            client,
            is_namespace_given: given.is_some(),
            namespace: given.unwrap_or(access.namespace),
            server: access.server,
        })
    }
}

/// Where clients look; where no one has put anything there, the cluster of this machine.
fn default_path() -> PathBuf {
    let usual = kubeconfig::default_path();
    let own = Path::new(OWN);
    if !usual.exists() && own.exists() { own.to_owned() } else { usual }
}

impl<'a> Call<'a> {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), accept: JSON, media: JSON, content: None }
    }

    pub(crate) fn write(method: Method, path: impl Into<String>, object: &Value) -> Self {
        let mut text = object.to_string();
        text.push('\n');
        Self { method, path: path.into(), accept: JSON, media: JSON, content: Some(text.into()) }
    }

    #[must_use]
    pub(crate) fn accept(mut self, accept: &'a str) -> Self {
        self.accept = accept;
        self
    }

    #[must_use]
    pub(crate) fn media(mut self, media: &'a str) -> Self {
        self.media = media;
        self
    }

    fn request(self) -> Result<Request<wire::Body>, Failure> {
        let request = Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header(ACCEPT, self.accept)
            .header(CONTENT_TYPE, self.media);
        let request = request.body(self.content.map_or_else(body::empty, body::full));
        request.map_err(|error| Failure::text(format!("{error}: \"{}\"", self.path)))
    }
}

impl Session {
    /// Sends a request, prints the warnings of the answer and reads it.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Value, Failure> {
        let path = call.path.clone();
        let (headers, answer) = self.client.raw(call.request()?).await.map_err(|error| self.failure(error))?;
        warn(&headers);
        serde_json::from_slice(&answer).map_err(|error| Failure::text(format!("reading the answer to {path}: {error}")))
    }

    /// Sends a request whose answer is read while it comes in.
    pub(crate) async fn stream(&self, call: Call<'_>) -> Result<wire::Body, Failure> {
        let response = self.client.stream(call.request()?).await.map_err(|error| self.failure(error))?;
        warn(response.headers());
        Ok(response.into_body())
    }

    /// Reads one object.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Call::get(path)).await
    }

    /// All objects of a collection.
    pub(crate) async fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, Failure> {
        let mut list = self.get(&with_query(path, query)).await?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// An error of the connection in kubectl's words.
    pub(crate) fn failure(&self, error: client::Error) -> Failure {
        let text = match error {
            client::Error::Api(status) => return Failure::Api(status),
            other => chain(&other),
        };
        let host = self.server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        if text.contains("Connection refused") {
            return Failure::Bare(format!(
                "The connection to the server {host} was refused - did you specify the right host or port?"
            ));
        }
        Failure::Bare(format!("Unable to connect to the server: {text}"))
    }

    /// The path of a collection, in the session's namespace if it has namespaces.
    pub(crate) fn collection(&self, kind: &Kind, is_everywhere: bool) -> String {
        let namespace = (kind.is_namespaced() && !is_everywhere).then_some(self.namespace.as_str());
        collection(kind, namespace)
    }

    /// The path of one object.
    pub(crate) fn object(&self, kind: &Kind, name: &str) -> String {
        object(kind, &self.namespace, name)
    }

    /// The path of one pod.
    pub(crate) fn pod(&self, name: &str) -> String {
        client::resource::PODS.object(Some(&self.namespace), name)
    }
}

/// A length of time in Go's notation: `90s`, `1h30m`, `500ms`, `0`.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("time: invalid duration \"{text}\"");
    if text == "0" {
        return Ok(std::time::Duration::ZERO);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        seconds += number
            * match &rest[digits..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(wrong()),
            };
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(wrong()) } else { std::time::Duration::try_from_secs_f64(seconds).map_err(|_| wrong()) }
}

/// The path of a collection.
pub(crate) fn collection(kind: &Kind, namespace: Option<&str>) -> String {
    resource(kind).collection(namespace)
}

/// The path of one object; the namespace is left out where the kind has none.
pub(crate) fn object(kind: &Kind, namespace: &str, name: &str) -> String {
    resource(kind).object(kind.is_namespaced().then_some(namespace), name)
}

fn resource(kind: &Kind) -> Resource {
    Resource { group: kind.group, version: kind.version, plural: kind.plural }
}

fn warn(headers: &HeaderMap) {
    for value in headers.get_all(WARNING).iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok()) {
        if let Some(text) = warning(value) {
            crate::print::complain(&format!("Warning: {text}"));
        }
    }
}

/// The text of `299 - "text"`.
fn warning(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 ")?.split_once(' ')?.1.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some(text),
            '\\' => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{duration, warning};

    #[test]
    fn durations_are_those_of_go() {
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(duration("1.5s").unwrap().as_millis(), 1500);
        assert!(duration("5").is_err() && duration("").is_err() && duration("5x").is_err());
    }

    #[test]
    fn a_warning_is_read() {
        assert_eq!(warning(r#"299 - "a \"b\" \\ c""#).as_deref(), Some(r#"a "b" \ c"#));
        assert_eq!(warning("199 - \"x\""), None);
    }
}

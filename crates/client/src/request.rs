//! Requests for objects, as JSON values.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response};
use serde_json::{Value, json};
use tokio::time::timeout;
use wire::{Body, body};

use crate::resource::with_query;
use crate::{Error, Transport};

/// A request must be answered within this time, streams apart.
const DEADLINE: Duration = Duration::from_secs(60);
/// No answer is longer than this.
const ANSWER_BYTES: usize = 1 << 30;
const JSON: &str = "application/json";

/// The languages a patch can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, with merge keys.
    Strategic,
}

impl Patch {
    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct Delete {
    /// Seconds until the object must be gone; `None` leaves it to the object.
    pub grace_seconds: Option<i64>,
    /// Deletes only the object with this uid.
    pub uid: Option<String>,
    /// Deletes the object only while it is as it was in this version.
    pub resource_version: Option<String>,
    /// Changes nothing, only answers.
    pub is_dry_run: bool,
    /// What becomes of dependents: `Background`, `Foreground`, `Orphan`.
    pub propagation: Option<String>,
}

impl Delete {
    fn options(&self) -> Value {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(uid) = &self.uid {
            options["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(version) = &self.resource_version {
            options["preconditions"]["resourceVersion"] = version.as_str().into();
        }
        if self.is_dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if let Some(propagation) = &self.propagation {
            options["propagationPolicy"] = propagation.as_str().into();
        }
        options
    }
}

/// One page of a list, or all of it.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// The objects. Lists leave out their kind and apiVersion.
    pub items: Vec<Value>,
    /// The state that the list shows: where a watch begins.
    pub resource_version: String,
    /// Where the next page begins; empty after the last.
    pub next: String,
}

/// A way to the API. Cloning is cheap.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    agent: Arc<str>,
}

impl Client {
    /// A client that names itself `agent` (its field manager and, in the server's words, its user agent).
    pub fn new(transport: Arc<dyn Transport>, agent: &str) -> Self {
        Self { transport, agent: agent.into() }
    }

    /// What the client calls itself.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// Reads one object.
    ///
    /// # Errors
    /// [`Error::Api`] when the server refuses; see [`Error`] for the rest. The same holds for all that follows.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.json(Method::GET, path, JSON, None).await
    }

    /// Creates an object in a collection (or subresource).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Error> {
        self.json(Method::POST, path, JSON, Some(encode(object))).await
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn update(&self, path: &str, object: &Value) -> Result<Value, Error> {
        self.json(Method::PUT, path, JSON, Some(encode(object))).await
    }

    /// Patches an object.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn patch(&self, path: &str, language: Patch, patch: &Value) -> Result<Value, Error> {
        self.json(Method::PATCH, path, language.media_type(), Some(encode(patch))).await
    }

    /// Creates an object as [`Client::create`] does, for those who do not look at what became of it: the answer is not taken apart.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn create_unread(&self, path: &str, object: &Value) -> Result<(), Error> {
        self.bytes(Method::POST, path, JSON, Some(encode(object))).await.map(drop)
    }

    /// Patches an object as [`Client::patch`] does, for those who do not look at what became of it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn patch_unread(&self, path: &str, language: Patch, patch: &Value) -> Result<(), Error> {
        self.bytes(Method::PATCH, path, language.media_type(), Some(encode(patch))).await.map(drop)
    }

    /// Deletes an object; the answer is the object, if it takes its time, or a `Status`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str, how: &Delete) -> Result<Value, Error> {
        self.json(Method::DELETE, path, JSON, Some(encode(&how.options()))).await
    }

    /// Reads a collection, or one page of it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<List, Error> {
        let mut list = self.get(&with_query(path, query)).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (resource_version, next) =
            (text(&list["metadata"]["resourceVersion"]), text(&list["metadata"]["continue"]));
        let items = match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        Ok(List { items, resource_version, next })
    }

    /// Sends a request of one's own making and reads the whole answer, refusals as errors.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn raw(&self, request: Request<Body>) -> Result<(HeaderMap, Bytes), Error> {
        let whole = async {
            let response = self.stream(request).await?;
            let headers = response.headers().clone();
            Ok((headers, body::collect(response.into_body(), ANSWER_BYTES).await?))
        };
        timeout(DEADLINE, whole).await.map_err(|_| Error::Deadline(DEADLINE))?
    }

    /// Sends a request and gives the answer while it still comes in; refusals are errors.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn stream(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        self.sign(&mut request);
        let response = self.transport.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// Sends a request for an upgrade.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn upgrade(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        self.sign(&mut request);
        let response = self.transport.upgrade(request).await?;
        if response.status().as_u16() == 101 { Ok(response) } else { Err(refusal(response).await) }
    }

    fn sign(&self, request: &mut Request<Body>) {
        if let Ok(agent) = self.agent.parse() {
            request.headers_mut().insert(USER_AGENT, agent);
        }
    }

    async fn json(&self, method: Method, path: &str, media: &str, content: Option<Bytes>) -> Result<Value, Error> {
        let answer = self.bytes(method, path, media, content).await?;
        serde_json::from_slice(&answer).map_err(|e| Error::failed(format!("reading the answer to {path}"), e))
    }

    async fn bytes(&self, method: Method, path: &str, media: &str, content: Option<Bytes>) -> Result<Bytes, Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, JSON)
            .header(CONTENT_TYPE, media)
            .body(content.map_or_else(body::empty, body::full))
            .map_err(|e| Error::failed(format!("making a request for {path}"), e))?;
        Ok(self.raw(request).await?.1)
    }
}

fn encode(value: &Value) -> Bytes {
    value.to_string().into()
}

async fn refusal(response: Response<Body>) -> Error {
    let code = response.status().as_u16();
    let body = match body::collect(response.into_body(), 1 << 20).await {
        Ok(body) => body,
        Err(error) => return error.into(),
    };
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body);
        api::status::Status { code, message: text.trim().to_owned(), status: "Failure".into(), ..blank() }
    });
    Error::Api(Box::new(status))
}

fn blank() -> api::status::Status {
    serde_json::from_value(json!({})).expect("every field of a Status has a default")
}

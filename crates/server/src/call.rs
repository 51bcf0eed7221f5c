//! One request, taken apart.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::query::Query;
use api::status::Status;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use wire::Body;

use crate::auth::User;
use crate::error;
use crate::negotiate::{self, Form};

/// A body must come within this time, however slowly its sender writes.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// A request whose sender is known.
pub(crate) struct Call {
    pub(crate) user: User,
    pub(crate) query: Query,
    parts: Parts,
    /// A body may be handed from thread to thread, but not shared; the lock is never contended.
    body: Mutex<Body>,
}

impl Call {
    pub(crate) fn new(user: User, request: Request<Body>) -> Result<Self, Status> {
        let query = Query::parse(request.uri().query().unwrap_or_default()).map_err(error::of_api)?;
        let (parts, body) = request.into_parts();
        Ok(Self { user, query, parts, body: Mutex::new(body) })
    }

    pub(crate) fn method(&self) -> &Method {
        &self.parts.method
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    pub(crate) fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// The request, to be handed on.
    pub(crate) fn into_request(self) -> Request<Body> {
        Request::from_parts(self.parts, self.body.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a body back that was read.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        self.body = Mutex::new(wire::body::full(bytes));
    }

    /// The media type of the body, without its parameters.
    pub(crate) fn content_type(&self) -> String {
        let value = self.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The form in which the client wants objects.
    pub(crate) fn form(&self, has_rows: bool) -> Result<Form, Status> {
        negotiate::form(self.headers(), self.query.first("includeObject"), has_rows)
    }

    /// Reads the body.
    pub(crate) async fn body(&mut self) -> Result<Bytes, Status> {
        let body = std::mem::replace(&mut self.body, Mutex::new(wire::body::empty()));
        let body = body.into_inner().unwrap_or_else(PoisonError::into_inner);
        let reading = tokio::time::timeout(BODY_DEADLINE, wire::body::collect(body, crate::BODY_LIMIT)).await;
        let late = |_| Status::bad_request(format!("the body did not come within {} s", BODY_DEADLINE.as_secs()));
        reading.map_err(late)?.map_err(|error| match error {
            wire::Error::TooLarge { limit } => Status::too_large(format!("limit is {limit}")),
            error => Status::bad_request(format!("the body could not be read: {error}")),
        })
    }
}

/// Adds warnings to a response; clients show them to people.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}

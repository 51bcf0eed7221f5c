//! Watches: the changes of a collection, in order, from a given state on.

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use http::header::ACCEPT;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use wire::{Body, body};

use crate::resource::with_query;
use crate::{Client, Error};

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An object came into view.
    Added(Value),
    /// An object changed.
    Modified(Value),
    /// An object went out of view; its last state.
    Deleted(Value),
    /// Nothing happened up to this state.
    Bookmark(Value),
}

/// An open watch.
pub struct Watch {
    body: Body,
    buffer: BytesMut,
}

#[derive(Deserialize)]
struct Frame {
    r#type: String,
    object: Value,
}

impl Client {
    /// Watches a collection from `resource_version` on (exclusive). It ends when the server ends it; then it is started again.
    ///
    /// # Errors
    /// [`Error::Api`] when the server refuses.
    pub async fn watch(&self, path: &str, query: &[(&str, &str)], resource_version: &str) -> Result<Watch, Error> {
        let fixed = [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", resource_version)];
        let request = Request::get(with_query(&with_query(path, query), &fixed))
            .header(ACCEPT, "application/json")
            .body(body::empty())
            .map_err(|e| Error::failed(format!("making a request for {path}"), e))?;
        Ok(Watch::new(self.stream(request).await?.into_body()))
    }
}

impl Watch {
    /// A watch over the body of an answer that was asked for otherwise.
    pub fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next event; `None` when the server has ended the watch.
    ///
    /// # Errors
    /// [`Error::Api`] when the server breaks the watch off, as it does when the history is gone.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        match self.line().await? {
            Some(line) => event(&line).map(Some),
            None => Ok(None),
        }
    }

    /// The next line as it came, for clients that only print.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn line(&mut self) -> Result<Option<Bytes>, Error> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.buffer[seen..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(seen + end).freeze();
                self.buffer.advance(1);
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                seen = 0;
                continue;
            }
            seen = self.buffer.len();
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

fn event(line: &[u8]) -> Result<Event, Error> {
    let Frame { r#type, object } =
        serde_json::from_slice(line).map_err(|e| Error::failed("reading a watch event", e))?;
    match r#type.as_str() {
        "ADDED" => Ok(Event::Added(object)),
        "MODIFIED" => Ok(Event::Modified(object)),
        "DELETED" => Ok(Event::Deleted(object)),
        "BOOKMARK" => Ok(Event::Bookmark(object)),
        "ERROR" => {
            let status = serde_json::from_value(object).map_err(|e| Error::failed("reading a watch error", e))?;
            Err(Error::Api(Box::new(status)))
        }
        other => Err(Error::failed("reading a watch event", format!("unknown type \"{other}\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_found_across_chunks() {
        let (sender, body) = body::channel(64);
        for chunk in b"{\"type\":\"ADDED\",\"object\":{\"a\":1}}\n\n{\"type\":\"DELETED\",\"object\":{}}\n".chunks(7) {
            sender.send(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        drop(sender);
        let mut watch = Watch::new(body);
        assert!(matches!(watch.next().await.unwrap(), Some(Event::Added(_))));
        assert!(matches!(watch.next().await.unwrap(), Some(Event::Deleted(_))));
        assert_eq!(watch.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn events_come_in_order_and_then_the_end() {
        let text = "{\"type\":\"ADDED\",\"object\":{\"a\":1}}\n{\"type\":\"DELETED\",\"object\":{}}\n";
        let mut watch = Watch::new(body::full(text));
        assert_eq!(watch.next().await.unwrap(), Some(Event::Added(serde_json::json!({"a": 1}))));
        assert_eq!(watch.next().await.unwrap(), Some(Event::Deleted(serde_json::json!({}))));
        assert_eq!(watch.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_broken_off_watch_says_why() {
        let text = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\"}}\n";
        let error = Watch::new(body::full(text)).next().await.unwrap_err();
        assert!(error.is_expired());
    }
}

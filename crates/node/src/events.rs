//! Tells what happens to pods by Event objects, without ever holding up the work.

use std::collections::HashMap;

use api::time;
use client::{Client, Patch, resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::pod::Pod;

const QUEUE: usize = 1024;
/// So many different events are remembered, to count repetitions instead of writing them anew.
const REMEMBERED: usize = 4096;

/// Whether an event tells of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Someone should look.
    Warning,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Occurrence {
    namespace: String,
    name: String,
    uid: String,
    kind: &'static str,
    version: String,
    field: Option<String>,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Writes events. Cloning shares the writer.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

impl Recorder {
    /// Starts the task that writes events as `component` on `host`. It ends with the last recorder.
    pub fn start(client: Client, component: &'static str, host: String) -> Self {
        let (queue, occurrences) = mpsc::channel(QUEUE);
        tokio::spawn(Writer { client, component, host, written: HashMap::new() }.run(occurrences));
        Self { queue }
    }

    /// Tells what happened to a pod, or to one of its containers (`spec.containers{name}`).
    pub fn pod(&self, pod: &Pod, field: Option<String>, severity: Severity, reason: &'static str, message: &str) {
        let version = pod.meta().resource_version.clone().unwrap_or_default();
        self.send(Occurrence {
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            kind: "Pod",
            version,
            field,
            severity,
            reason,
            message: message.to_owned(),
        });
    }

    /// Tells what happened to the node. Its events carry the node's name for a uid and lie in `default`, as upstream's do.
    pub fn node(&self, name: &str, reason: &'static str, message: &str) {
        self.send(Occurrence {
            namespace: "default".into(),
            name: name.to_owned(),
            uid: name.to_owned(),
            kind: "Node",
            version: String::new(),
            field: None,
            severity: Severity::Normal,
            reason,
            message: message.to_owned(),
        });
    }

    fn send(&self, occurrence: Occurrence) {
        if self.queue.try_send(occurrence).is_err() {
            tracing::warn!("an event was dropped: too many wait to be written");
        }
    }
}

struct Writer {
    client: Client,
    component: &'static str,
    host: String,
    written: HashMap<Occurrence, (String, u32)>,
}

impl Writer {
    async fn run(mut self, mut occurrences: mpsc::Receiver<Occurrence>) {
        while let Some(occurrence) = occurrences.recv().await {
            if let Err(error) = self.write(&occurrence).await {
                tracing::debug!(%error, reason = occurrence.reason, "writing an event");
            }
        }
    }

    async fn write(&mut self, occurrence: &Occurrence) -> Result<(), client::Error> {
        // The version of the object is no part of what makes two events the same.
        let key = Occurrence { version: String::new(), ..occurrence.clone() };
        let now = Timestamp::now();
        if let Some((path, count)) = self.written.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": time::format(now)});
            match self.client.patch(path, Patch::Merge, &patch).await {
                Ok(_) => return Ok(()),
                // It has expired: written anew below.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", occurrence.name, now.as_nanosecond());
        let event = self.event(occurrence, &name, now);
        self.client.create(&resource::EVENTS.collection(Some(&occurrence.namespace)), &event).await?;
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        self.written.insert(key, (resource::EVENTS.object(Some(&occurrence.namespace), &name), 1));
        Ok(())
    }

    fn event(&self, occurrence: &Occurrence, name: &str, now: Timestamp) -> Value {
        let mut involved = json!({
            "kind": occurrence.kind,
            "apiVersion": "v1",
            "name": occurrence.name,
            "uid": occurrence.uid,
        });
        if occurrence.kind == "Pod" {
            involved["namespace"] = occurrence.namespace.as_str().into();
        }
        if !occurrence.version.is_empty() {
            involved["resourceVersion"] = occurrence.version.as_str().into();
        }
        if let Some(field) = &occurrence.field {
            involved["fieldPath"] = field.as_str().into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": occurrence.namespace},
            "involvedObject": involved,
            "reason": occurrence.reason,
            "message": occurrence.message,
            "type": occurrence.severity.word(),
            "source": {"component": self.component, "host": self.host},
            "reportingComponent": self.component,
            "reportingInstance": self.host,
            "firstTimestamp": time::format(now),
            "lastTimestamp": time::format(now),
            "count": 1,
        })
    }
}

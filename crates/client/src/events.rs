//! Tells what happens to objects by Event objects, without ever holding up the work.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::time;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Client, Error, Patch, resource};

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

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct About {
    /// The kind, of the core group.
    pub kind: &'static str,
    /// Empty for cluster-scoped objects; their events lie in `default`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The version that was seen, if it is known.
    pub version: String,
    /// A part of it, as `spec.containers{web}`.
    pub field: Option<String>,
}

impl About {
    /// An object of the core group.
    pub fn object(kind: &'static str, object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
        Self { kind, namespace, name, uid, version: text("resourceVersion"), field: None }
    }

    /// A node, which events name by its name and not by its uid, as upstream's do.
    pub fn node(name: &str) -> Self {
        Self { kind: "Node", name: name.to_owned(), uid: name.to_owned(), ..Self::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Occurrence {
    about: About,
    severity: Severity,
    reason: String,
    message: String,
}

impl Occurrence {
    fn namespace(&self) -> &str {
        if self.about.namespace.is_empty() { "default" } else { &self.about.namespace }
    }
}

/// So many events are written at the same time, those of one object one after the other.
const WRITERS: usize = 4;

/// Writes events. Cloning shares the writers.
#[derive(Clone)]
pub struct Recorder {
    queues: Arc<[mpsc::Sender<Occurrence>]>,
}

impl Recorder {
    /// Starts the tasks that write events as `component` on `host`. They end with the last recorder.
    pub fn start(client: Client, component: &'static str, host: String) -> Self {
        let start = |_| {
            let (queue, occurrences) = mpsc::channel(QUEUE);
            let (client, host, written) = (client.clone(), host.clone(), HashMap::new());
            tokio::spawn(Writer { client, component, host, written }.run(occurrences));
            queue
        };
        Self { queues: (0..WRITERS).map(start).collect() }
    }

    /// Tells what happened.
    pub fn tell(&self, about: About, severity: Severity, reason: &str, message: &str) {
        self.send(Occurrence { about, severity, reason: reason.to_owned(), message: message.to_owned() });
    }

    fn send(&self, occurrence: Occurrence) {
        let mut hasher = DefaultHasher::new();
        (&occurrence.about.namespace, &occurrence.about.name).hash(&mut hasher);
        let queue = &self.queues[(hasher.finish() % WRITERS as u64) as usize];
        if queue.try_send(occurrence).is_err() {
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

    async fn write(&mut self, occurrence: &Occurrence) -> Result<(), Error> {
        // The version of the object is no part of what makes two events the same.
        let mut key = occurrence.clone();
        key.about.version.clear();
        let now = Timestamp::now();
        if let Some((path, count)) = self.written.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": time::format(now)});
            match self.client.patch_unread(path, Patch::Merge, &patch).await {
                Ok(()) => return Ok(()),
                // It has expired: written anew below.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", occurrence.about.name, now.as_nanosecond());
        let event = self.event(occurrence, &name, now);
        self.client.create_unread(&resource::EVENTS.collection(Some(occurrence.namespace())), &event).await?;
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        self.written.insert(key, (resource::EVENTS.object(Some(occurrence.namespace()), &name), 1));
        Ok(())
    }

    fn event(&self, occurrence: &Occurrence, name: &str, now: Timestamp) -> Value {
        let about = &occurrence.about;
        let mut involved = json!({"kind": about.kind, "apiVersion": "v1", "name": about.name, "uid": about.uid});
        let optional = [("namespace", &about.namespace), ("resourceVersion", &about.version)];
        for (field, text) in optional.into_iter().filter(|(_, text)| !text.is_empty()) {
            involved[field] = text.as_str().into();
        }
        if let Some(field) = &about.field {
            involved["fieldPath"] = field.as_str().into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": occurrence.namespace()},
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

//! Tells what happens to the pods of this node.

use client::events::{About, Recorder};

pub use client::events::Severity;

use crate::pod::Pod;

/// The node's voice. Cloning shares it.
#[derive(Clone)]
pub struct Events(Recorder);

impl Events {
    /// Speaks through a recorder.
    pub fn new(recorder: Recorder) -> Self {
        Self(recorder)
    }

    /// Tells what happened to a pod, or to one of its containers (`spec.containers{name}`).
    pub fn pod(&self, pod: &Pod, field: Option<String>, severity: Severity, reason: &str, message: &str) {
        self.0.tell(About { field, ..About::object("Pod", pod.value()) }, severity, reason, message);
    }

    /// Tells what happened to the node.
    pub fn node(&self, name: &str, reason: &str, message: &str) {
        self.0.tell(About::node(name), Severity::Normal, reason, message);
    }
}

//! A pod as this node is told to run it: the API's object, typed once, with the questions that the agent asks of it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::Error;

/// What `terminationGracePeriodSeconds` is when nothing says it.
const DEFAULT_GRACE: i64 = 30;

/// One state of a pod. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pod {
    value: Arc<Value>,
    typed: Arc<core::Pod>,
}

/// What the pod's containers do when they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Start again.
    Always,
    /// Start again after a failure.
    OnFailure,
    /// Stay ended.
    Never,
}

impl Pod {
    /// Types a pod.
    ///
    /// # Errors
    /// [`Error::Failed`] when it is no pod, or lacks name, namespace or uid.
    pub fn new(value: Arc<Value>) -> Result<Self, Error> {
        let typed = api::typed::pod(&value).map_err(|e| Error::failed("reading a pod", e))?;
        let meta = &typed.metadata;
        if meta.name.is_none() || meta.namespace.is_none() || meta.uid.is_none() || typed.spec.is_none() {
            return Err(Error::failed("reading a pod", "it has no name, namespace, uid or spec"));
        }
        Ok(Self { value, typed: Arc::new(typed) })
    }

    /// The object as the API has it.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.typed.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.typed.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// What tells it from another pod of the same name.
    pub fn uid(&self) -> &str {
        self.typed.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The metadata.
    pub fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        &self.typed.metadata
    }

    /// What should run.
    pub fn spec(&self) -> &core::PodSpec {
        self.typed.spec.as_ref().expect("a pod without spec is refused by `new`")
    }

    /// What was reported last.
    pub fn status(&self) -> Option<&core::PodStatus> {
        self.typed.status.as_ref()
    }

    /// Succeeded and Failed are for ever.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// The phase that was reported last.
    pub fn phase(&self) -> &str {
        self.status().and_then(|status| status.phase.as_deref()).unwrap_or_default()
    }

    /// When its containers must have ended, if it is being deleted.
    pub fn deletion(&self) -> Option<Timestamp> {
        self.typed.metadata.deletion_timestamp.as_ref().map(|time| time.0)
    }

    /// How long its containers may take to end.
    pub fn grace(&self) -> Duration {
        let asked = self.typed.metadata.deletion_grace_period_seconds;
        let seconds = asked.or(self.spec().termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
        Duration::from_secs(seconds.try_into().unwrap_or(0))
    }

    /// What its containers do when they end.
    pub fn restart_policy(&self) -> RestartPolicy {
        match self.spec().restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    /// Whether it lives in the machine's own network.
    pub fn uses_host_network(&self) -> bool {
        self.spec().host_network == Some(true)
    }

    /// The init containers, in order.
    pub fn init_containers(&self) -> &[core::Container] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }

    /// The containers, in order.
    pub fn containers(&self) -> &[core::Container] {
        &self.spec().containers
    }

    /// A container or init container.
    pub fn container(&self, name: &str) -> Option<&core::Container> {
        self.init_containers().iter().chain(self.containers()).find(|container| container.name == name)
    }

    /// The name that its processes see.
    pub fn hostname(&self) -> String {
        let spec = self.spec();
        let name = spec.hostname_override.as_deref().or(spec.hostname.as_deref()).filter(|name| !name.is_empty());
        let mut name = name.unwrap_or(self.name()).to_owned();
        if spec.hostname_override.is_none() {
            name.truncate(63);
        }
        name.trim_end_matches(['-', '.']).to_owned()
    }

    /// How messages name it: `name_namespace(uid)`.
    pub fn label(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    /// When it may run no longer, given when it began.
    pub fn active_deadline(&self, started: Timestamp) -> Option<Timestamp> {
        let seconds = self.spec().active_deadline_seconds?;
        started.checked_add(Duration::from_secs(seconds.try_into().unwrap_or(0))).ok()
    }
}

//! One pod's loop: look, report, ask the plan for the next step, take it. It decides nothing and forgets everything on a restart.

mod end;
mod look;
mod start;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Patch, resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use runtime::{ContainerState, Sandbox};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::agent::{Entry, Shared, addresses_of};
use crate::events::Severity;
use crate::images::field;
use crate::plan::{self, Desired, Step};
use crate::pod::Pod;
use crate::spec::Paths;
use crate::status::{self, Verdict, View, Waiting};
use crate::volume::Volumes;
use crate::{Error, observe};

/// A container that cannot be made as its pod describes it is tried again after this time; a change of the pod comes first.
const CONFIG_RETRY: Duration = Duration::from_secs(5);
const SANDBOX_RETRY: Duration = Duration::from_secs(1);

/// What the source tells a worker.
#[derive(Debug, Clone)]
pub struct Order {
    /// The newest state of the pod.
    pub pod: Pod,
    /// The API has forgotten the pod: end it at once, report nothing.
    pub is_gone: bool,
}

/// Runs one pod until it has gone.
pub struct Worker {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    pod: Pod,
    is_gone: bool,
    paths: Paths,
    sandbox: Option<Arc<Sandbox>>,
    /// None in the machine's network, and before there is a sandbox.
    addresses: Vec<IpAddr>,
    /// Containers of sandboxes that have gone.
    former: Vec<ContainerState>,
    volumes: Volumes,
    started: Timestamp,
    troubles: BTreeMap<String, Trouble>,
    crashes: BTreeMap<String, (u32, u32)>,
    start_failures: BTreeMap<String, String>,
    last_words: BTreeMap<String, String>,
    renewing: BTreeMap<String, Timestamp>,
    sandbox_retry: Option<Timestamp>,
    stop: Option<Stop>,
    verdict: Option<Verdict>,
    is_torn_down: bool,
}

/// Why a container cannot be started.
struct Trouble {
    waiting: Waiting,
    retry: Option<Timestamp>,
}

struct Stop {
    deadline: Timestamp,
    is_killed: bool,
}

/// What a worker listens to, whatever it is doing.
pub(crate) struct Inbox {
    orders: watch::Receiver<Order>,
    shutdown: watch::Receiver<bool>,
}

/// What a wait ended with.
enum Woken {
    Work,
    Shutdown,
}

impl Worker {
    /// A worker for a pod, with the sandbox that an earlier agent left, if any.
    pub fn new(shared: Arc<Shared>, entry: Arc<Entry>, pod: Pod, sandbox: Option<Arc<Sandbox>>) -> Self {
        let addresses = sandbox.as_deref().map(addresses_of).unwrap_or_default();
        let former = if sandbox.is_none() { observe::reported(&pod) } else { Vec::new() };
        let begun = pod.status().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        // A pod that was finished before this agent began has nothing left to do.
        let is_torn_down = pod.is_finished() && sandbox.is_none();
        Self {
            paths: shared.paths(&pod),
            started: begun.unwrap_or_else(Timestamp::now),
            shared,
            entry,
            pod,
            is_gone: false,
            sandbox,
            addresses,
            former,
            volumes: Volumes::new(),
            troubles: BTreeMap::new(),
            crashes: BTreeMap::new(),
            start_failures: BTreeMap::new(),
            last_words: BTreeMap::new(),
            renewing: BTreeMap::new(),
            sandbox_retry: None,
            stop: None,
            verdict: None,
            is_torn_down,
        }
    }

    /// Works until the pod has gone, or until the shutdown: then the pod runs on without this agent.
    pub async fn run(mut self, orders: watch::Receiver<Order>, shutdown: watch::Receiver<bool>) {
        let mut inbox = Inbox { orders, shutdown };
        self.adopt();
        while !*inbox.shutdown.borrow() {
            // Whatever changes from here on wakes the wait below.
            let changes = self.sandbox.as_ref().map(|sandbox| sandbox.changes());
            self.take_order(&mut inbox.orders);
            if self.is_torn_down && (self.is_gone || self.pod.deletion().is_some()) && self.leave().await {
                return;
            }
            let step = self.step();
            tracing::debug!(pod = self.pod.label(), ?step, "next");
            let until = match step {
                Step::Wait(until) => until,
                step => match self.carry_out(step, &mut inbox).await {
                    Some(until) => Some(until),
                    None => continue,
                },
            };
            let until = if self.try_report().await { until } else { Some(later(SANDBOX_RETRY)) };
            if let Woken::Shutdown = self.wait(until, changes, &mut inbox).await {
                return;
            }
        }
    }

    /// Takes up what an earlier agent left: the volumes are where they were, the host ports are opened again.
    fn adopt(&mut self) {
        let Some(sandbox) = self.sandbox.clone() else { return };
        self.entry.set_sandbox(Some(sandbox.clone()));
        if sandbox.is_alive()
            && let Err(error) = self.prepare_volumes()
        {
            tracing::warn!(error = error.chain(), pod = self.pod.label(), "adopting volumes");
        }
        if let Err(error) = self.shared.addresses.open_ports(&self.pod, &self.addresses) {
            tracing::warn!(error = error.chain(), pod = self.pod.label(), "opening host ports");
        }
    }

    fn take_order(&mut self, orders: &mut watch::Receiver<Order>) {
        let order = orders.borrow_and_update().clone();
        self.is_gone |= order.is_gone;
        if version(&order.pod) <= version(&self.pod) {
            return;
        }
        if order.pod.meta().generation != self.pod.meta().generation {
            self.troubles.clear();
        }
        self.set_pod(order.pod);
    }

    fn set_pod(&mut self, pod: Pod) {
        self.entry.set_pod(pod.clone());
        self.pod = pod;
    }

    fn is_ending(&self, now: Timestamp) -> bool {
        let overdue = self.pod.active_deadline(self.started).is_some_and(|deadline| deadline <= now);
        self.is_gone || self.pod.deletion().is_some() || overdue || self.verdict.is_some() || self.pod.is_finished()
    }

    fn step(&mut self) -> Step {
        let now = Timestamp::now();
        if self.is_torn_down {
            return Step::Wait(None);
        }
        let observed = self.observe();
        let pod = self.pod.clone();
        let names = |list: &[core::Container]| list.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        let (init, main) = (names(pod.init_containers()), names(pod.containers()));
        let desired = Desired {
            init: init.iter().map(String::as_str).collect(),
            containers: main.iter().map(String::as_str).collect(),
            policy: pod.restart_policy(),
            is_ending: self.is_ending(now),
        };
        match plan::next(&desired, &observed, now) {
            Step::Wait(until) => Step::Wait(earliest(until, pod.active_deadline(self.started).filter(|d| *d > now))),
            step => step,
        }
    }

    /// Reports the status; false if that must be tried again.
    async fn try_report(&mut self) -> bool {
        let result = self.report().await;
        if let Err(error) = &result {
            tracing::debug!(error = error.chain(), pod = self.pod.label(), "reporting a status");
        }
        result.is_ok()
    }

    async fn report(&mut self) -> Result<(), Error> {
        if self.is_gone || self.is_torn_down {
            return Ok(());
        }
        let view = self.view();
        self.tell_back_off(&view);
        let status = status::compose(&self.pod, &view, Timestamp::now());
        if !differs(&self.pod.value()["status"], &status) {
            return Ok(());
        }
        let path = resource::PODS.subresource(Some(self.pod.namespace()), self.pod.name(), "status");
        let patch = json!({"metadata": {"uid": self.pod.uid()}, "status": status});
        let answer = match self.shared.client.patch(&path, Patch::Merge, &patch).await {
            Ok(answer) => answer,
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.set_pod(Pod::new(Arc::new(answer))?);
        Ok(())
    }

    fn tell_back_off(&self, view: &View) {
        for seen in &view.containers {
            let (Some(waiting), Some(container)) = (&seen.waiting, self.pod.container(&seen.name)) else { continue };
            if waiting.reason == "CrashLoopBackOff" {
                let message = format!("Back-off restarting failed container {} in pod {}", seen.name, self.pod.label());
                let field = Some(field(&self.pod, container));
                self.shared.recorder.pod(&self.pod, field, Severity::Warning, "BackOff", &message);
            }
        }
    }

    /// Waits for an order, a change of the sandbox, the given moment or the shutdown.
    async fn wait(
        &mut self,
        until: Option<Timestamp>,
        changes: Option<watch::Receiver<u64>>,
        inbox: &mut Inbox,
    ) -> Woken {
        let renewed = self.renew().await;
        let until = earliest(until, renewed).map(instant);
        tokio::select! {
            changed = inbox.orders.changed() => if changed.is_err() { return Woken::Shutdown },
            () = changed(changes) => {}
            () = at(until) => {}
            () = wire::listen::stopped(&mut inbox.shutdown) => return Woken::Shutdown,
        }
        Woken::Work
    }
}

/// Why a container was not started.
enum Failure {
    Image(crate::images::Refusal),
    Start(Error),
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Start(error)
    }
}

/// Waits until the sandbox changes; one that has gone changes no more.
async fn changed(changes: Option<watch::Receiver<u64>>) {
    if let Some(mut changes) = changes
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Waits until a moment; without one, for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn newest<'a>(states: &'a [(ContainerState, bool)], name: &str) -> Option<&'a (ContainerState, bool)> {
    states.iter().filter(|(state, _)| state.name == name).max_by_key(|(state, _)| observe::attempt(state))
}

fn version(pod: &Pod) -> u64 {
    pod.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn later(delay: Duration) -> Timestamp {
    Timestamp::now().checked_add(delay).unwrap_or(Timestamp::MAX)
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn instant(moment: Timestamp) -> Instant {
    let span = moment.duration_since(Timestamp::now());
    Instant::now() + Duration::try_from(span).unwrap_or(Duration::ZERO).min(Duration::from_secs(365 * 24 * 3600))
}

/// `10s`, `2m40s`: as Go writes durations.
fn duration(span: Duration) -> String {
    match (span.as_secs() / 60, span.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// Whether a merge patch would change anything.
fn differs(current: &Value, patch: &Value) -> bool {
    match (current, patch) {
        (Value::Object(current), Value::Object(patch)) => patch.iter().any(|(key, value)| match current.get(key) {
            None => !is_blank(value),
            Some(now) if value.is_null() => !now.is_null(),
            Some(now) => differs(now, value),
        }),
        (Value::Array(current), Value::Array(patch)) => {
            current.len() != patch.len() || current.iter().zip(patch).any(|(now, then)| differs(now, then))
        }
        (current, patch) => current != patch,
    }
}

/// What the API server leaves out when it writes an object.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(truth) => !truth,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_change_differs() {
        let current = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "x": null}]});
        assert!(!differs(&current, &json!({"phase": "Running", "reason": null})));
        assert!(!differs(&current, &json!({"conditions": [{"type": "Ready", "status": "True"}]})));
        assert!(differs(&current, &json!({"conditions": [{"type": "Ready", "status": "False"}]})));
        assert!(differs(&current, &json!({"conditions": []})));
        assert!(differs(&current, &json!({"phase": null})));
    }

    #[test]
    fn durations_read_as_upstreams() {
        let text = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!((text(10), text(160), text(300)), ("10s".into(), "2m40s".into(), "5m0s".into()));
    }
}

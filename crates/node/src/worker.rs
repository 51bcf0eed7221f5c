//! One pod's loop: look, report, ask the plan for the next step, take it. It decides nothing and forgets everything on a restart.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use client::{Delete, Patch, resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use runtime::{ContainerState, Network, Phase, Sandbox, SandboxSpec};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::agent::{Entry, Shared};
use crate::env::{self, Surroundings};
use crate::events::Severity;
use crate::images::field;
use crate::plan::{self, Desired, Observed, Step};
use crate::pod::Pod;
use crate::spec::{self, Context, Paths, annotation};
use crate::status::{self, Seen, Verdict, View, Waiting};
use crate::volume::{self, Volumes};
use crate::{Error, observe, resources, signal};

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
    address: Option<Ipv4Addr>,
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

/// What a wait ended with.
enum Woken {
    Work,
    Shutdown,
}

impl Worker {
    /// A worker for a pod, with the sandbox that an earlier agent left, if any.
    pub fn new(shared: Arc<Shared>, entry: Arc<Entry>, pod: Pod, sandbox: Option<Arc<Sandbox>>) -> Self {
        let address = sandbox.as_ref().and_then(|s| s.spec().annotations.get(annotation::ADDRESS)?.parse().ok());
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
            address,
            former: Vec::new(),
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
    pub async fn run(mut self, mut orders: watch::Receiver<Order>, mut shutdown: watch::Receiver<bool>) {
        self.adopt();
        loop {
            // Whatever changes from here on wakes the wait below.
            let changes = self.sandbox.as_ref().map(|sandbox| sandbox.changes());
            self.take_order(&mut orders);
            if self.is_torn_down && (self.is_gone || self.pod.deletion().is_some()) && self.leave().await {
                return;
            }
            let step = self.step();
            let until = match step {
                Step::Wait(until) => until,
                step => match self.carry_out(step, &mut orders).await {
                    Some(until) => Some(until),
                    None => continue,
                },
            };
            let until = match self.report().await {
                Ok(()) => until,
                Err(error) => {
                    tracing::debug!(error = error.chain(), pod = self.pod.label(), "reporting a status");
                    Some(later(SANDBOX_RETRY))
                }
            };
            if let Woken::Shutdown = self.wait(until, changes, &mut orders, &mut shutdown).await {
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
        if let Some(address) = self.address
            && let Err(error) = self.shared.addresses.open_ports(&self.pod, address)
        {
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

    // === Looking ===

    fn states(&self) -> Vec<(ContainerState, bool)> {
        let current = self.sandbox.iter().flat_map(|s| s.containers()).map(|state| (state, true));
        let is_current = self.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_alive());
        self.former.iter().cloned().map(|state| (state, false)).chain(current.map(|(s, _)| (s, is_current))).collect()
    }

    fn names(&self) -> Vec<String> {
        let all = self.pod.init_containers().iter().chain(self.pod.containers());
        all.map(|container| container.name.clone()).collect()
    }

    fn observe(&mut self) -> Observed {
        let states = self.states();
        let sandbox = match &self.sandbox {
            None => plan::Sandbox::None,
            Some(sandbox) if sandbox.is_alive() => plan::Sandbox::Alive,
            Some(_) => plan::Sandbox::Dead,
        };
        let containers = self.names().iter().filter_map(|name| self.observe_container(name, &states)).collect();
        Observed { sandbox, containers }
    }

    fn observe_container(&mut self, name: &str, states: &[(ContainerState, bool)]) -> Option<plan::Container> {
        let retry = self.troubles.get(name).map(|trouble| trouble.retry.unwrap_or(Timestamp::MAX));
        let Some((state, is_current)) = newest(states, name) else {
            let attempt = self.reported_restarts(name);
            let missing = plan::State::Missing;
            return retry.map(|due| plan::Container {
                name: name.to_owned(),
                attempt,
                is_current: true,
                state: missing,
                not_before: Some(due),
            });
        };
        let attempt = observe::attempt(state);
        let (what, not_before) = match observe::exit_code(state) {
            Some(code) => {
                let crashes = self.count_crash(name, attempt, state);
                let finished = observe::timestamp(state.finished.unwrap_or(state.created));
                (plan::State::Exited(code), Some(observe::back_off(crashes, finished).0).max(retry))
            }
            None => (plan::State::Running, None),
        };
        Some(plan::Container { name: name.to_owned(), attempt, is_current: *is_current, state: what, not_before })
    }

    /// How often in a row a container has ended, this end included.
    fn count_crash(&mut self, name: &str, attempt: u32, state: &ContainerState) -> u32 {
        let entry = self.crashes.entry(name.to_owned()).or_insert((attempt, attempt));
        if observe::has_recovered(state) {
            *entry = (attempt, 0);
        } else if entry.0 != attempt {
            *entry = (attempt, entry.1 + 1);
        }
        entry.1 + 1
    }

    /// After the loss of all records, the API remembers how often a container was started.
    fn reported_restarts(&self, name: &str) -> u32 {
        let status = self.pod.status();
        let lists = [
            status.and_then(|s| s.container_statuses.as_ref()),
            status.and_then(|s| s.init_container_statuses.as_ref()),
        ];
        let found = lists.into_iter().flatten().flatten().find(|container| container.name == name);
        found.and_then(|container| u32::try_from(container.restart_count).ok()).unwrap_or(0)
    }

    fn view(&mut self) -> View {
        let states = self.states();
        let now = Timestamp::now();
        let names = self.names();
        let containers = names.iter().map(|name| self.seen(name, &states, now)).collect();
        let host = self.pod.uses_host_network();
        let address = if host { Some(self.shared.node_address.clone()) } else { self.address.map(|a| a.to_string()) };
        View {
            containers,
            has_sandbox: self.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_alive()),
            address: address.filter(|_| self.sandbox.is_some() || self.is_torn_down || !self.former.is_empty()),
            node_address: self.shared.node_address.clone(),
            started: self.started,
            verdict: self.verdict.clone(),
        }
    }

    fn seen(&mut self, name: &str, states: &[(ContainerState, bool)], now: Timestamp) -> Seen {
        let mut own: Vec<&(ContainerState, bool)> = states.iter().filter(|(state, _)| state.name == name).collect();
        own.sort_by_key(|(state, _)| observe::attempt(state));
        let current = own.pop().map(|(state, _)| state.clone());
        let previous = own.pop().map(|(state, _)| state.clone());
        let waiting = match self.troubles.get(name) {
            Some(trouble) => Some(trouble.waiting.clone()),
            None => current.as_ref().and_then(|state| self.crash_loop(name, state, now)),
        };
        let container = self.pod.container(name).cloned();
        let mut record = |state: ContainerState| {
            let (uid, words) = (self.pod.uid(), &mut self.last_words);
            observe::record(uid, &state, container.as_ref(), &self.paths, &self.start_failures, words)
        };
        Seen { name: name.to_owned(), current: current.map(&mut record), previous: previous.map(&mut record), waiting }
    }

    /// A container that has ended and will start again, but not yet.
    fn crash_loop(&self, name: &str, state: &ContainerState, now: Timestamp) -> Option<Waiting> {
        let code = observe::exit_code(state)?;
        let restarts = match self.pod.restart_policy() {
            crate::pod::RestartPolicy::Always => !self.is_init(name) || code != 0,
            crate::pod::RestartPolicy::OnFailure => code != 0,
            crate::pod::RestartPolicy::Never => false,
        };
        if !restarts || self.is_ending(now) || self.verdict.is_some() {
            return None;
        }
        let crashes = self.crashes.get(name).map_or(0, |(_, crashes)| *crashes) + 1;
        let finished = observe::timestamp(state.finished.unwrap_or(state.created));
        let (due, delay) = observe::back_off(crashes, finished);
        (due > now).then(|| Waiting {
            reason: "CrashLoopBackOff".into(),
            message: format!(
                "back-off {} restarting failed container={name} pod={}",
                duration(delay),
                self.pod.label()
            ),
        })
    }

    fn is_init(&self, name: &str) -> bool {
        self.pod.init_containers().iter().any(|container| container.name == name)
    }

    // === Deciding ===

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

    // === Acting ===

    /// Takes a step. `Some` is a moment to wait for before the next look; `None` looks again at once.
    async fn carry_out(&mut self, step: Step, orders: &mut watch::Receiver<Order>) -> Option<Timestamp> {
        match step {
            Step::MakeSandbox => match self.sandbox_retry.filter(|retry| *retry > Timestamp::now()) {
                Some(retry) => Some(retry),
                None => self.make_sandbox().await,
            },
            Step::Start { name, attempt } => {
                self.start(&name, attempt, orders).await;
                None
            }
            Step::Stop => self.stop().await,
            Step::TearDown(phase) => self.tear_down(phase).await,
            Step::Wait(until) => until,
        }
    }

    async fn make_sandbox(&mut self) -> Option<Timestamp> {
        match self.try_sandbox().await {
            Ok(()) => {
                self.sandbox_retry = None;
                None
            }
            Err(Error::Config { reason, message }) => self.sandbox_trouble(reason, &message),
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {}", error.chain());
                self.sandbox_trouble("FailedCreatePodSandBox", &message)
            }
        }
    }

    fn sandbox_trouble(&mut self, reason: &'static str, message: &str) -> Option<Timestamp> {
        self.shared.recorder.pod(&self.pod, None, Severity::Warning, reason, message);
        let retry = later(if reason == "FailedMount" { CONFIG_RETRY } else { SANDBOX_RETRY });
        self.sandbox_retry = Some(retry);
        Some(retry)
    }

    async fn try_sandbox(&mut self) -> Result<(), Error> {
        self.bury_sandbox().await?;
        self.prepare_volumes()?;
        let (network, address) = self.network()?;
        spec::write_files(&self.pod, &self.paths, &address)?;
        let sandbox = match self.shared.runtime.create_sandbox(self.sandbox_spec(network)).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                self.release_address();
                return Err(error.into());
            }
        };
        if let Some(address) = self.address {
            self.shared.addresses.open_ports(&self.pod, address)?;
        }
        self.entry.set_sandbox(Some(sandbox.clone()));
        self.sandbox = Some(sandbox);
        Ok(())
    }

    /// Takes a dead sandbox away; what its containers did is remembered.
    async fn bury_sandbox(&mut self) -> Result<(), Error> {
        let Some(sandbox) = self.sandbox.take() else { return Ok(()) };
        self.shared.recorder.pod(
            &self.pod,
            None,
            Severity::Normal,
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.",
        );
        self.remember(&sandbox);
        self.entry.set_sandbox(None);
        sandbox.remove().await?;
        self.release_address();
        Ok(())
    }

    /// Keeps the two newest containers of each name.
    fn remember(&mut self, sandbox: &Sandbox) {
        self.former.extend(sandbox.containers().into_iter().map(|mut state| {
            state.phase = Phase::Exited;
            state
        }));
        self.former.sort_by_key(|state| std::cmp::Reverse(observe::attempt(state)));
        let mut kept: BTreeMap<String, u32> = BTreeMap::new();
        self.former.retain(|state| {
            let count = kept.entry(state.name.clone()).or_default();
            *count += 1;
            *count <= 2
        });
    }

    fn prepare_volumes(&mut self) -> Result<(), Error> {
        self.volumes = volume::prepare(&self.pod, &self.paths.directory.join("volumes"))?;
        Ok(())
    }

    fn network(&mut self) -> Result<(Network, String), Error> {
        if self.pod.uses_host_network() {
            return Ok((Network::Host, self.shared.node_address.clone()));
        }
        let address = self.shared.addresses.allocate()?;
        self.address = Some(address);
        let attachment = self.shared.addresses.attachment(self.pod.uid(), address)?;
        Ok((Network::Attached(attachment), address.to_string()))
    }

    fn release_address(&mut self) {
        if let Some(address) = self.address.take() {
            self.shared.addresses.release(address);
        }
    }

    fn sandbox_spec(&self, network: Network) -> SandboxSpec {
        let pod = &self.pod;
        let context = pod.spec().security_context.as_ref();
        let sysctls = context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
        let mut annotations = BTreeMap::from([
            (annotation::POD_UID.to_owned(), pod.uid().to_owned()),
            (annotation::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
            (annotation::POD_NAME.to_owned(), pod.name().to_owned()),
        ]);
        if let Some(address) = self.address {
            annotations.insert(annotation::ADDRESS.to_owned(), address.to_string());
        }
        SandboxSpec {
            id: pod.uid().to_owned(),
            hostname: pod.hostname(),
            network,
            pid: spec::pid_namespace(pod),
            host_ipc: pod.spec().host_ipc == Some(true),
            sysctls: sysctls.iter().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
            resources: resources::of_pod(pod),
            oom_score_adj: Some(-998),
            annotations,
        }
    }

    async fn start(&mut self, name: &str, attempt: u32, orders: &mut watch::Receiver<Order>) {
        let Some(container) = self.pod.container(name).cloned() else { return };
        let result = self.try_start(&container, attempt, orders).await;
        let tell = |severity, reason, message: &str| {
            self.shared.recorder.pod(&self.pod, Some(field(&self.pod, &container)), severity, reason, message);
        };
        match result {
            Ok(()) => {
                tell(Severity::Normal, "Created", "Container created");
                tell(Severity::Normal, "Started", "Container started");
                self.troubles.remove(name);
            }
            Err(Failure::Interrupted) => {}
            Err(Failure::Image(refusal)) => {
                let waiting = Waiting { reason: refusal.reason.into(), message: refusal.message };
                self.troubles.insert(name.to_owned(), Trouble { waiting, retry: refusal.retry });
                if let Err(error) = self.report().await {
                    tracing::debug!(error = error.chain(), pod = self.pod.label(), "reporting a status");
                }
                // The next look tells of backing off.
                if let Some(trouble) = self.troubles.get_mut(name)
                    && trouble.waiting.reason == "ErrImagePull"
                {
                    let image = container.image.as_deref().unwrap_or_default();
                    let message =
                        format!("Back-off pulling image \"{image}\": ErrImagePull: {}", trouble.waiting.message);
                    trouble.waiting = Waiting { reason: "ImagePullBackOff".into(), message };
                    let message = format!("Back-off pulling image \"{image}\"");
                    self.shared.recorder.pod(
                        &self.pod,
                        Some(field(&self.pod, &container)),
                        Severity::Normal,
                        "BackOff",
                        &message,
                    );
                }
            }
            Err(Failure::Start(error)) => self.start_failed(&container, attempt, &error),
        }
    }

    fn start_failed(&mut self, container: &core::Container, attempt: u32, error: &Error) {
        let (reason, message) = match error {
            Error::Config { reason, message } => (*reason, message.clone()),
            Error::Runtime(runtime::Error::Start { message, .. }) => ("RunContainerError", message.clone()),
            other => ("CreateContainerError", other.chain()),
        };
        let text = format!("Error: {message}");
        self.shared.recorder.pod(&self.pod, Some(field(&self.pod, container)), Severity::Warning, "Failed", &text);
        let id = spec::container_id(&container.name, attempt);
        // A container whose process could not be started counts as one that has ended; the back-off of crashes applies.
        if self.sandbox.as_ref().is_some_and(|sandbox| sandbox.container(&id).is_some()) {
            self.start_failures.insert(id, message);
            self.troubles.remove(&container.name);
            return;
        }
        let trouble = Trouble { waiting: Waiting { reason: reason.into(), message }, retry: Some(later(CONFIG_RETRY)) };
        self.troubles.insert(container.name.clone(), trouble);
    }

    async fn try_start(
        &mut self,
        container: &core::Container,
        attempt: u32,
        orders: &mut watch::Receiver<Order>,
    ) -> Result<(), Failure> {
        let sandbox = self.sandbox.clone().ok_or(Failure::Interrupted)?;
        let image = self.image(container, orders).await?;
        let around = self.surroundings();
        let environment = env::collect(&self.shared.client, &self.pod, container, &around).await?;
        let context = Context {
            pod: &self.pod,
            container,
            attempt,
            image: &image,
            environment: &environment,
            volumes: &self.volumes,
            paths: &self.paths,
            capacity: &self.shared.capacity,
        };
        let wanted = spec::translate(&context)?;
        spec::write_container_files(&self.paths, &container.name, attempt)?;
        self.forget_old(&sandbox, &container.name, attempt).await;
        sandbox.start(wanted).await.map_err(Error::from)?;
        Ok(())
    }

    /// The image; a deletion or a change of the pod interrupts the wait for it.
    async fn image(
        &mut self,
        container: &core::Container,
        orders: &mut watch::Receiver<Order>,
    ) -> Result<runtime::image::Image, Failure> {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let (pulled, is_here) = (container.clone(), shared.images.is_here(container));
        if is_here {
            return shared.images.ensure(&pod, container).await.map_err(Failure::Image);
        }
        let mut pull = tokio::spawn(async move { shared.images.ensure(&pod, &pulled).await });
        // A pull may take long: what is known so far is told before it.
        if let Err(error) = self.report().await {
            tracing::debug!(error = error.chain(), pod = self.pod.label(), "reporting a status");
        }
        loop {
            tokio::select! {
                done = &mut pull => {
                    return done.map_err(|_| Failure::Interrupted)?.map_err(Failure::Image);
                }
                changed = orders.changed() => {
                    let order = orders.borrow().clone();
                    if changed.is_err() || order.is_gone || order.pod.deletion().is_some() {
                        return Err(Failure::Interrupted);
                    }
                }
            }
        }
    }

    fn surroundings(&self) -> Surroundings {
        let own = self.address.map(|address| address.to_string());
        Surroundings {
            node_name: self.shared.node_name.clone(),
            node_address: self.shared.node_address.clone(),
            pod_address: own.unwrap_or_else(|| self.shared.node_address.clone()),
            capacity: self.shared.capacity,
        }
    }

    /// Only the container before this one is kept, for `logs --previous` and `lastState`.
    async fn forget_old(&mut self, sandbox: &Sandbox, name: &str, attempt: u32) {
        for state in sandbox.containers().iter().filter(|state| state.name == name) {
            let old = observe::attempt(state);
            if old + 1 < attempt {
                if let Err(error) = sandbox.remove_container(&state.id).await {
                    tracing::warn!(%error, container = state.id, "removing an old container");
                }
                self.start_failures.remove(&state.id);
                self.last_words.remove(&state.id);
                crate::logs::remove(&self.paths.log(name, old));
            }
        }
    }

    // === Ending ===

    async fn stop(&mut self) -> Option<Timestamp> {
        let sandbox = self.sandbox.clone()?;
        let now = Timestamp::now();
        let running: Vec<ContainerState> =
            sandbox.containers().into_iter().filter(|state| observe::exit_code(state).is_none()).collect();
        if self.stop.is_none() {
            self.note_deadline(now);
            self.begin_stop(&sandbox, &running).await;
            let grace = if self.is_gone { Duration::ZERO } else { self.pod.grace() };
            self.stop = Some(Stop { deadline: now.checked_add(grace).unwrap_or(Timestamp::MAX), is_killed: false });
        }
        let stop = self.stop.as_mut()?;
        if let Some(deletion) = self.pod.deletion() {
            stop.deadline = stop.deadline.min(deletion.max(Timestamp::UNIX_EPOCH));
        }
        if self.is_gone {
            stop.deadline = now;
        }
        if stop.deadline > now {
            return Some(stop.deadline);
        }
        if !std::mem::replace(&mut stop.is_killed, true) {
            for state in &running {
                if let Err(error) = sandbox.kill(&state.id).await {
                    tracing::warn!(%error, container = state.id, "killing a container");
                }
            }
        }
        // The end of the last process is a change that wakes the worker; this is for the case that it cannot be killed.
        Some(later(Duration::from_secs(10)))
    }

    /// If the pod outlived its deadline, that is why it ends.
    fn note_deadline(&mut self, now: Timestamp) {
        let overdue = self.pod.active_deadline(self.started).is_some_and(|deadline| deadline <= now);
        if overdue && self.verdict.is_none() && self.pod.deletion().is_none() {
            let message = "Pod was active on the node longer than the specified deadline";
            self.shared.recorder.pod(&self.pod, None, Severity::Normal, "DeadlineExceeded", message);
            let (reason, message) = (Some("DeadlineExceeded"), Some(message.to_owned()));
            self.verdict = Some(Verdict { phase: "Failed", reason, message });
        }
    }

    async fn begin_stop(&self, sandbox: &Sandbox, running: &[ContainerState]) {
        for state in running {
            if let Some(container) = self.pod.container(&state.name) {
                let message = format!("Stopping container {}", state.name);
                let field = Some(field(&self.pod, container));
                self.shared.recorder.pod(&self.pod, field, Severity::Normal, "Killing", &message);
            }
            let name = state.annotations.get(annotation::STOP_SIGNAL).map_or("SIGTERM", String::as_str);
            if let Err(error) = sandbox.signal(&state.id, signal::number(name)).await {
                tracing::debug!(%error, container = state.id, "signalling a container");
            }
        }
    }

    async fn tear_down(&mut self, phase: plan::Phase) -> Option<Timestamp> {
        self.note_deadline(Timestamp::now());
        if self.verdict.is_none() {
            self.verdict = Some(self.final_verdict(phase));
        }
        if !self.is_gone
            && let Err(error) = self.report().await
        {
            tracing::debug!(error = error.chain(), pod = self.pod.label(), "reporting the end of a pod");
        }
        match self.try_tear_down().await {
            Ok(()) => {
                self.is_torn_down = true;
                None
            }
            Err(error) => {
                let message = format!("error killing pod: {}", error.chain());
                self.shared.recorder.pod(&self.pod, None, Severity::Warning, "FailedKillPod", &message);
                Some(later(SANDBOX_RETRY))
            }
        }
    }

    /// What a pod was reported to have ended with stays.
    fn final_verdict(&self, phase: plan::Phase) -> Verdict {
        let phase = match (self.pod.phase(), phase) {
            ("Succeeded", _) => "Succeeded",
            ("Failed", _) => "Failed",
            (_, plan::Phase::Succeeded) => "Succeeded",
            (_, plan::Phase::Failed) => "Failed",
        };
        let status = self.pod.status();
        let reason = status.and_then(|s| s.reason.as_deref()).filter(|reason| *reason == "DeadlineExceeded");
        let message = reason.and(status.and_then(|s| s.message.clone()));
        Verdict { phase, reason: reason.map(|_| "DeadlineExceeded"), message }
    }

    async fn try_tear_down(&mut self) -> Result<(), Error> {
        self.shared.addresses.close_ports(self.pod.uid())?;
        if let Some(sandbox) = self.sandbox.clone() {
            // What the containers said last lies in the directory that goes now.
            drop(self.view());
            sandbox.remove().await?;
            self.remember(&sandbox);
            self.sandbox = None;
            self.entry.set_sandbox(None);
        }
        volume::remove(&self.paths.directory)?;
        if let Some(address) = self.address {
            self.shared.addresses.release(address);
        }
        Ok(())
    }

    /// Lets the API forget the pod, and forgets it too. False if that must be tried again.
    async fn leave(&mut self) -> bool {
        if !self.is_gone {
            let how = Delete { grace_seconds: Some(0), uid: Some(self.pod.uid().to_owned()), ..Delete::default() };
            let path = resource::PODS.object(Some(self.pod.namespace()), self.pod.name());
            match self.shared.client.delete(&path, &how).await {
                Ok(_) => {}
                // Gone already, or another pod has the name now.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    tracing::debug!(%error, pod = self.pod.label(), "letting a pod go");
                    return false;
                }
            }
        }
        if let Err(error) = volume::remove(&self.paths.logs) {
            tracing::warn!(error = error.chain(), "removing the logs of a pod");
        }
        self.shared.images.forget_pod(self.pod.uid());
        true
    }

    // === Reporting and waiting ===

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
        orders: &mut watch::Receiver<Order>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Woken {
        let renewed = self.renew().await;
        let until = earliest(until, renewed).map(instant);
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return Woken::Shutdown },
            () = changed(changes) => {}
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            () = wire::listen::stopped(shutdown) => return Woken::Shutdown,
        }
        Woken::Work
    }

    /// Ends containers whose image was changed, so that they start again with the new one. The next moment to look, if any.
    async fn renew(&mut self) -> Option<Timestamp> {
        let sandbox = self.sandbox.clone().filter(|_| self.stop.is_none())?;
        let now = Timestamp::now();
        for state in sandbox.containers() {
            let Some(container) = self.pod.container(&state.name) else { continue };
            let asked = container.image.as_deref().unwrap_or_default();
            let runs = state.annotations.get(annotation::IMAGE_ASKED).map_or(asked, String::as_str);
            if observe::exit_code(&state).is_some() || runs == asked {
                self.renewing.remove(&state.id);
                continue;
            }
            let grace = self.pod.grace();
            if let Some(deadline) = self.renewing.get(&state.id) {
                if *deadline <= now
                    && let Err(error) = sandbox.kill(&state.id).await
                {
                    tracing::warn!(%error, container = state.id, "killing a container");
                }
                continue;
            }
            let message = format!("Container {} definition changed, will be restarted", state.name);
            let field = Some(field(&self.pod, container));
            self.shared.recorder.pod(&self.pod, field, Severity::Normal, "Killing", &message);
            let name = state.annotations.get(annotation::STOP_SIGNAL).map_or("SIGTERM", String::as_str);
            if let Err(error) = sandbox.signal(&state.id, signal::number(name)).await {
                tracing::debug!(%error, container = state.id, "signalling a container");
            }
            self.renewing.insert(state.id, now.checked_add(grace).unwrap_or(Timestamp::MAX));
        }
        self.renewing.values().copied().filter(|deadline| *deadline > now).min()
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

//! How a worker makes sandboxes and starts containers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use runtime::{ContainerState, Network, Phase, Sandbox, SandboxSpec, StartFailure};

use super::{CONFIG_RETRY, Failure, Inbox, SANDBOX_RETRY, Trouble, Worker, at, instant, later};
use crate::address::Allocated;
use crate::env::{self, Surroundings};
use crate::events::Severity;
use crate::images::{Refusal, field};
use crate::plan::Step;
use crate::spec::{self, Context, annotation};
use crate::status::Waiting;
use crate::{Error, observe, resources, volume};

impl Worker {
    /// Takes a step. `Some` is a moment to wait for before the next look; `None` looks again at once.
    pub(super) async fn carry_out(&mut self, step: Step, inbox: &mut Inbox) -> Option<Timestamp> {
        match step {
            Step::MakeSandbox => match self.sandbox_retry.filter(|retry| *retry > Timestamp::now()) {
                Some(retry) => Some(retry),
                None => self.make_sandbox().await,
            },
            Step::Start { name, attempt } => {
                self.start(&name, attempt, inbox).await;
                None
            }
            Step::Stop => self.stop().await,
            Step::TearDown(phase) => self.tear_down(phase).await,
            Step::Wait(until) => until,
        }
    }

    pub(super) async fn make_sandbox(&mut self) -> Option<Timestamp> {
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

    pub(super) fn sandbox_trouble(&mut self, reason: &'static str, message: &str) -> Option<Timestamp> {
        self.shared.recorder.pod(&self.pod, None, Severity::Warning, reason, message);
        let retry = later(if reason == "FailedMount" { CONFIG_RETRY } else { SANDBOX_RETRY });
        self.sandbox_retry = Some(retry);
        Some(retry)
    }

    pub(super) async fn try_sandbox(&mut self) -> Result<(), Error> {
        self.bury_sandbox().await?;
        self.prepare_volumes()?;
        let raised = self.raise_sandbox().await;
        if raised.is_err() {
            self.release_address();
        }
        raised
    }

    async fn raise_sandbox(&mut self) -> Result<(), Error> {
        let network = self.network().await?;
        spec::write_files(&self.pod, &self.paths, &self.addresses)?;
        let sandbox = self.shared.runtime.create_sandbox(self.sandbox_spec(network)).await?;
        if let Err(error) = self.shared.addresses.open_ports(&self.pod, &self.addresses) {
            sandbox.remove().await?;
            return Err(error);
        }
        self.offload();
        self.entry.set_sandbox(Some(sandbox.clone()));
        // The address may have been lost before the entry told of it.
        self.shared.end_if_stray(&sandbox);
        self.sandbox = Some(sandbox);
        Ok(())
    }

    fn offload(&self) {
        if !self.addresses.is_empty()
            && let Err(error) = self.shared.addresses.offload_attachment(self.pod.uid())
        {
            tracing::warn!(error = error.chain(), pod = self.pod.name(), "its packets go by the machine's rules");
        }
    }

    /// Takes a dead sandbox away; what its containers did is remembered.
    pub(super) async fn bury_sandbox(&mut self) -> Result<(), Error> {
        let Some(sandbox) = self.sandbox.clone() else { return Ok(()) };
        self.shared.recorder.pod(
            &self.pod,
            None,
            Severity::Normal,
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.",
        );
        self.remove_sandbox(&sandbox).await?;
        self.release_address();
        Ok(())
    }

    /// Takes a sandbox away; what is known of its containers stays known.
    pub(super) async fn remove_sandbox(&mut self, sandbox: &Sandbox) -> Result<(), Error> {
        let states = sandbox.containers();
        sandbox.remove().await?;
        self.remember(states);
        self.sandbox = None;
        self.entry.set_sandbox(None);
        Ok(())
    }

    /// Keeps the two newest containers of each name.
    fn remember(&mut self, states: Vec<ContainerState>) {
        self.former.extend(states.into_iter().map(|mut state| {
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

    pub(super) fn prepare_volumes(&mut self) -> Result<(), Error> {
        self.volumes = volume::prepare(&self.pod, &self.paths.directory.join("volumes"))?;
        Ok(())
    }

    pub(super) async fn network(&mut self) -> Result<Network, Error> {
        if self.pod.uses_host_network() {
            return Ok(Network::Host);
        }
        self.shared.ensure_known().await?;
        let Allocated { addresses, has_new_block } = self.shared.addresses.allocate().await?;
        self.addresses = addresses;
        if has_new_block {
            self.shared.tell_blocks().await?;
        }
        Ok(Network::Attached(self.shared.addresses.attachment(self.pod.uid(), &self.addresses)?))
    }

    pub(super) fn release_address(&mut self) {
        self.shared.addresses.release(&std::mem::take(&mut self.addresses));
    }

    pub(super) fn sandbox_spec(&self, network: Network) -> SandboxSpec {
        let pod = &self.pod;
        let context = pod.spec().security_context.as_ref();
        let sysctls = context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
        let mut annotations = BTreeMap::from([
            (annotation::POD_UID.to_owned(), pod.uid().to_owned()),
            (annotation::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
            (annotation::POD_NAME.to_owned(), pod.name().to_owned()),
        ]);
        if !self.addresses.is_empty() {
            let all: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
            annotations.insert(annotation::ADDRESSES.to_owned(), all.join(","));
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

    pub(super) async fn start(&mut self, name: &str, attempt: u32, inbox: &mut Inbox) {
        let Some(container) = self.pod.container(name).cloned() else { return };
        let result = self.try_start(&container, attempt, inbox).await;
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
            Err(Failure::Image(refusal)) => self.image_refused(&container, refusal).await,
            Err(Failure::Start(error)) => self.start_failed(&container, attempt, &error),
        }
    }

    async fn image_refused(&mut self, container: &core::Container, refusal: Refusal) {
        let trouble = |refusal: Refusal| {
            let waiting = Waiting { reason: refusal.reason.into(), message: refusal.message };
            Trouble { waiting, retry: refusal.retry }
        };
        self.troubles.insert(container.name.clone(), trouble(refusal.clone()));
        self.try_report().await;
        // The next look tells of backing off.
        if refusal.reason == "ErrImagePull" {
            let cause = format!("ErrImagePull: {}", refusal.message);
            let backing_off = self.shared.images.backing_off(&self.pod, container, &cause, refusal.retry);
            self.troubles.insert(container.name.clone(), trouble(backing_off));
        }
    }

    pub(super) fn start_failed(&mut self, container: &core::Container, attempt: u32, error: &Error) {
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

    pub(super) async fn try_start(
        &mut self,
        container: &core::Container,
        attempt: u32,
        inbox: &mut Inbox,
    ) -> Result<(), Failure> {
        let sandbox = self.sandbox.clone().ok_or(Failure::Interrupted)?;
        let image = self.image(container, inbox).await?;
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
        match sandbox.start(wanted).await {
            Err(runtime::Error::Start { class: StartFailure::Subpath, message }) => {
                // As if it had not been made: what is wrong with the volume may be put right.
                sandbox.remove_container(&spec::container_id(&container.name, attempt)).await.map_err(Error::from)?;
                Err(spec::subpath_refused(container, &message).into())
            }
            other => Ok(other.map(drop).map_err(Error::from)?),
        }
    }

    /// The image; a deletion of the pod, its deadline and the shutdown interrupt the wait for it.
    pub(super) async fn image(
        &mut self,
        container: &core::Container,
        inbox: &mut Inbox,
    ) -> Result<runtime::image::Image, Failure> {
        if let Some(image) = self.shared.images.present(&self.pod, container).map_err(Failure::Image)? {
            return Ok(image);
        }
        let (shared, pod, pulled) = (self.shared.clone(), self.pod.clone(), container.clone());
        let mut pull = tokio::spawn(async move { shared.images.pull(&pod, &pulled).await });
        // A pull may take long: what is known so far is told before it.
        self.try_report().await;
        let deadline = self.pod.active_deadline(self.started).map(instant);
        loop {
            tokio::select! {
                done = &mut pull => {
                    return done.map_err(|_| Failure::Interrupted)?.map_err(Failure::Image);
                }
                () = at(deadline) => return Err(Failure::Interrupted),
                () = wire::listen::stopped(&mut inbox.shutdown) => return Err(Failure::Interrupted),
                changed = inbox.orders.changed() => {
                    let order = inbox.orders.borrow().clone();
                    if changed.is_err() || order.is_gone || order.pod.deletion().is_some() {
                        return Err(Failure::Interrupted);
                    }
                }
            }
        }
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        let node_addresses = self.shared.node_addresses();
        let has_own = !self.addresses.is_empty();
        Surroundings {
            node_name: self.shared.node_name.clone(),
            pod_addresses: if has_own { self.addresses.clone() } else { node_addresses.clone() },
            node_addresses,
            capacity: self.shared.capacity,
        }
    }

    /// Only the container before this one is kept, for `logs --previous` and `lastState`.
    pub(super) async fn forget_old(&mut self, sandbox: &Sandbox, name: &str, attempt: u32) {
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
}

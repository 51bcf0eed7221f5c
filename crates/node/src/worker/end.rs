//! How a worker ends containers and takes a pod away.

use std::time::Duration;

use client::{Delete, resource};
use jiff::Timestamp;
use runtime::{ContainerState, Sandbox};

use super::{SANDBOX_RETRY, Stop, Worker, later};
use crate::events::Severity;
use crate::images::field;
use crate::spec::annotation;
use crate::status::Verdict;
use crate::{Error, observe, plan, signal, volume};

impl Worker {
    pub(super) async fn stop(&mut self) -> Option<Timestamp> {
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
                kill(&sandbox, state).await;
            }
        }
        // The end of the last process is a change that wakes the worker; this is for the case that it cannot be killed.
        Some(later(Duration::from_secs(10)))
    }

    /// If the pod outlived its deadline, that is why it ends.
    pub(super) fn note_deadline(&mut self, now: Timestamp) {
        let overdue = self.pod.active_deadline(self.started).is_some_and(|deadline| deadline <= now);
        if overdue && self.verdict.is_none() && self.pod.deletion().is_none() {
            let message = "Pod was active on the node longer than the specified deadline";
            self.shared.recorder.pod(&self.pod, None, Severity::Normal, "DeadlineExceeded", message);
            let (reason, message) = (Some("DeadlineExceeded"), Some(message.to_owned()));
            self.verdict = Some(Verdict { phase: "Failed", reason, message });
        }
    }

    pub(super) async fn begin_stop(&self, sandbox: &Sandbox, running: &[ContainerState]) {
        for state in running {
            self.ask_to_end(sandbox, state, &format!("Stopping container {}", state.name)).await;
        }
    }

    /// Tells why a container must end, and asks it to.
    async fn ask_to_end(&self, sandbox: &Sandbox, state: &ContainerState, why: &str) {
        if let Some(container) = self.pod.container(&state.name) {
            let field = Some(field(&self.pod, container));
            self.shared.recorder.pod(&self.pod, field, Severity::Normal, "Killing", why);
        }
        let name = state.annotations.get(annotation::STOP_SIGNAL).map_or("SIGTERM", String::as_str);
        if let Err(error) = sandbox.signal(&state.id, signal::number(name)).await {
            tracing::debug!(%error, container = state.id, "signalling a container");
        }
    }

    pub(super) async fn tear_down(&mut self, phase: plan::Phase) -> Option<Timestamp> {
        self.note_deadline(Timestamp::now());
        if self.verdict.is_none() {
            self.verdict = Some(self.final_verdict(phase));
        }
        self.try_report().await;
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
    pub(super) fn final_verdict(&self, phase: plan::Phase) -> Verdict {
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

    pub(super) async fn try_tear_down(&mut self) -> Result<(), Error> {
        self.shared.addresses.close_ports(self.pod.uid())?;
        if let Some(sandbox) = self.sandbox.clone() {
            // What the containers said last lies in the directory that goes now.
            drop(self.view());
            self.remove_sandbox(&sandbox).await?;
            tracing::debug!(pod = self.pod.label(), "sandbox removed");
        }
        volume::remove(&self.paths.directory).await?;
        self.shared.addresses.release(&self.addresses);
        Ok(())
    }

    /// Lets the API forget the pod, and forgets it too. False if that must be tried again.
    pub(super) async fn leave(&mut self) -> bool {
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
        if let Err(error) = volume::remove(&self.paths.logs).await {
            tracing::warn!(error = error.chain(), "removing the logs of a pod");
        }
        self.shared.images.forget_pod(self.pod.uid());
        true
    }

    /// Ends containers whose image was changed, so that they start again with the new one. The next moment to look, if any.
    pub(super) async fn renew(&mut self) -> Option<Timestamp> {
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
                if *deadline <= now {
                    kill(&sandbox, &state).await;
                }
                continue;
            }
            let why = format!("Container {} definition changed, will be restarted", state.name);
            self.ask_to_end(&sandbox, &state, &why).await;
            self.renewing.insert(state.id, now.checked_add(grace).unwrap_or(Timestamp::MAX));
        }
        self.renewing.values().copied().filter(|deadline| *deadline > now).min()
    }
}

async fn kill(sandbox: &Sandbox, state: &ContainerState) {
    if let Err(error) = sandbox.kill(&state.id).await {
        tracing::warn!(%error, container = state.id, "killing a container");
    }
}

//! What a worker sees of its pod, in the words of plans and statuses.

use jiff::Timestamp;
use runtime::ContainerState;

use super::{Worker, duration, newest};
use crate::observe;
use crate::plan::{self, Observed};
use crate::pod::RestartPolicy;
use crate::status::{Seen, View, Waiting};

impl Worker {
    pub(super) fn states(&self) -> Vec<(ContainerState, bool)> {
        let current = self.sandbox.iter().flat_map(|s| s.containers()).map(|state| (state, true));
        let is_current = self.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_alive());
        self.former.iter().cloned().map(|state| (state, false)).chain(current.map(|(s, _)| (s, is_current))).collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let all = self.pod.init_containers().iter().chain(self.pod.containers());
        all.map(|container| container.name.clone()).collect()
    }

    pub(super) fn observe(&mut self) -> Observed {
        let states = self.states();
        let sandbox = match &self.sandbox {
            None => plan::Sandbox::None,
            Some(sandbox) if sandbox.is_alive() => plan::Sandbox::Alive,
            Some(_) => plan::Sandbox::Dead,
        };
        let containers = self.names().iter().filter_map(|name| self.observe_container(name, &states)).collect();
        Observed { sandbox, containers }
    }

    pub(super) fn observe_container(
        &mut self,
        name: &str,
        states: &[(ContainerState, bool)],
    ) -> Option<plan::Container> {
        let retry = self.troubles.get(name).map(|trouble| trouble.retry.unwrap_or(Timestamp::MAX));
        let Some((state, is_current)) = newest(states, name) else {
            let missing = plan::State::Missing;
            return retry.map(|due| plan::Container {
                name: name.to_owned(),
                attempt: 0,
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
    pub(super) fn count_crash(&mut self, name: &str, attempt: u32, state: &ContainerState) -> u32 {
        let entry = self.crashes.entry(name.to_owned()).or_insert((attempt, 0));
        if observe::has_recovered(state) {
            *entry = (attempt, 0);
        } else if entry.0 != attempt {
            *entry = (attempt, entry.1 + 1);
        }
        entry.1 + 1
    }

    pub(super) fn view(&mut self) -> View {
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

    pub(super) fn seen(&mut self, name: &str, states: &[(ContainerState, bool)], now: Timestamp) -> Seen {
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
    pub(super) fn crash_loop(&self, name: &str, state: &ContainerState, now: Timestamp) -> Option<Waiting> {
        let code = observe::exit_code(state)?;
        let restarts = match self.pod.restart_policy() {
            RestartPolicy::Always => !self.is_init(name) || code != 0,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
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

    pub(super) fn is_init(&self, name: &str) -> bool {
        self.pod.init_containers().iter().any(|container| container.name == name)
    }
}

//! What a worker sees of its pod, in the words of plans and statuses.

use std::time::Duration;

use jiff::Timestamp;
use runtime::ContainerState;

use super::{Worker, duration, newest};
use crate::observe;
use crate::plan::{self, Observed};
use crate::status::{Seen, View, Waiting};

impl Worker {
    pub(super) fn states(&self) -> Vec<(ContainerState, bool)> {
        let former = self.former.iter().cloned().map(|state| (state, false));
        let of_sandbox = self.sandbox.iter().flat_map(|sandbox| {
            let is_current = sandbox.is_alive();
            sandbox.containers().into_iter().map(move |state| (state, is_current))
        });
        former.chain(of_sandbox).collect()
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
                self.count_crash(name, attempt, state);
                (plan::State::Exited(code), Some(self.back_off(name, state).0).max(retry))
            }
            None => (plan::State::Running, None),
        };
        Some(plan::Container { name: name.to_owned(), attempt, is_current: *is_current, state: what, not_before })
    }

    /// Counts how often in a row containers of this name have ended before this end.
    pub(super) fn count_crash(&mut self, name: &str, attempt: u32, state: &ContainerState) {
        let entry = self.crashes.entry(name.to_owned()).or_insert((attempt, 0));
        if observe::has_recovered(state) {
            *entry = (attempt, 0);
        } else if entry.0 != attempt {
            *entry = (attempt, entry.1 + 1);
        }
    }

    /// When a container that has ended may start again, and the delay behind it.
    fn back_off(&self, name: &str, state: &ContainerState) -> (Timestamp, Duration) {
        let crashes = self.crashes.get(name).map_or(0, |(_, crashes)| *crashes) + 1;
        observe::back_off(crashes, observe::timestamp(state.finished.unwrap_or(state.created)))
    }

    pub(super) fn view(&mut self) -> View {
        let states = self.states();
        let now = Timestamp::now();
        let names = self.names();
        let containers = names.iter().map(|name| self.seen(name, &states, now)).collect();
        let node_addresses = self.shared.node_addresses();
        let own = if self.pod.uses_host_network() { &node_addresses } else { &self.addresses };
        let has_some = self.sandbox.is_some() || self.is_torn_down || !self.former.is_empty();
        View {
            containers,
            has_sandbox: self.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_alive()),
            addresses: if has_some { own.clone() } else { Vec::new() },
            node_addresses,
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
        if !plan::restarts(self.pod.restart_policy(), self.is_init(name), code) || self.is_ending(now) {
            return None;
        }
        let (due, delay) = self.back_off(name, state);
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

//! What to do next for a pod: a pure function of what is wanted and what is seen.

use jiff::Timestamp;

use crate::pod::RestartPolicy;

/// What is wanted of a pod.
#[derive(Debug, Clone)]
pub struct Desired<'a> {
    /// Names of the init containers, in order.
    pub init: Vec<&'a str>,
    /// Names of the containers, in order.
    pub containers: Vec<&'a str>,
    /// What ended containers do.
    pub policy: RestartPolicy,
    /// Nothing may run any more: the pod is being deleted, has outlived its deadline, or was finished before.
    pub is_ending: bool,
}

/// What is seen of a pod.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// The newest container of each name.
    pub containers: Vec<Container>,
}

/// The sandbox of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sandbox {
    /// There is none.
    #[default]
    None,
    /// It lives.
    Alive,
    /// It has died; what it knew can still be read.
    Dead,
}

/// The newest container of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// How often a container of this name was started before it.
    pub attempt: u32,
    /// Whether it belongs to the present sandbox; init containers run again in a new one.
    pub is_current: bool,
    /// What it does.
    pub state: State,
    /// It is not started (again) before this moment.
    pub not_before: Option<Timestamp>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was started yet; an attempt to make it failed.
    Missing,
    /// It runs.
    Running,
    /// It has ended with this code.
    Exited(i32),
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a sandbox.
    MakeSandbox,
    /// Start a container.
    Start {
        /// Which.
        name: String,
        /// The number of this attempt, from 0.
        attempt: u32,
    },
    /// Make the running containers end.
    Stop,
    /// All containers have ended for good: take the sandbox away. The phase that remains.
    TearDown(Phase),
    /// Nothing now; look again at this moment, if there is one, or when something changes.
    Wait(Option<Timestamp>),
}

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Every container ended with 0.
    Succeeded,
    /// Some container did not.
    Failed,
}

/// The next step for a pod.
pub fn next(desired: &Desired<'_>, observed: &Observed, now: Timestamp) -> Step {
    let is_running = observed.containers.iter().any(|container| container.state == State::Running);
    if desired.is_ending {
        return if is_running { Step::Stop } else { Step::TearDown(outcome(desired, observed)) };
    }
    let mut wait = None;
    let step = match init(desired, observed, now) {
        Init::Failed if is_running => Step::Stop,
        Init::Failed => return Step::TearDown(Phase::Failed),
        Init::Step(step) => step,
        Init::Done => match main(desired, observed, now, &mut wait) {
            Some(step) => step,
            None if is_running || wait.is_some() => Step::Wait(wait),
            None => return Step::TearDown(outcome(desired, observed)),
        },
    };
    match step {
        Step::Start { .. } if observed.sandbox != Sandbox::Alive => Step::MakeSandbox,
        other => other,
    }
}

enum Init {
    Done,
    Failed,
    Step(Step),
}

fn init(desired: &Desired<'_>, observed: &Observed, now: Timestamp) -> Init {
    // Once a container of the pod proper was started in this sandbox, its init containers had done their work.
    let has_begun = |name: &&str| find(observed, name).is_some_and(|c| c.is_current && c.state != State::Missing);
    if observed.sandbox == Sandbox::Alive && desired.containers.iter().any(has_begun) {
        return Init::Done;
    }
    // A pod whose containers are all done needs no new sandbox, so no init containers either.
    if observed.sandbox != Sandbox::Alive && !desired.containers.iter().any(|name| is_wanted(desired, observed, name)) {
        return Init::Done;
    }
    for name in &desired.init {
        let seen = find(observed, name).filter(|container| container.is_current || container.state == State::Missing);
        let Some(container) = seen else { return Init::Step(start(observed, name)) };
        match container.state {
            State::Running => return Init::Step(Step::Wait(None)),
            State::Exited(0) => {}
            State::Exited(code) if !restarts(desired.policy, true, code) => return Init::Failed,
            State::Exited(_) | State::Missing => {
                let is_due = container.not_before.is_none_or(|due| due <= now);
                let step = if is_due { start(observed, name) } else { Step::Wait(container.not_before) };
                return Init::Step(step);
            }
        }
    }
    Init::Done
}

fn main(desired: &Desired<'_>, observed: &Observed, now: Timestamp, wait: &mut Option<Timestamp>) -> Option<Step> {
    for name in &desired.containers {
        if !is_wanted(desired, observed, name) || find(observed, name).is_some_and(|c| c.state == State::Running) {
            continue;
        }
        match find(observed, name).and_then(|container| container.not_before).filter(|due| *due > now) {
            Some(due) => *wait = Some(wait.map_or(due, |earlier: Timestamp| earlier.min(due))),
            None => return Some(start(observed, name)),
        }
    }
    None
}

/// Whether a container runs or should run.
fn is_wanted(desired: &Desired<'_>, observed: &Observed, name: &str) -> bool {
    match find(observed, name).map(|container| container.state) {
        Some(State::Exited(code)) => restarts(desired.policy, false, code),
        _ => true,
    }
}

/// Whether a container that has ended with this code starts again. An init container that has done its work never does.
pub fn restarts(policy: RestartPolicy, is_init: bool, code: i32) -> bool {
    match policy {
        RestartPolicy::Always => !is_init || code != 0,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

fn start(observed: &Observed, name: &str) -> Step {
    let attempt = match find(observed, name) {
        Some(container) if container.state == State::Missing => container.attempt,
        Some(container) => container.attempt + 1,
        None => 0,
    };
    Step::Start { name: name.to_owned(), attempt }
}

fn find<'a>(observed: &'a Observed, name: &str) -> Option<&'a Container> {
    observed.containers.iter().find(|container| container.name == name)
}

fn outcome(desired: &Desired<'_>, observed: &Observed) -> Phase {
    let is_good = |name: &&str| find(observed, name).is_some_and(|c| c.state == State::Exited(0));
    if desired.containers.iter().all(is_good) { Phase::Succeeded } else { Phase::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    fn desired(policy: RestartPolicy) -> Desired<'static> {
        Desired { init: vec!["prepare"], containers: vec!["web", "log"], policy, is_ending: false }
    }

    fn container(name: &str, attempt: u32, state: State) -> Container {
        Container { name: name.into(), attempt, is_current: true, state, not_before: None }
    }

    fn alive(containers: Vec<Container>) -> Observed {
        Observed { sandbox: Sandbox::Alive, containers }
    }

    fn begin(name: &str, attempt: u32) -> Step {
        Step::Start { name: name.into(), attempt }
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_then_its_init_container_then_the_others() {
        let wanted = desired(RestartPolicy::Always);
        assert_eq!(next(&wanted, &Observed::default(), now()), Step::MakeSandbox);
        assert_eq!(next(&wanted, &alive(vec![]), now()), begin("prepare", 0));
        let preparing = alive(vec![container("prepare", 0, State::Running)]);
        assert_eq!(next(&wanted, &preparing, now()), Step::Wait(None));
        let mut seen = vec![container("prepare", 0, State::Exited(0))];
        assert_eq!(next(&wanted, &alive(seen.clone()), now()), begin("web", 0));
        seen.push(container("web", 0, State::Running));
        assert_eq!(next(&wanted, &alive(seen.clone()), now()), begin("log", 0));
        seen.push(container("log", 0, State::Running));
        assert_eq!(next(&wanted, &alive(seen), now()), Step::Wait(None));
    }

    #[test]
    fn ended_containers_follow_the_restart_policy() {
        let seen = |code| {
            alive(vec![
                container("prepare", 0, State::Exited(0)),
                container("web", 3, State::Exited(code)),
                container("log", 0, State::Exited(0)),
            ])
        };
        assert_eq!(next(&desired(RestartPolicy::Always), &seen(0), now()), begin("web", 4));
        assert_eq!(next(&desired(RestartPolicy::OnFailure), &seen(1), now()), begin("web", 4));
        assert_eq!(next(&desired(RestartPolicy::OnFailure), &seen(0), now()), Step::TearDown(Phase::Succeeded));
        assert_eq!(next(&desired(RestartPolicy::Never), &seen(1), now()), Step::TearDown(Phase::Failed));
    }

    #[test]
    fn a_crashing_container_waits_while_the_others_run() {
        let due = Timestamp::from_second(1_010).unwrap();
        let mut crashed = container("web", 2, State::Exited(1));
        crashed.not_before = Some(due);
        let seen = alive(vec![crashed.clone(), container("log", 0, State::Running)]);
        let wanted = Desired { init: vec![], ..desired(RestartPolicy::Always) };
        assert_eq!(next(&wanted, &seen, now()), Step::Wait(Some(due)));
        assert_eq!(next(&wanted, &seen, due), begin("web", 3));
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_does_not_restart() {
        let seen = alive(vec![container("prepare", 0, State::Exited(1))]);
        assert_eq!(next(&desired(RestartPolicy::Never), &seen, now()), Step::TearDown(Phase::Failed));
        assert_eq!(next(&desired(RestartPolicy::OnFailure), &seen, now()), begin("prepare", 1));
    }

    #[test]
    fn an_ending_pod_stops_what_runs_and_then_goes() {
        let wanted = Desired { is_ending: true, ..desired(RestartPolicy::Always) };
        let running = alive(vec![container("web", 0, State::Running), container("log", 0, State::Exited(0))]);
        assert_eq!(next(&wanted, &running, now()), Step::Stop);
        assert_eq!(next(&wanted, &alive(vec![]), now()), Step::TearDown(Phase::Failed));
        let ended = alive(vec![container("web", 0, State::Exited(0)), container("log", 0, State::Exited(0))]);
        assert_eq!(next(&wanted, &ended, now()), Step::TearDown(Phase::Succeeded));
    }

    #[test]
    fn after_a_reboot_init_containers_run_again_and_attempts_go_on() {
        let mut old = vec![
            container("prepare", 0, State::Exited(0)),
            container("web", 1, State::Exited(137)),
            container("log", 0, State::Exited(137)),
        ];
        let wanted = desired(RestartPolicy::Always);
        let dead = Observed { sandbox: Sandbox::Dead, containers: old.clone() };
        assert_eq!(next(&wanted, &dead, now()), Step::MakeSandbox);
        old.iter_mut().for_each(|container| container.is_current = false);
        assert_eq!(next(&wanted, &alive(old.clone()), now()), begin("prepare", 1));
        old[0] = container("prepare", 1, State::Exited(0));
        assert_eq!(next(&wanted, &alive(old), now()), begin("web", 2));
    }

    #[test]
    fn a_finished_pod_gets_no_new_sandbox() {
        let containers = vec![container("web", 0, State::Exited(0)), container("log", 0, State::Exited(0))];
        let seen = Observed { sandbox: Sandbox::None, containers };
        assert_eq!(next(&desired(RestartPolicy::OnFailure), &seen, now()), Step::TearDown(Phase::Succeeded));
    }
}

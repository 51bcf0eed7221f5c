//! The status of a pod: a pure function of the pod and of what is seen of its containers.

mod conclude;

use std::net::IpAddr;

use api::time;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Map, Value, json};

use crate::pod::{Pod, RestartPolicy};

/// All that a status tells of.
#[derive(Debug, Clone)]
pub struct View {
    /// What is known of each container, init containers too, by name.
    pub containers: Vec<Seen>,
    /// The sandbox lives and has its network.
    pub has_sandbox: bool,
    /// The pod's addresses, once it has some; the first one is the one that counts.
    pub addresses: Vec<IpAddr>,
    /// The node's addresses.
    pub node_addresses: Vec<IpAddr>,
    /// When this node took the pod up.
    pub started: Timestamp,
    /// Set once the pod has ended for good.
    pub verdict: Option<Verdict>,
}

/// How a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `Succeeded` or `Failed`.
    pub phase: &'static str,
    /// A word, if the node ended it.
    pub reason: Option<&'static str>,
    /// A sentence.
    pub message: Option<String>,
}

/// What is known of the containers of one name.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The name.
    pub name: String,
    /// The newest container.
    pub current: Option<Record>,
    /// The one before it.
    pub previous: Option<Record>,
    /// Why none runs now.
    pub waiting: Option<Waiting>,
}

/// One container, as far as a status tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// `podling://…`.
    pub id: String,
    /// How often a container of this name was started before it.
    pub attempt: u32,
    /// The image's name.
    pub image: String,
    /// The image's digest.
    pub image_id: String,
    /// When its process began; `None` if it could not be started.
    pub started: Option<Timestamp>,
    /// How it ended, if it has.
    pub end: Option<End>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The exit code, as a shell would say it.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, …
    pub reason: &'static str,
    /// Its last words.
    pub message: String,
    /// When.
    pub finished: Timestamp,
}

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `ContainerCreating`, `CrashLoopBackOff`, …
    pub reason: String,
    /// A sentence, if there is one.
    pub message: String,
}

impl Seen {
    fn is_running(&self) -> bool {
        self.waiting.is_none() && self.current.as_ref().is_some_and(|record| record.end.is_none())
    }

    fn exit_code(&self) -> Option<i32> {
        self.current.as_ref()?.end.as_ref().map(|end| end.code)
    }
}

fn listed(addresses: &[IpAddr]) -> Value {
    addresses.iter().map(|address| json!({"ip": address})).collect()
}

/// The status to report.
pub fn compose(pod: &Pod, view: &View, now: Timestamp) -> Value {
    let init: Vec<Value> = pod.init_containers().iter().map(|c| container(pod, c, view)).collect();
    let main: Vec<Value> = pod.containers().iter().map(|c| container(pod, c, view)).collect();
    let phase = view.verdict.as_ref().map_or_else(|| phase(pod, view), |verdict| verdict.phase);
    let mut status = json!({
        "phase": phase,
        "conditions": conditions(pod, view, phase, now),
        "hostIP": view.node_addresses.first(),
        "hostIPs": listed(&view.node_addresses),
        "startTime": time::format(view.started),
        "containerStatuses": main,
        "reason": view.verdict.as_ref().and_then(|verdict| verdict.reason),
        "message": view.verdict.as_ref().and_then(|verdict| verdict.message.clone()),
    });
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    if let Some(address) = view.addresses.first() {
        status["podIP"] = address.to_string().into();
        status["podIPs"] = listed(&view.addresses);
    }
    if let Some(generation) = pod.meta().generation {
        status["observedGeneration"] = generation.into();
    }
    if view.verdict.is_some() {
        conclude::conclude(&mut status);
    }
    status
}

fn seen<'a>(view: &'a View, name: &str) -> Option<&'a Seen> {
    view.containers.iter().find(|seen| seen.name == name)
}

fn phase(pod: &Pod, view: &View) -> &'static str {
    if !is_initialized(pod, view) {
        return "Pending";
    }
    let (mut running, mut waiting, mut ended, mut succeeded) = (0, 0, 0, 0);
    for container in pod.containers() {
        match seen(view, &container.name) {
            Some(seen) if seen.is_running() => running += 1,
            Some(seen) if seen.current.as_ref().is_some_and(|record| record.end.is_some()) => {
                ended += 1;
                succeeded += usize::from(seen.exit_code() == Some(0));
            }
            _ => waiting += 1,
        }
    }
    match pod.restart_policy() {
        _ if waiting > 0 => "Pending",
        _ if running > 0 => "Running",
        RestartPolicy::Always => "Running",
        _ if ended == succeeded => "Succeeded",
        RestartPolicy::Never => "Failed",
        RestartPolicy::OnFailure => "Running",
    }
}

fn is_initialized(pod: &Pod, view: &View) -> bool {
    let is_done = |container: &core::Container| {
        seen(view, &container.name).is_some_and(|seen| seen.waiting.is_none() && seen.exit_code() == Some(0))
    };
    // Once a container of the pod proper was started, its init containers had done their work.
    let has_begun = pod.containers().iter().any(|c| seen(view, &c.name).is_some_and(|seen| seen.current.is_some()));
    has_begun || pod.init_containers().iter().all(is_done)
}

fn conditions(pod: &Pod, view: &View, phase: &str, now: Timestamp) -> Vec<Value> {
    let ended = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let initialized = initialized(pod, view, phase);
    let containers_ready = containers_ready(pod, view, ended);
    let ready = match missing_gates(pod) {
        Some(message) if containers_ready.0 => (false, Some("ReadinessGatesNotReady"), message),
        _ => containers_ready.clone(),
    };
    let has_network = view.has_sandbox && ended.is_none();
    let own: [(&str, Verdicts); 5] = [
        ("PodReadyToStartContainers", (has_network, None, String::new())),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", (true, None, String::new())),
    ];
    let reported = pod.status().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut list: Vec<Value> = own
        .iter()
        .map(|(kind, verdict)| {
            let old = reported.iter().find(|old| old.type_ == *kind);
            condition(kind, verdict, old, pod.meta().generation, now)
        })
        .collect();
    let is_foreign = |old: &&core::PodCondition| own.iter().all(|(kind, _)| *kind != old.type_);
    let foreign = pod.value()["status"]["conditions"].as_array().into_iter().flatten();
    let kinds: Vec<&str> = reported.iter().filter(is_foreign).map(|old| old.type_.as_str()).collect();
    list.extend(foreign.filter(|old| old["type"].as_str().is_some_and(|kind| kinds.contains(&kind))).cloned());
    list
}

/// Whether a condition holds, the word and the sentence for why not.
type Verdicts = (bool, Option<&'static str>, String);

fn condition(
    kind: &str,
    (holds, reason, message): &Verdicts,
    old: Option<&core::PodCondition>,
    generation: Option<i64>,
    now: Timestamp,
) -> Value {
    let status = if *holds { "True" } else { "False" };
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.as_ref());
    let mut condition = json!({
        "type": kind,
        "status": status,
        "lastProbeTime": null,
        "lastTransitionTime": time::format(since.map_or(now, |time| time.0)),
    });
    if let Some(reason) = reason {
        condition["reason"] = (*reason).into();
    }
    if !message.is_empty() {
        condition["message"] = message.as_str().into();
    }
    if let Some(generation) = generation {
        condition["observedGeneration"] = generation.into();
    }
    condition
}

fn initialized(pod: &Pod, view: &View, phase: &str) -> Verdicts {
    if phase == "Succeeded" {
        return (true, Some("PodCompleted"), String::new());
    }
    if is_initialized(pod, view) {
        return (true, None, String::new());
    }
    let is_open = |c: &&core::Container| seen(view, &c.name).and_then(Seen::exit_code) != Some(0);
    let open: Vec<&str> = pod.init_containers().iter().filter(is_open).map(|c| c.name.as_str()).collect();
    (false, Some("ContainersNotInitialized"), format!("containers with incomplete status: [{}]", open.join(" ")))
}

fn containers_ready(pod: &Pod, view: &View, ended: Option<&'static str>) -> Verdicts {
    if let Some(reason) = ended {
        return (false, Some(reason), String::new());
    }
    let is_unready = |c: &&core::Container| !seen(view, &c.name).is_some_and(Seen::is_running);
    let unready: Vec<&str> = pod.containers().iter().filter(is_unready).map(|c| c.name.as_str()).collect();
    if unready.is_empty() {
        return (true, None, String::new());
    }
    (false, Some("ContainersNotReady"), format!("containers with unready status: [{}]", unready.join(" ")))
}

/// What other controllers have yet to say about the pod.
fn missing_gates(pod: &Pod) -> Option<String> {
    let reported = pod.status().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut missing = Vec::new();
    for gate in pod.spec().readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match reported.iter().find(|condition| condition.type_ == *kind) {
            Some(condition) if condition.status == "True" => {}
            Some(_) => missing.push(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but False")),
            None => missing.push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
        }
    }
    (!missing.is_empty()).then(|| missing.join(", "))
}

fn container(pod: &Pod, container: &core::Container, view: &View) -> Value {
    let is_init = pod.init_containers().iter().any(|init| init.name == container.name);
    // What has not begun waits for the init containers, if there are any.
    let before = if pod.init_containers().is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let blank = Seen::default();
    let seen = seen(view, &container.name).unwrap_or(&blank);
    let is_running = seen.is_running();
    let (state, last) = states(seen, before);
    // The newest container says what runs or ran; before the first one it is what the pod asks for.
    let image = seen.current.as_ref().map_or(container.image.as_deref().unwrap_or_default(), |r| r.image.as_str());
    let mut status = json!({
        "name": container.name,
        "state": state,
        "lastState": last,
        "ready": if is_init { seen.waiting.is_none() && seen.exit_code() == Some(0) } else { is_running },
        "started": is_running && !is_init,
        "restartCount": seen.current.as_ref().map_or(0, |record| record.attempt),
        "image": image,
        "imageID": seen.current.as_ref().map_or("", |record| record.image_id.as_str()),
    });
    if let Some(record) = &seen.current {
        status["containerID"] = record.id.as_str().into();
    }
    if let Some(mounts) = mounts(container) {
        status["volumeMounts"] = mounts;
    }
    if is_running && let Some(resources) = &container.resources {
        add_resources(&mut status, resources);
    }
    status
}

fn states(seen: &Seen, before: &str) -> (Value, Value) {
    let terminated = |record: Option<&Record>| {
        let ended = record.and_then(|record| record.end.as_ref().map(|end| (record, end)));
        ended.map_or_else(|| json!({}), |(record, end)| json!({"terminated": termination(record, end)}))
    };
    if let Some(waiting) = &seen.waiting {
        let mut inner = Map::new();
        inner.insert("reason".into(), waiting.reason.as_str().into());
        if !waiting.message.is_empty() {
            inner.insert("message".into(), waiting.message.as_str().into());
        }
        return (json!({"waiting": inner}), terminated(seen.current.as_ref()));
    }
    match &seen.current {
        Some(record) if record.end.is_some() => (terminated(Some(record)), terminated(seen.previous.as_ref())),
        Some(record) => {
            let started = record.started.map(time::format);
            (json!({"running": {"startedAt": started}}), terminated(seen.previous.as_ref()))
        }
        None => (json!({"waiting": {"reason": before}}), json!({})),
    }
}

fn termination(record: &Record, end: &End) -> Value {
    let epoch = Timestamp::UNIX_EPOCH;
    let mut value = json!({
        "exitCode": end.code,
        "reason": end.reason,
        "startedAt": time::format(record.started.unwrap_or(epoch)),
        "finishedAt": time::format(end.finished),
        "containerID": record.id,
    });
    if end.signal != 0 && end.reason == "Error" && end.code != 128 + end.signal {
        value["signal"] = end.signal.into();
    }
    if !end.message.is_empty() {
        value["message"] = end.message.as_str().into();
    }
    value
}

fn mounts(container: &core::Container) -> Option<Value> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let list: Vec<Value> = mounts
        .iter()
        .map(|mount| {
            let mut value = json!({"name": mount.name, "mountPath": mount.mount_path});
            if mount.read_only == Some(true) {
                value["readOnly"] = true.into();
                value["recursiveReadOnly"] = "Disabled".into();
            }
            value
        })
        .collect();
    Some(list.into())
}

fn add_resources(status: &mut Value, resources: &core::ResourceRequirements) {
    let map = |list: &std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        list.iter().map(|(name, amount)| (name.clone(), Value::from(amount.0.as_str()))).collect::<Map<_, _>>()
    };
    let mut shown = Map::new();
    if let Some(requests) = resources.requests.as_ref().filter(|list| !list.is_empty()) {
        status["allocatedResources"] = map(requests).into();
        shown.insert("requests".into(), map(requests).into());
    }
    if let Some(limits) = resources.limits.as_ref().filter(|list| !list.is_empty()) {
        shown.insert("limits".into(), map(limits).into());
    }
    if !shown.is_empty() {
        status["resources"] = shown.into();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pod(policy: &str) -> Pod {
        let meta = json!({"name": "web", "namespace": "default", "uid": "u", "generation": 2});
        let container = |name: &str| json!({"name": name, "image": "i"});
        let spec = json!({
            "restartPolicy": policy,
            "initContainers": [container("prepare")],
            "containers": [container("a"), container("b")],
        });
        Pod::new(Arc::new(json!({"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": spec}))).unwrap()
    }

    fn record(attempt: u32, code: Option<i32>) -> Record {
        let at = Timestamp::from_second(100).unwrap();
        let reason = if code == Some(0) { "Completed" } else { "Error" };
        let end = code.map(|code| End { code, signal: 0, reason, message: String::new(), finished: at });
        Record { id: "podling://x".into(), attempt, image: "i".into(), image_id: "d".into(), started: Some(at), end }
    }

    fn seen(name: &str, current: Option<Record>) -> Seen {
        Seen { name: name.into(), current, ..Seen::default() }
    }

    fn view(containers: Vec<Seen>) -> View {
        View {
            containers,
            has_sandbox: true,
            addresses: vec!["10.0.0.9".parse().unwrap(), "fd42::9".parse().unwrap()],
            node_addresses: vec!["192.0.2.1".parse().unwrap()],
            started: Timestamp::from_second(90).unwrap(),
            verdict: None,
        }
    }

    fn condition_of<'a>(status: &'a Value, kind: &str) -> &'a Value {
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
    }

    #[test]
    fn a_running_pod_is_ready() {
        let all = vec![
            seen("prepare", Some(record(0, Some(0)))),
            seen("a", Some(record(0, None))),
            seen("b", Some(record(1, None))),
        ];
        let status = compose(&pod("Always"), &view(all), Timestamp::from_second(101).unwrap());
        assert_eq!(status["phase"], "Running");
        assert_eq!(condition_of(&status, "Ready")["status"], "True");
        assert_eq!(status["containerStatuses"][1]["restartCount"], 1);
        assert_eq!(status["podIP"], "10.0.0.9");
        assert_eq!(status["observedGeneration"], 2);
    }

    #[test]
    fn an_initializing_pod_is_pending() {
        let all = vec![seen("prepare", Some(record(0, None)))];
        let status = compose(&pod("Always"), &view(all), Timestamp::from_second(101).unwrap());
        assert_eq!(status["phase"], "Pending");
        assert_eq!(condition_of(&status, "Initialized")["message"], "containers with incomplete status: [prepare]");
        assert_eq!(condition_of(&status, "Ready")["message"], "containers with unready status: [a b]");
        assert_eq!(status["initContainerStatuses"][0]["state"]["running"]["startedAt"], "1970-01-01T00:01:40Z");
    }

    #[test]
    fn a_crashing_container_shows_its_last_end() {
        let mut crashed = seen("a", Some(record(3, Some(7))));
        crashed.waiting = Some(Waiting { reason: "CrashLoopBackOff".into(), message: "back-off 40s".into() });
        let all = vec![seen("prepare", Some(record(0, Some(0)))), crashed, seen("b", Some(record(0, None)))];
        let status = compose(&pod("Always"), &view(all), Timestamp::from_second(101).unwrap());
        let a = &status["containerStatuses"][0];
        assert_eq!(a["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(a["lastState"]["terminated"]["exitCode"], 7);
        assert_eq!((&a["restartCount"], &a["ready"]), (&json!(3), &json!(false)));
        assert_eq!(status["phase"], "Running");
    }

    #[test]
    fn ended_pods_follow_their_policy() {
        let all = |code| {
            vec![
                seen("prepare", Some(record(0, Some(0)))),
                seen("a", Some(record(0, Some(0)))),
                seen("b", Some(record(0, Some(code)))),
            ]
        };
        let phase =
            |policy: &str, code| compose(&pod(policy), &view(all(code)), Timestamp::UNIX_EPOCH)["phase"].clone();
        assert_eq!(phase("Never", 0), "Succeeded");
        assert_eq!(phase("Never", 1), "Failed");
        assert_eq!(phase("OnFailure", 1), "Running");
        assert_eq!(phase("Always", 0), "Running");
    }
}

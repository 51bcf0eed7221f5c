//! A Pod as a row of a table.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::table::{Column, age, timestamp};
use crate::tree::{at, integer, is_set, items, text};

pub(super) const COLUMNS: [Column; 9] = [
    Column::NAME,
    Column::text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    Column::text("Status", "The aggregate status of the containers in this pod."),
    Column::text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when they last were.",
    ),
    Column::AGE,
    Column::wide("IP", "The pod's address."),
    Column::wide("Node", "The node that the pod runs on."),
    Column::wide("Nominated Node", "The node on which room is being made for the pod."),
    Column::wide("Readiness Gates", "The pod's readiness gates and how many of them hold."),
];

/// What the containers add up to.
#[derive(Default)]
struct Sum {
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Sum {
    fn add(&mut self, status: &Value) {
        self.restarts += integer(status, "restartCount").unwrap_or_default();
        let ended = at(status, &["lastState", "terminated", "finishedAt"]).and_then(timestamp);
        self.last_restart = self.last_restart.max(ended);
    }
}

/// The cells of a pod.
pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut sum = Sum::default();
    let mut shown = starting_point(status);
    let initializing = init_state(spec, status, &mut sum);
    let initialized = is_true(status, "Initialized");
    match initializing {
        Some(state) if !initialized => shown = state,
        _ => shown = running_state(status, shown, &mut sum),
    }
    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        if text(status, "reason") == "NodeLost" {
            shown = "Unknown".to_owned();
        } else if !["Succeeded", "Failed"].contains(&text(status, "phase")) {
            shown = "Terminating".to_owned();
        }
    }
    let sidecars = items(spec, "initContainers").iter().filter(|item| is_sidecar(item)).count();
    let total = items(spec, "containers").len() + sidecars;
    let restarts = match sum.last_restart {
        Some(last) if sum.restarts > 0 => format!("{} ({} ago)", sum.restarts, age(Some(last), now)),
        _ => sum.restarts.to_string(),
    };
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    let address = items(status, "podIPs").first().map(|ip| text(ip, "ip")).unwrap_or_default();
    vec![
        json!(text(&pod["metadata"], "name")),
        json!(format!("{}/{total}", sum.ready)),
        json!(shown),
        json!(restarts),
        crate::table::age_cell(pod, now),
        json!(or_none(address)),
        json!(or_none(text(spec, "nodeName"))),
        json!(or_none(text(status, "nominatedNodeName"))),
        json!(readiness_gates(spec, status)),
    ]
}

/// Why a finished pod's row is marked as completed.
pub(super) fn row_conditions(pod: &Value) -> Option<Value> {
    let phase = text(&pod["status"], "phase");
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]))
}

fn is_true(status: &Value, condition: &str) -> bool {
    items(status, "conditions").iter().any(|c| text(c, "type") == condition && text(c, "status") == "True")
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

fn starting_point(status: &Value) -> String {
    let gated = items(status, "conditions")
        .iter()
        .any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated");
    match (gated, text(status, "reason")) {
        (true, _) => "SchedulingGated".to_owned(),
        (_, "") => text(status, "phase").to_owned(),
        (_, reason) => reason.to_owned(),
    }
}

/// Where the init containers are; nothing once all are through.
fn init_state(spec: &Value, status: &Value, sum: &mut Sum) -> Option<String> {
    let containers = items(spec, "initContainers");
    for (number, state) in items(status, "initContainerStatuses").iter().enumerate() {
        sum.add(state);
        let sidecar = containers.iter().any(|c| text(c, "name") == text(state, "name") && is_sidecar(c));
        let ended = at(state, &["state", "terminated"]);
        if ended.is_some_and(|end| integer(end, "exitCode") == Some(0)) {
            continue;
        }
        if sidecar && is_set(state, "started") {
            sum.ready += usize::from(is_set(state, "ready"));
            continue;
        }
        if let Some(end) = ended {
            return Some(format!("Init:{}", end_reason(end)));
        }
        let reason = at(state, &["state", "waiting"]).map(|waiting| text(waiting, "reason")).unwrap_or_default();
        return Some(match reason {
            "" | "PodInitializing" => format!("Init:{number}/{}", containers.len()),
            reason => format!("Init:{reason}"),
        });
    }
    None
}

fn end_reason(end: &Value) -> String {
    match (text(end, "reason"), integer(end, "signal").unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", integer(end, "exitCode").unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn running_state(status: &Value, start: String, sum: &mut Sum) -> String {
    let mut shown = start;
    let mut running = false;
    let mut failure = None;
    for state in items(status, "containerStatuses").iter().rev() {
        sum.add(state);
        let waiting = at(state, &["state", "waiting"]).map(|waiting| text(waiting, "reason")).unwrap_or_default();
        if !waiting.is_empty() {
            waiting.clone_into(&mut shown);
        } else if let Some(end) = at(state, &["state", "terminated"]) {
            shown = end_reason(end);
            if integer(end, "exitCode").unwrap_or_default() != 0 {
                failure = Some(shown.clone());
            }
        } else if is_set(state, "ready") && at(state, &["state", "running"]).is_some() {
            running = true;
            sum.ready += 1;
        }
    }
    match (shown.as_str(), running, is_true(status, "Ready"), failure) {
        ("Completed", true, true, _) => "Running".to_owned(),
        ("Completed", _, _, Some(reason)) => reason,
        ("Completed", true, false, None) => "NotReady".to_owned(),
        _ => shown,
    }
}

fn readiness_gates(spec: &Value, status: &Value) -> String {
    let gates = items(spec, "readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let holding = gates.iter().filter(|gate| is_true(status, text(gate, "conditionType"))).count();
    format!("{holding}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod: Value, expected: [&str; 3]) {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
        let cells = cells(&pod, now);
        assert_eq!([&cells[1], &cells[2], &cells[3]], expected.map(|cell| json!(cell)).each_ref());
    }

    #[test]
    fn states() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        let pod = |status: Value| json!({"spec": spec, "status": status});
        check(pod(json!({"phase": "Pending"})), ["0/2", "Pending", "0"]);
        check(
            pod(json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]})),
            ["0/2", "Init:0/1", "0"],
        );
        check(
            pod(json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "state": {"running": {}}},
                {"name": "b", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}}]})),
            ["1/2", "CrashLoopBackOff", "3 (5m ago)"],
        );
        check(
            pod(json!({"phase": "Succeeded", "containerStatuses": [
                {"name": "a", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}},
                {"name": "b", "state": {"terminated": {"reason": "Error", "exitCode": 1}}}]})),
            ["0/2", "Error", "0"],
        );
    }
}

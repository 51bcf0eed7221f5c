use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn node(ready: &str) -> Value {
    json!({"spec": {}, "status": {"conditions": [
        {"type": "Ready", "status": ready, "lastHeartbeatTime": "then"},
        {"type": "DiskPressure", "status": "False"},
        {"type": "MemoryPressure", "status": "Unknown"},
        {"type": "PIDPressure", "status": "False"},
    ]}})
}

fn keys(taints: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    taints
        .as_array()
        .unwrap()
        .iter()
        .map(|taint| format!("{}:{}", text(&taint["key"]), text(&taint["effect"])))
        .collect()
}

#[test]
fn silence_is_unknown_and_is_said_once() {
    let patch = silenced(&node("True"), NOW).unwrap();
    let changed = patch["status"]["conditions"].as_array().unwrap();
    let kinds: Vec<_> = changed.iter().map(|condition| condition["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Ready", "DiskPressure", "PIDPressure"]);
    assert_eq!(changed[0]["reason"], "NodeStatusUnknown");
    assert_eq!(changed[0]["lastHeartbeatTime"], "then");
    let never = silenced(&json!({}), NOW).unwrap();
    assert_eq!(never["status"]["conditions"][0]["reason"], "NodeStatusNeverUpdated");
    let said = json!({"status": {"conditions": SAID.map(|kind| json!({"type": kind, "status": "Unknown"}))}});
    assert_eq!(silenced(&said, NOW), None);
}

#[test]
fn trouble_taints_and_recovery_untaints() {
    assert_eq!(taints(&node("True"), true, NOW), None);
    let gone = taints(&node("Unknown"), true, NOW).unwrap();
    assert_eq!(keys(&gone), [format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute")]);
    assert_eq!(keys(&taints(&node("False"), false, NOW).unwrap()), [format!("{NOT_READY}:NoSchedule")]);
    let mut back = node("True");
    back["spec"]["taints"] = gone.clone();
    back["spec"]["taints"].as_array_mut().unwrap().push(json!({"key": "own", "effect": "NoExecute"}));
    assert_eq!(keys(&taints(&back, false, NOW).unwrap()), ["own:NoExecute"]);
    let mut still = node("Unknown");
    still["spec"]["taints"] = gone;
    assert_eq!(taints(&still, false, NOW), None, "a node that pods have to leave keeps that taint until it is back");
}

#[test]
fn cordons_and_pressure_keep_new_pods_away() {
    let mut full = node("True");
    full["spec"]["unschedulable"] = true.into();
    full["status"]["conditions"][1]["status"] = "True".into();
    let want = ["node.kubernetes.io/disk-pressure:NoSchedule", "node.kubernetes.io/unschedulable:NoSchedule"];
    assert_eq!(keys(&taints(&full, true, NOW).unwrap()), want);
}

#[test]
fn nothing_is_evicted_where_everything_is_silent() {
    assert!(!may_evict(1, 1));
    assert!(!may_evict(3, 3));
    assert!(may_evict(3, 1));
    assert!(may_evict(4, 2));
    assert!(!may_evict(5, 3));
    assert!(may_evict(100, 60));
    assert!(wants_eviction(&node("Unknown")) && !wants_eviction(&node("True")));
}

#[test]
fn pods_of_silent_nodes_are_not_ready() {
    let pod = json!({"metadata": {"uid": "u"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let patch = unready(&pod, NOW).unwrap();
    assert_eq!(patch["status"]["conditions"][0]["status"], "False");
    assert_eq!(unready(&json!({}), NOW), None);
}

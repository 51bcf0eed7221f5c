//! Pods: what they are made of, how each container fares, and what happened.

mod container;
mod volume;

use serde_json::Value;

use super::Page;
use super::page::{age, date, items, plain};

pub(super) fn describe(pod: &Value, events: Option<&[Value]>) -> String {
    let mut page = Page::default();
    let (spec, status) = (&pod["spec"], &pod["status"]);
    head(&mut page, pod);
    addresses(&mut page, status);
    let owners = items(&pod["metadata"]["ownerReferences"]);
    if let Some(owner) = owners.iter().find(|owner| owner["controller"] == true) {
        page.pair(0, "Controlled By", format!("{}/{}", plain(&owner["kind"]), plain(&owner["name"])));
    }
    page.pair_if(0, "NominatedNodeName", &status["nominatedNodeName"]);
    let groups = [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ];
    for (title, field, statuses) in groups {
        if !items(&spec[field]).is_empty() {
            page.line(0, format!("{title}:"));
            container::describe(&mut page, pod, items(&spec[field]), items(&status[statuses]));
        }
    }
    if !items(&status["conditions"]).is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus");
        for condition in items(&status["conditions"]) {
            page.line(1, format!("{} \t{} ", plain(&condition["type"]), plain(&condition["status"])));
        }
    }
    volumes(&mut page, items(&spec["volumes"]));
    page.pair(0, "QoS Class", plain(&status["qosClass"]));
    page.labels("Node-Selectors", &spec["nodeSelector"]);
    let mut tolerations: Vec<String> = items(&spec["tolerations"]).iter().map(toleration).collect();
    tolerations.sort();
    page.several("Tolerations", &tolerations);
    page.events(events);
    page.text()
}

fn head(page: &mut Page, pod: &Value) {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    page.head(pod);
    page.pair_if(0, "Priority", &spec["priority"]);
    page.pair_if(0, "Priority Class Name", &spec["priorityClassName"]);
    page.pair_if(0, "Runtime Class Name", &spec["runtimeClassName"]);
    page.pair_if(0, "Service Account", &spec["serviceAccountName"]);
    match spec["nodeName"].as_str().filter(|name| !name.is_empty()) {
        Some(node) => page.pair(0, "Node", format!("{node}/{}", plain(&status["hostIP"]))),
        None => page.pair(0, "Node", "<none>"),
    }
    if status["startTime"].is_string() {
        page.pair(0, "Start Time", date(&status["startTime"]));
    }
    page.labels("Labels", &pod["metadata"]["labels"]);
    page.annotations(pod);
    let phase = plain(&status["phase"]);
    match api::meta::deletion_timestamp(pod) {
        Some(at) if phase != "Succeeded" && phase != "Failed" => {
            page.pair(0, "Status", format!("Terminating (lasts {})", age(at)));
            let grace = plain(&pod["metadata"]["deletionGracePeriodSeconds"]);
            page.pair(0, "Termination Grace Period", format!("{grace}s"));
        }
        _ => page.pair(0, "Status", phase),
    }
    page.pair_if(0, "Reason", &status["reason"]);
    page.pair_if(0, "Message", &status["message"]);
    page.pair_if(0, "SeccompProfile", &spec["securityContext"]["seccompProfile"]["type"]);
}

fn addresses(page: &mut Page, status: &Value) {
    page.pair(0, "IP", plain(&status["podIP"]));
    if items(&status["podIPs"]).is_empty() {
        return page.pair(0, "IPs", "<none>");
    }
    page.line(0, "IPs:");
    for address in items(&status["podIPs"]) {
        page.pair(1, "IP", plain(&address["ip"]));
    }
}

fn volumes(page: &mut Page, volumes: &[Value]) {
    if volumes.is_empty() {
        return page.pair(0, "Volumes", "<none>");
    }
    page.line(0, "Volumes:");
    for volume in volumes {
        page.line(1, format!("{}:", plain(&volume["name"])));
        for (title, value) in volume::facts(volume) {
            page.pair(2, title, value);
        }
    }
}

fn toleration(toleration: &Value) -> String {
    let text = |field: &str| plain(&toleration[field]);
    let mut out = text("key");
    if !text("value").is_empty() {
        out = format!("{out}={}", text("value"));
    }
    if !text("effect").is_empty() {
        out = format!("{out}:{}", text("effect"));
    }
    if text("operator") == "Exists" && text("value").is_empty() {
        out = format!("{out}{}op=Exists", if out.is_empty() { "" } else { " " });
    }
    if !toleration["tolerationSeconds"].is_null() {
        out = format!("{out} for {}s", text("tolerationSeconds"));
    }
    out
}

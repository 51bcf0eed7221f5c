//! Pods: what they are made of, how each container fares, and what happened.

mod container;

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
        for (title, value) in facts(volume) {
            page.pair(2, title, value);
        }
    }
}

/// What there is to say of a volume.
fn facts(volume: &Value) -> Vec<(&'static str, String)> {
    let text = |value: &Value, default: &str| match plain(value) {
        empty if empty.is_empty() => default.to_owned(),
        text => text,
    };
    let kind = |text: &str| ("Type", text.to_owned());
    let optional = |source: &Value| ("Optional", text(&source["optional"], "false"));
    if let Some(source) = volume.get("emptyDir") {
        let medium = text(&source["medium"], "");
        return vec![
            kind("EmptyDir (a temporary directory that shares a pod's lifetime)"),
            ("Medium", medium),
            ("SizeLimit", text(&source["sizeLimit"], "<unset>")),
        ];
    }
    if let Some(source) = volume.get("hostPath") {
        let (path, of) = (text(&source["path"], ""), text(&source["type"], ""));
        return vec![kind("HostPath (bare host directory volume)"), ("Path", path), ("HostPathType", of)];
    }
    if let Some(source) = volume.get("configMap") {
        let name = text(&source["name"], "");
        return vec![kind("ConfigMap (a volume populated by a ConfigMap)"), ("Name", name), optional(source)];
    }
    if let Some(source) = volume.get("secret") {
        let name = text(&source["secretName"], "");
        return vec![kind("Secret (a volume populated by a Secret)"), ("SecretName", name), optional(source)];
    }
    if let Some(source) = volume.get("persistentVolumeClaim") {
        return vec![
            kind("PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)"),
            ("ClaimName", text(&source["claimName"], "")),
            ("ReadOnly", text(&source["readOnly"], "false")),
        ];
    }
    if let Some(source) = volume.get("projected") {
        let mut facts = vec![kind("Projected (a volume that contains injected data from multiple sources)")];
        for source in items(&source["sources"]) {
            if let Some(token) = source.get("serviceAccountToken") {
                facts.push(("TokenExpirationSeconds", text(&token["expirationSeconds"], "3600")));
            }
            for (field, title) in [("configMap", "ConfigMapName"), ("secret", "SecretName")] {
                if let Some(source) = source.get(field) {
                    facts.extend([(title, text(&source["name"], "")), optional(source)]);
                }
            }
            if source.get("downwardAPI").is_some() {
                facts.push(("DownwardAPI", "true".to_owned()));
            }
        }
        return facts;
    }
    if volume.get("downwardAPI").is_some() {
        return vec![kind("DownwardAPI (a volume populated by information about the pod)")];
    }
    let field = volume.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).find(|name| *name != "name");
    vec![("Type", field.unwrap_or("<unknown>").to_owned())]
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

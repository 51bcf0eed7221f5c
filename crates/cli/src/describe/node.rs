//! Nodes: what they have, and what runs on them.

use api::quantity::{Format, Quantity};
use client::resource;
use serde_json::Value;

use super::Page;
use super::page::{age, date, items, plain};
use crate::failure::Failure;
use crate::session::Session;

const ROLE: &str = "node-role.kubernetes.io/";
/// What pods ask for, in the order of the table.
const SHARED: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

pub(super) async fn describe(session: &Session, node: &Value, events: Option<&[Value]>) -> Result<String, Failure> {
    let name = api::meta::name(node);
    let lease = match session.get(&resource::LEASES.object(Some("kube-node-lease"), name)).await {
        Ok(lease) => Some(lease),
        Err(failure) if failure.is_not_found() => None,
        Err(failure) => return Err(failure),
    };
    let selector = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
    let pods =
        session.list(&resource::PODS.collection(None), &[("fieldSelector", &selector), ("limit", "500")]).await?;
    Ok(write(node, lease.as_ref(), &pods, events))
}

fn write(node: &Value, lease: Option<&Value>, pods: &[Value], events: Option<&[Value]>) -> String {
    let mut page = Page::default();
    let (spec, status) = (&node["spec"], &node["status"]);
    page.pair(0, "Name", api::meta::name(node));
    let roles: Vec<&str> = api::meta::labels(node).filter_map(|(key, _)| key.strip_prefix(ROLE)).collect();
    page.pair(0, "Roles", if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") });
    page.labels("Labels", &node["metadata"]["labels"]);
    page.annotations(node);
    page.pair(0, "CreationTimestamp", date(&node["metadata"]["creationTimestamp"]));
    let taint = |taint: &Value| {
        let value = taint["value"].as_str().map_or_else(String::new, |value| format!("={value}"));
        format!("{}{value}:{}", plain(&taint["key"]), plain(&taint["effect"]))
    };
    page.several("Taints", &items(&spec["taints"]).iter().map(taint).collect::<Vec<_>>());
    page.pair(0, "Unschedulable", spec["unschedulable"].as_bool().unwrap_or(false));
    page.line(0, "Lease:");
    let lease = lease.map_or(&Value::Null, |lease| &lease["spec"]);
    page.pair(1, "HolderIdentity", lease["holderIdentity"].as_str().unwrap_or("<unset>"));
    page.pair(1, "AcquireTime", date(&lease["acquireTime"]));
    page.pair(1, "RenewTime", date(&lease["renewTime"]));
    conditions(&mut page, status);
    page.line(0, "Addresses:");
    for address in items(&status["addresses"]) {
        page.pair(1, &plain(&address["type"]), plain(&address["address"]));
    }
    quantities(&mut page, "Capacity", &status["capacity"]);
    quantities(&mut page, "Allocatable", &status["allocatable"]);
    system(&mut page, &status["nodeInfo"]);
    page.pair_if(0, "PodCIDR", &spec["podCIDR"]);
    let ranges: Vec<String> = items(&spec["podCIDRs"]).iter().map(plain).collect();
    if !ranges.is_empty() {
        page.pair(0, "PodCIDRs", ranges.join(","));
    }
    page.pair_if(0, "ProviderID", &spec["providerID"]);
    used(&mut page, &status["allocatable"], pods);
    page.events(events);
    page.text()
}

fn conditions(page: &mut Page, status: &Value) {
    page.line(0, "Conditions:");
    page.line(1, "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    page.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for condition in items(&status["conditions"]) {
        let text = |field: &str| plain(&condition[field]);
        let (heartbeat, transition) = (date(&condition["lastHeartbeatTime"]), date(&condition["lastTransitionTime"]));
        let (kind, status, reason, message) = (text("type"), text("status"), text("reason"), text("message"));
        page.line(1, format!("{kind} \t{status} \t{heartbeat} \t{transition} \t{reason} \t{message}"));
    }
}

fn quantities(page: &mut Page, title: &str, list: &Value) {
    page.line(0, format!("{title}:"));
    for (name, quantity) in list.as_object().into_iter().flatten() {
        let text = plain(quantity);
        page.pair(1, name, api::quantity::canonical(&text).unwrap_or(text));
    }
}

fn system(page: &mut Page, facts: &Value) {
    page.line(0, "System Info:");
    let fields = [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ];
    for (title, field) in fields {
        page.pair(1, title, plain(&facts[field]));
    }
}

/// What the pods ask for, one by one and together.
fn used(page: &mut Page, allocatable: &Value, pods: &[Value]) {
    page.pair(0, "Non-terminated Pods", format!("({} in total)", pods.len()));
    page.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    page.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let share = |pods: &[Value], which: &str, name: &str| {
        let sum = sum(pods, which, name);
        let whole = Quantity::parse(&plain(&allocatable[name])).unwrap_or(Quantity::ZERO);
        format!("{sum} ({}%)", percent(&sum, &whole))
    };
    for pod in pods {
        let one = std::slice::from_ref(pod);
        let cells = [("requests", "cpu"), ("limits", "cpu"), ("requests", "memory"), ("limits", "memory")];
        let cells = cells.map(|(which, name)| share(one, which, name)).join("\t");
        let (namespace, name) = (api::meta::namespace(pod), api::meta::name(pod));
        let age = age(pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default());
        page.line(1, format!("{namespace}\t{name}\t\t{cells}\t{age}"));
    }
    page.line(0, "Allocated resources:");
    page.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    page.line(1, "Resource\tRequests\tLimits");
    page.line(1, "--------\t--------\t------");
    let names = allocatable.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let others = names.filter(|name| !SHARED.contains(name) && *name != "pods");
    for name in SHARED.into_iter().chain(others) {
        let (requests, limits) = (share(pods, "requests", name), share(pods, "limits", name));
        page.line(1, format!("{name}\t{requests}\t{limits}"));
    }
}

/// What some pods ask for together.
fn sum(pods: &[Value], which: &str, name: &str) -> Quantity {
    let containers = pods.iter().flat_map(|pod| items(&pod["spec"]["containers"]));
    let wanted = containers.filter_map(|container| container["resources"][which][name].as_str());
    let parsed: Vec<Quantity> = wanted.filter_map(|text| Quantity::parse(text).ok()).collect();
    let Some(first) = parsed.first() else { return Quantity::ZERO };
    if parsed.iter().all(Quantity::is_integer) && name != "cpu" {
        let format = first.format();
        return Quantity::new(parsed.iter().map(Quantity::value).sum(), format);
    }
    match parsed.iter().map(Quantity::milli_value).sum::<i64>() {
        whole if whole % 1000 == 0 => Quantity::new(whole / 1000, Format::DecimalSi),
        milli => Quantity::from_milli(milli),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: &Quantity, whole: &Quantity) -> i64 {
    let number = |quantity: &Quantity| quantity.milli_value() as f64;
    if whole.is_zero() { 0 } else { (number(part) / number(whole) * 100.0) as i64 }
}

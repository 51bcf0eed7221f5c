//! Whether a pod fits on a node, and how well: pure functions.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::Value;

use crate::affinity::Affinity;
use crate::locality;

/// Amounts by resource: thousandths of a core for `cpu`, whole units for all others.
pub type Amounts = BTreeMap<String, u64>;

/// What a pod wants of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wants {
    /// What it sets aside.
    pub requests: Amounts,
    /// Labels that its node must have.
    pub selector: BTreeMap<String, String>,
    /// Which nodes it must or would like to be on, beyond that.
    pub affinity: Affinity,
    /// The controller whose pods should not all be on one node.
    pub group: Option<String>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// Ports of the node that it takes.
    pub ports: Vec<HostPort>,
    /// The images of its containers, by their complete names.
    pub images: Vec<String>,
}

/// A port of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: u64,
    /// The address; `0.0.0.0` for all.
    pub address: String,
}

/// What a pod bears.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toleration {
    key: String,
    is_exists: bool,
    value: String,
    effect: String,
    /// For how long, where the taint makes pods leave; `None`: for ever.
    seconds: Option<i64>,
}

/// What a node does not want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taint {
    key: String,
    value: String,
    effect: String,
}

/// What a node has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// It takes no new pods.
    pub is_unschedulable: bool,
    /// What it can give.
    pub allocatable: Amounts,
    /// What it has given.
    pub requested: Amounts,
    /// Ports that are taken.
    pub ports: Vec<HostPort>,
    /// How many pods of each controller are there.
    pub groups: BTreeMap<String, u64>,
}

impl Node {
    /// Whether other pods may fit than before, whatever it has given.
    pub fn differs(&self, other: &Self) -> bool {
        self.is_unschedulable != other.is_unschedulable
            || self.labels != other.labels
            || self.taints != other.taints
            || self.allocatable != other.allocatable
    }

    /// How many of its taints say that the pod had better go elsewhere.
    pub fn unwanted(&self, wants: &Wants) -> u64 {
        let soft = self.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !wants.tolerations.iter().any(|toleration| toleration.bears(taint))).count() as u64
    }
}

/// Why a node is no place for a pod, in upstream's words; what can be said of several nodes is said once with their number.
pub fn misfits(wants: &Wants, node: &Node) -> Vec<String> {
    if node.is_unschedulable {
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: "NoSchedule".into() };
        if !wants.tolerations.iter().any(|toleration| toleration.bears(&taint)) {
            return vec!["node(s) were unschedulable".into()];
        }
    }
    let is_borne = |taint: &Taint| {
        taint.effect == "PreferNoSchedule" || wants.tolerations.iter().any(|toleration| toleration.bears(taint))
    };
    if !node.taints.iter().all(is_borne) {
        return vec!["node(s) had untolerated taint(s)".into()];
    }
    let is_selected = wants.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    if !is_selected || !wants.affinity.allows(&node.name, &node.labels) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    if wants.ports.iter().any(|wanted| node.ports.iter().any(|taken| taken.conflicts(wanted))) {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    let is_short = |(resource, wanted): &(&String, &u64)| {
        let free = |map: &Amounts| map.get(*resource).copied().unwrap_or(0);
        **wanted > 0 && free(&node.requested) + **wanted > free(&node.allocatable)
    };
    let short = wants.requests.iter().filter(is_short);
    short
        .map(
            |(resource, _)| {
                if resource == "pods" { "Too many pods".into() } else { format!("Insufficient {resource}") }
            },
        )
        .collect()
}

impl HostPort {
    /// Whether two pods cannot have both.
    pub fn conflicts(&self, other: &Self) -> bool {
        let is_all = |address: &str| address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || is_all(&self.address) || is_all(&other.address))
    }
}

impl Taint {
    /// Read from the object.
    pub fn read(taint: &Value) -> Self {
        Self { key: text(&taint["key"]), value: text(&taint["value"]), effect: text(&taint["effect"]) }
    }
}

impl Toleration {
    /// For how many seconds it bears a taint that makes pods leave; `None`: for ever.
    pub fn seconds(&self) -> Option<i64> {
        self.seconds
    }

    /// Whether a pod with it may be where the taint is.
    pub fn bears(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() && self.is_exists || self.key == taint.key)
            && (self.is_exists || self.value == taint.value)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn map(value: &Value) -> BTreeMap<String, String> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// Amounts as objects write them.
pub fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    let read = |(name, value): (&String, &Value)| {
        let quantity = Quantity::parse(value.as_str()?).ok()?;
        let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
        Some((name.clone(), u64::try_from(amount).unwrap_or(0)))
    };
    entries.filter_map(read).collect()
}

/// What a pod wants, read from the object.
pub fn wants(pod: &Value) -> Wants {
    let spec = &pod["spec"];
    Wants {
        requests: requests(spec),
        selector: map(&spec["nodeSelector"]),
        affinity: Affinity::read(spec),
        group: owner(pod),
        tolerations: tolerations(spec),
        ports: ports(spec),
        images: images(spec),
    }
}

fn owner(pod: &Value) -> Option<String> {
    let controller = list(&pod["metadata"]["ownerReferences"]).find(|owner| owner["controller"] == true)?;
    controller["uid"].as_str().map(str::to_owned)
}

/// What a pod bears, by its spec.
pub fn tolerations(spec: &Value) -> Vec<Toleration> {
    let read = |toleration: &Value| Toleration {
        key: text(&toleration["key"]),
        is_exists: toleration["operator"] == "Exists",
        value: text(&toleration["value"]),
        effect: text(&toleration["effect"]),
        seconds: toleration["tolerationSeconds"].as_i64(),
    };
    list(&spec["tolerations"]).map(read).collect()
}

/// The containers together, or the largest init container where that is more.
fn requests(spec: &Value) -> Amounts {
    let mut sum = Amounts::new();
    for container in list(&spec["containers"]) {
        for (name, amount) in amounts(&container["resources"]["requests"]) {
            *sum.entry(name).or_default() += amount;
        }
    }
    for container in list(&spec["initContainers"]) {
        for (name, amount) in amounts(&container["resources"]["requests"]) {
            let entry = sum.entry(name).or_default();
            *entry = (*entry).max(amount);
        }
    }
    for (name, amount) in amounts(&spec["overhead"]) {
        *sum.entry(name).or_default() += amount;
    }
    sum.insert("pods".into(), 1);
    sum
}

fn ports(spec: &Value) -> Vec<HostPort> {
    let containers = list(&spec["initContainers"]).chain(list(&spec["containers"]));
    let ports = containers.flat_map(|container| list(&container["ports"]));
    let read = |port: &Value| {
        let number = port["hostPort"].as_u64().filter(|number| *number > 0)?;
        let or = |value: &Value, default: &str| value.as_str().filter(|t| !t.is_empty()).unwrap_or(default).to_owned();
        let (protocol, address) = (or(&port["protocol"], "TCP"), or(&port["hostIP"], "0.0.0.0"));
        Some(HostPort { protocol, port: number, address })
    };
    ports.filter_map(read).collect()
}

fn images(spec: &Value) -> Vec<String> {
    let containers = list(&spec["initContainers"]).chain(list(&spec["containers"]));
    containers.filter_map(|container| container["image"].as_str()).map(locality::complete).collect()
}

/// What a node has, read from the object; nothing is given yet.
pub fn node(object: &Value) -> Node {
    Node {
        name: text(&object["metadata"]["name"]),
        labels: map(&object["metadata"]["labels"]),
        taints: list(&object["spec"]["taints"]).map(Taint::read).collect(),
        is_unschedulable: object["spec"]["unschedulable"] == true,
        allocatable: amounts(&object["status"]["allocatable"]),
        ..Node::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine() -> Node {
        node(&json!({
            "metadata": {"labels": {"disk": "ssd"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}},
        }))
    }

    fn pod(spec: Value) -> Wants {
        wants(&json!({"spec": spec}))
    }

    fn asking(cpu: &str) -> Value {
        json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn resources_are_compared_exactly() {
        let mut node = machine();
        assert_eq!(misfits(&pod(asking("2")), &node), Vec::<String>::new());
        assert_eq!(misfits(&pod(asking("2001m")), &node), ["Insufficient cpu"]);
        node.requested.insert("pods".into(), 10);
        assert_eq!(misfits(&pod(asking("1")), &node), ["Too many pods"]);
        let extended = json!({"containers": [{"resources": {"requests": {"example.com/fake": "1"}}}]});
        node.requested.clear();
        assert_eq!(misfits(&pod(extended), &node), ["Insufficient example.com/fake"]);
    }

    #[test]
    fn init_containers_count_by_the_largest() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "500m"}}}, {"resources": {"requests": {"cpu": "250m"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "100m"}}}],
        });
        assert_eq!(pod(spec).requests["cpu"], 1000);
    }

    #[test]
    fn selectors_and_taints_keep_pods_away() {
        let mut node = machine();
        assert!(misfits(&pod(json!({"nodeSelector": {"disk": "ssd"}})), &node).is_empty());
        let reasons = misfits(&pod(json!({"nodeSelector": {"disk": "hdd"}})), &node);
        assert_eq!(reasons, ["node(s) didn't match Pod's node affinity/selector"]);
        node.taints.push(Taint { key: "a".into(), value: "b".into(), effect: "NoSchedule".into() });
        assert_eq!(misfits(&pod(json!({})), &node), ["node(s) had untolerated taint(s)"]);
        for toleration in [
            json!({"key": "a", "value": "b", "effect": "NoSchedule"}),
            json!({"key": "a", "operator": "Exists"}),
            json!({"operator": "Exists"}),
        ] {
            assert!(misfits(&pod(json!({"tolerations": [toleration]})), &node).is_empty(), "{toleration}");
        }
        let other = json!({"tolerations": [{"key": "a", "value": "c"}]});
        assert!(!misfits(&pod(other), &node).is_empty());
    }

    #[test]
    fn host_ports_conflict_by_address_and_protocol() {
        let port =
            |address: &str, protocol: &str| HostPort { protocol: protocol.into(), port: 80, address: address.into() };
        assert!(port("0.0.0.0", "TCP").conflicts(&port("127.0.0.1", "TCP")));
        assert!(!port("127.0.0.2", "TCP").conflicts(&port("127.0.0.1", "TCP")));
        assert!(!port("0.0.0.0", "UDP").conflicts(&port("0.0.0.0", "TCP")));
    }
}

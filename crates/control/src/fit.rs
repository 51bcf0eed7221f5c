//! Whether a pod fits on a node, and how well: pure functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use serde_json::Value;

use crate::affinity::Affinity;
use crate::locality;
use crate::near::Social;
use crate::tree::{list, map, string};

/// Amounts by resource: thousandths of a core for `cpu`, whole units for all others. The common ones are found without a search.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amounts {
    common: [u64; COMMON.len()],
    others: BTreeMap<String, u64>,
}

const COMMON: [&str; 3] = ["cpu", "memory", "pods"];

impl Amounts {
    /// One of them.
    pub fn get(&self, resource: &str) -> u64 {
        match COMMON.iter().position(|known| *known == resource) {
            Some(at) => self.common[at],
            None => self.others.get(resource).copied().unwrap_or(0),
        }
    }

    /// CPU and memory.
    pub fn main(&self) -> [u64; 2] {
        [self.common[0], self.common[1]]
    }

    /// One of them, to change it.
    pub fn of(&mut self, resource: &str) -> &mut u64 {
        match COMMON.iter().position(|known| *known == resource) {
            Some(at) => &mut self.common[at],
            None => self.others.entry(resource.to_owned()).or_default(),
        }
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.join(other, u64::saturating_add);
    }

    /// Takes away all of another.
    pub fn subtract(&mut self, other: &Self) {
        self.join(other, u64::saturating_sub);
    }

    /// Joins each with that of another.
    fn join(&mut self, other: &Self, join: fn(u64, u64) -> u64) {
        for (own, more) in self.common.iter_mut().zip(other.common) {
            *own = join(*own, more);
        }
        for (name, more) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = join(*own, *more);
        }
    }

    /// Those of which there is not enough: what is wanted, beside what is given, is more than there is.
    fn short<'a>(&'a self, given: &'a Self, all: &'a Self) -> impl Iterator<Item = &'a str> {
        let is_short = |wanted: u64, given: u64, all: u64| wanted > 0 && given.saturating_add(wanted) > all;
        let common = (0..COMMON.len()).filter(move |at| is_short(self.common[*at], given.common[*at], all.common[*at]));
        let others =
            self.others.iter().filter(move |(name, wanted)| is_short(**wanted, given.get(name), all.get(name)));
        common.map(|at| COMMON[at]).chain(others.map(|(name, _)| name.as_str()))
    }
}

/// What a pod wants of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wants {
    /// What it sets aside.
    pub requests: Amounts,
    /// Labels that its node must have.
    pub selector: BTreeMap<String, String>,
    /// Which nodes it must or would like to be on, beyond that.
    pub affinity: Affinity,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// Ports of the node that it takes.
    pub ports: Vec<HostPort>,
    /// The images of its containers, by their complete names.
    pub images: Vec<String>,
    /// What it is to other pods, and they to it.
    pub social: Arc<Social>,
    /// How important it is.
    pub priority: i64,
    /// Less important pods may have to go for it.
    pub preempts: bool,
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
}

impl Node {
    /// Gives a pod what it wants.
    pub fn give(&mut self, wants: &Wants) {
        self.requested.add(&wants.requests);
        self.ports.extend(wants.ports.iter().cloned());
    }

    /// Takes back what a pod had.
    pub fn take(&mut self, wants: &Wants) {
        self.requested.subtract(&wants.requests);
        for port in &wants.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
    }

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

impl Wants {
    /// Whether the pod's selector and node affinity allow a node.
    pub fn selects(&self, node: &Node) -> bool {
        self.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && self.affinity.allows(&node.name, &node.labels)
    }

    /// Whether it bears all taints that keep pods away.
    pub fn bears_taints_of(&self, node: &Node) -> bool {
        node.taints.iter().all(|taint| taint.effect == "PreferNoSchedule" || self.bears(taint))
    }

    fn bears(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| toleration.bears(taint))
    }
}

/// Why a node is no place for a pod whatever happens to the pods there, in upstream's words.
pub fn obstacle(wants: &Wants, node: &Node) -> Option<&'static str> {
    if node.is_unschedulable {
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: "NoSchedule".into() };
        if !wants.bears(&taint) {
            return Some("node(s) were unschedulable");
        }
    }
    if !wants.bears_taints_of(node) {
        return Some("node(s) had untolerated taint(s)");
    }
    (!wants.selects(node)).then_some("node(s) didn't match Pod's node affinity/selector")
}

/// Why a node is no place for a pod as long as the pods there stay, in upstream's words; what can be said of several nodes is said once with
/// their number.
pub fn misfits(wants: &Wants, node: &Node) -> Vec<String> {
    if wants.ports.iter().any(|wanted| node.ports.iter().any(|taken| taken.conflicts(wanted))) {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    let say =
        |resource: &str| if resource == "pods" { "Too many pods".into() } else { format!("Insufficient {resource}") };
    wants.requests.short(&node.requested, &node.allocatable).map(say).collect()
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
        Self { key: string(&taint["key"]), value: string(&taint["value"]), effect: string(&taint["effect"]) }
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

/// Amounts as objects write them.
pub fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    let mut amounts = Amounts::default();
    for (name, value) in entries {
        let Some(quantity) = value.as_str().and_then(|text| Quantity::parse(text).ok()) else { continue };
        let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
        *amounts.of(name) = u64::try_from(amount).unwrap_or(0);
    }
    amounts
}

/// What a pod wants, read from the object.
pub fn wants(pod: &Value) -> Wants {
    let spec = &pod["spec"];
    Wants {
        requests: requests(spec),
        selector: map(&spec["nodeSelector"]),
        affinity: Affinity::read(spec),
        tolerations: tolerations(spec),
        ports: ports(spec),
        images: images(spec),
        social: Arc::new(Social::read(pod)),
        priority: spec["priority"].as_i64().unwrap_or(0),
        preempts: spec["preemptionPolicy"] != "Never",
    }
}

/// What a pod bears, by its spec.
pub fn tolerations(spec: &Value) -> Vec<Toleration> {
    let read = |toleration: &Value| Toleration {
        key: string(&toleration["key"]),
        is_exists: toleration["operator"] == "Exists",
        value: string(&toleration["value"]),
        effect: string(&toleration["effect"]),
        seconds: toleration["tolerationSeconds"].as_i64(),
    };
    list(&spec["tolerations"]).map(read).collect()
}

/// The containers together, or the largest init container where that is more.
fn requests(spec: &Value) -> Amounts {
    let mut sum = Amounts::default();
    let of = |object: &Value| amounts(&object["resources"]["requests"]);
    list(&spec["containers"]).for_each(|container| sum.add(&of(container)));
    list(&spec["initContainers"]).for_each(|container| sum.join(&of(container), u64::max));
    sum.add(&amounts(&spec["overhead"]));
    *sum.of("pods") = 1;
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
        name: string(&object["metadata"]["name"]),
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

    fn misfits(wants: &Wants, node: &Node) -> Vec<String> {
        obstacle(wants, node).map_or_else(|| super::misfits(wants, node), |reason| vec![reason.to_owned()])
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
        *node.requested.of("pods") = 10;
        assert_eq!(misfits(&pod(asking("1")), &node), ["Too many pods"]);
        let extended = json!({"containers": [{"resources": {"requests": {"example.com/fake": "1"}}}]});
        node.requested = Amounts::default();
        assert_eq!(misfits(&pod(extended), &node), ["Insufficient example.com/fake"]);
    }

    #[test]
    fn init_containers_count_by_the_largest() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "500m"}}}, {"resources": {"requests": {"cpu": "250m"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "100m"}}}],
        });
        assert_eq!(pod(spec).requests.get("cpu"), 1000);
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

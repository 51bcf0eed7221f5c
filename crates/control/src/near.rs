//! What a pod says of other pods: near which it must be, or must not be, or would like to be, and over what its likes are to be spread. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::affinity::Test;
use crate::tree::{list, map, string};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;
/// Everything in it must hold; without one, nothing is selected.
pub(crate) type Selector = Option<Vec<Test>>;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What a pod is to others, and what it says of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Social {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// The uid of its controller.
    pub owner: Option<String>,
    /// Near some pod of each of these it must be.
    pub with: Vec<Term>,
    /// Near no pod of these it may be.
    pub apart: Vec<Term>,
    /// Near these it would like to be, or would not where the weight is negative.
    pub likes: Vec<(i64, Term)>,
    /// How it and its likes are to be spread.
    pub spreads: Vec<Spread>,
}

/// Pods, and what being near them means: on nodes where a label has the same value.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// Which pods.
    pub pods: Pods,
    /// The label.
    pub key: String,
}

/// Pods of some namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pods {
    names: BTreeSet<String>,
    namespaces: Selector,
    labels: Selector,
}

/// Which pods are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// Those that are all of these.
    All(Vec<Pods>),
    /// Those of one controller.
    Owner(String),
}

/// One rule of spreading.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spread {
    /// The label whose values are the places.
    pub key: String,
    /// How many more pods than the emptiest place another may have.
    pub skew: u64,
    /// What is no wish but a condition.
    pub is_hard: bool,
    /// With fewer places than this, the emptiest counts as empty.
    pub least_places: u64,
    /// Only places count that the pod's own node affinity allows.
    pub heeds_affinity: bool,
    /// Only places count whose taints the pod bears.
    pub heeds_taints: bool,
    /// Which pods are spread.
    pub pods: Question,
}

impl Social {
    /// By a pod.
    pub fn read(pod: &Value) -> Self {
        let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
        let mut social = Self {
            namespace: string(&metadata["namespace"]),
            labels: map(&metadata["labels"]),
            owner: list(&metadata["ownerReferences"])
                .find(|owner| owner["controller"] == true)
                .map(|owner| string(&owner["uid"])),
            ..Self::default()
        };
        let (required, preferred) =
            ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
        let [affinity, anti] = ["podAffinity", "podAntiAffinity"].map(|kind| &spec["affinity"][kind]);
        let terms = |all: &Value| list(all).map(|term| Term::read(term, &social)).collect();
        let weighed = |all: &Value, sign: i64| {
            let weigh = |item: &Value| {
                (sign * item["weight"].as_i64().unwrap_or(0), Term::read(&item["podAffinityTerm"], &social))
            };
            list(all).map(weigh).collect::<Vec<_>>()
        };
        let (with, apart) = (terms(&affinity[required]), terms(&anti[required]));
        let likes = [weighed(&affinity[preferred], 1), weighed(&anti[preferred], -1)].concat();
        let spreads = list(&spec["topologySpreadConstraints"]).map(|rule| Spread::read(rule, &social)).collect();
        (social.with, social.apart, social.likes, social.spreads) = (with, apart, likes, spreads);
        if social.spreads.is_empty() {
            social.spreads = social.owner.iter().flat_map(|owner| Spread::usual(owner)).collect();
        }
        social
    }

    /// Whether it says nothing of other pods.
    pub fn is_silent(&self) -> bool {
        self.with.is_empty() && self.apart.is_empty() && self.likes.is_empty() && self.spreads.is_empty()
    }
}

impl Term {
    fn read(term: &Value, own: &Social) -> Self {
        let mut names: BTreeSet<String> = list(&term["namespaces"]).map(string).collect();
        let namespaces = selector(&term["namespaceSelector"]);
        if names.is_empty() && namespaces.is_none() {
            names.insert(own.namespace.clone());
        }
        let mut labels = selector(&term["labelSelector"]);
        extend(&mut labels, &term["matchLabelKeys"], "In", own);
        extend(&mut labels, &term["mismatchLabelKeys"], "NotIn", own);
        Self { pods: Pods { names, namespaces, labels }, key: string(&term["topologyKey"]) }
    }
}

impl Spread {
    fn read(rule: &Value, own: &Social) -> Self {
        let mut labels = selector(&rule["labelSelector"]);
        extend(&mut labels, &rule["matchLabelKeys"], "In", own);
        let pods = Pods { names: [own.namespace.clone()].into(), namespaces: None, labels };
        Self {
            key: string(&rule["topologyKey"]),
            skew: rule["maxSkew"].as_u64().unwrap_or(1),
            is_hard: rule["whenUnsatisfiable"] != "ScheduleAnyway",
            least_places: rule["minDomains"].as_u64().unwrap_or(1),
            heeds_affinity: rule["nodeAffinityPolicy"] != "Ignore",
            heeds_taints: rule["nodeTaintsPolicy"] == "Honor",
            pods: Question::All(vec![pods]),
        }
    }

    /// How pods of one controller are spread that say nothing of it.
    fn usual(owner: &str) -> [Self; 2] {
        [(HOSTNAME, 3), (ZONE, 5)].map(|(key, skew)| Self {
            key: key.to_owned(),
            skew,
            is_hard: false,
            least_places: 1,
            heeds_affinity: true,
            heeds_taints: false,
            pods: Question::Owner(owner.to_owned()),
        })
    }

    /// A rule of the pod's own, which leaves out nodes without its label.
    pub fn is_own(&self) -> bool {
        matches!(self.pods, Question::All(_))
    }
}

impl Pods {
    /// Whether a pod is one of them. `labels`: those of its namespace.
    pub fn have(&self, pod: &Social, labels: &Labels) -> bool {
        let is_there = self.names.contains(&pod.namespace) || holds(&self.namespaces, labels);
        is_there && holds(&self.labels, &pod.labels)
    }

    /// Whether that may change with the labels of a namespace.
    pub fn asks_namespaces(&self) -> bool {
        self.namespaces.is_some()
    }
}

impl Question {
    /// Whether a pod is counted. `labels`: those of its namespace.
    pub fn counts(&self, pod: &Social, labels: &Labels) -> bool {
        match self {
            Self::All(all) => !all.is_empty() && all.iter().all(|pods| pods.have(pod, labels)),
            Self::Owner(owner) => pod.owner.as_ref() == Some(owner),
        }
    }

    /// Whether that may change with the labels of a namespace.
    pub fn asks_namespaces(&self) -> bool {
        matches!(self, Self::All(all) if all.iter().any(Pods::asks_namespaces))
    }
}

/// Whether labels are selected.
pub(crate) fn holds(selector: &Selector, labels: &Labels) -> bool {
    selector
        .as_ref()
        .is_some_and(|tests| tests.iter().all(|test| test.holds(labels.get(&test.key).map(String::as_str))))
}

/// By the object.
pub(crate) fn selector(value: &Value) -> Selector {
    if value.is_null() {
        return None;
    }
    let exact = map(&value["matchLabels"]).into_iter().map(|(key, value)| Test::is(key, "In", value));
    Some(exact.chain(list(&value["matchExpressions"]).map(Test::read)).collect())
}

/// Adds that a label is like the pod's own, or is not.
fn extend(selector: &mut Selector, keys: &Value, operator: &str, own: &Social) {
    let Some(tests) = selector else { return };
    let found = list(keys).map(string).filter_map(|key| own.labels.get(&key).map(|value| (key.clone(), value.clone())));
    tests.extend(found.map(|(key, value)| Test::is(key, operator, value)));
}

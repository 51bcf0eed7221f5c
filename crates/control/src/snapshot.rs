//! What the scheduler knows: nodes and what their pods have taken, kept up by each change instead of counted anew.

mod preemption;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use crate::fit::{self, Node, Wants};
use crate::locality::Locality;
use crate::near::Labels;
use crate::neighbours::{Neighbours, View};
use crate::score::{self, Most, Raw};

pub use preemption::{Budget, Facts, Preemption};

/// All nodes, and where pods are.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, Node>,
    placed: HashMap<String, Placed>,
    /// What else is known of them.
    facts: HashMap<String, Facts>,
    /// What pods were promised for which others go.
    nominated: HashMap<String, Placed>,
    locality: Locality,
    neighbours: Neighbours,
    /// Where the last search ended that did not look at all nodes.
    last: String,
}

/// A pod that has a node.
#[derive(Debug)]
pub struct Placed {
    /// The node's name.
    pub node: String,
    /// What the pod has of it.
    pub wants: Arc<Wants>,
}

/// What became of a search for a node.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// The best node.
    Node(String),
    /// None fits; the sentence says why.
    None(String),
}

impl Snapshot {
    /// A node is there, new or changed. False if nothing has changed that decides what fits there, as with most signs of life.
    pub fn set_node(&mut self, object: &Value) -> bool {
        let Some(name) = object["metadata"]["name"].as_str() else { return false };
        self.locality.set(name, &object["status"]["images"]);
        let mut node = fit::node(object);
        if let Some(old) = self.nodes.get_mut(name) {
            node.requested = mem::take(&mut old.requested);
            node.ports = mem::take(&mut old.ports);
            return mem::replace(old, node).differs(old);
        }
        // Pods may be known before their node is.
        let own = self.placed.values().filter(|placed| placed.node == name);
        own.for_each(|placed| node.give(&placed.wants));
        self.nodes.insert(name.to_owned(), node);
        true
    }

    /// A node has gone.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
        self.locality.remove(name);
    }

    /// A namespace is there, new or changed. True if its labels have changed.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) -> bool {
        self.neighbours.set_namespace(name, labels)
    }

    /// A namespace has gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.neighbours.remove_namespace(name);
    }

    /// A pod has a node, or is about to get it. One that is elsewhere, or was otherwise, leaves first. False if nothing is new.
    pub fn place(&mut self, uid: &str, node: &str, wants: Arc<Wants>) -> bool {
        if self.placed.get(uid).is_some_and(|placed| placed.node == node && placed.wants == wants) {
            return false;
        }
        self.lift(uid);
        self.put(uid, Placed { node: node.to_owned(), wants });
        true
    }

    /// What else is known of a pod.
    pub fn describe(&mut self, uid: &str, facts: Facts) {
        self.facts.insert(uid.to_owned(), facts);
    }

    /// A pod takes nothing any more. True if it had taken something.
    pub fn release(&mut self, uid: &str) -> bool {
        self.facts.remove(uid);
        self.lift(uid).is_some()
    }

    /// A pod is promised what others will leave on a node.
    pub fn nominate(&mut self, uid: &str, node: &str, wants: Arc<Wants>) {
        self.nominated.insert(uid.to_owned(), Placed { node: node.to_owned(), wants });
    }

    /// A pod needs no promise any more.
    pub fn forget_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    fn lift(&mut self, uid: &str) -> Option<Placed> {
        let placed = self.placed.remove(uid)?;
        if let Some(node) = self.nodes.get_mut(&placed.node) {
            node.take(&placed.wants);
        }
        self.neighbours.go(&placed.node, &placed.wants.social);
        Some(placed)
    }

    fn put(&mut self, uid: &str, placed: Placed) {
        if let Some(node) = self.nodes.get_mut(&placed.node) {
            node.give(&placed.wants);
        }
        self.neighbours.come(&placed.node, &placed.wants.social);
        self.placed.insert(uid.to_owned(), placed);
    }

    /// A node as it is for a pod: what is promised to others that are as important is not free.
    fn as_promised<'a>(&self, node: &'a Node, uid: &str, priority: i64) -> Cow<'a, Node> {
        let mut seen = Cow::Borrowed(node);
        let others = self
            .nominated
            .iter()
            .filter(|(other, placed)| placed.node == node.name && *other != uid && placed.wants.priority >= priority);
        others.for_each(|(_, placed)| seen.to_mut().give(&placed.wants));
        seen
    }

    /// The best node for a pod, the first of them in turn among equals. In large clusters not all nodes are looked at: enough that fit are, and
    /// the next search begins where this one ended (upstream's rule).
    pub fn choose(&mut self, uid: &str, wants: &Wants) -> Choice {
        let enough = enough(self.nodes.len());
        let images = self.locality.of(&wants.images, self.nodes.len());
        let is_lonely = self.neighbours.is_irrelevant(&wants.social);
        let view = (!is_lonely).then(|| self.neighbours.view(wants, &self.nodes, &self.placed));
        let last = self.last.as_str();
        let (after, before) = ((Bound::Excluded(last), Bound::Unbounded), (Bound::Unbounded, Bound::Included(last)));
        let around = self.nodes.range::<str, _>(after).chain(self.nodes.range::<str, _>(before));
        let mut fitting: Vec<&Node> = Vec::with_capacity(enough);
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for (_, node) in around {
            let misfits = misfits(wants, &self.as_promised(node, uid, wants.priority), view.as_ref());
            if misfits.is_empty() {
                fitting.push(node);
            }
            misfits.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
            if fitting.len() == enough {
                break;
            }
        }
        let rate = |node: &&Node| score::raw(wants, &node.name, node, images.score(&node.name));
        let mut raws: Vec<Raw> = fitting.iter().map(rate).collect();
        if let Some(view) = view {
            raws.iter_mut().zip(view.rate(&fitting)).for_each(|(raw, others)| raw.others = others);
        }
        let most = Most::of(raws.iter());
        // Of equals `max_by_key` gives the last: turned round, the first.
        let best = fitting.iter().zip(&raws).rev().max_by_key(|(_, raw)| most.score(raw));
        let Some((best, _)) = best else { return Choice::None(self.refusal(&reasons)) };
        let name = best.name.clone();
        let is_cut = fitting.len() == enough && enough < self.nodes.len();
        self.last = fitting.last().filter(|_| is_cut).map(|node| node.name.clone()).unwrap_or_default();
        Choice::Node(name)
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    fn refusal(&self, reasons: &BTreeMap<String, usize>) -> String {
        if self.nodes.is_empty() {
            return "no nodes available to schedule pods".into();
        }
        let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        format!("0/{} nodes are available: {}.", self.nodes.len(), parts.join(", "))
    }
}

/// Why a node is no place for a pod; nothing if it is one.
fn misfits(wants: &Wants, node: &Node, view: Option<&View>) -> Vec<String> {
    if let Some(reason) = fit::obstacle(wants, node) {
        return vec![reason.to_owned()];
    }
    let own = fit::misfits(wants, node);
    if !own.is_empty() {
        return own;
    }
    view.and_then(|view| view.misfit(node)).map(str::to_owned).into_iter().collect()
}

/// So many nodes that fit are enough to choose from: all of a hundred, ever fewer of more, but never fewer than a twentieth.
fn enough(nodes: usize) -> usize {
    const ALL: usize = 100;
    if nodes <= ALL {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ALL)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, cpu: &str) -> Value {
        let allocatable = json!({"cpu": cpu, "memory": "1Gi", "pods": "10"});
        json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}})
    }

    fn wants(cpu: &str) -> Arc<Wants> {
        Arc::new(fit::wants(&json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}})))
    }

    #[test]
    fn pods_spread_and_fill_up() {
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.choose("", &wants("1")), Choice::None("no nodes available to schedule pods".into()));
        snapshot.set_node(&node("a", "2"));
        snapshot.set_node(&node("b", "2"));
        assert_eq!(snapshot.choose("", &wants("1")), Choice::Node("a".into()));
        snapshot.place("1", "a", wants("1"));
        assert_eq!(snapshot.choose("", &wants("1")), Choice::Node("b".into()));
        snapshot.place("2", "b", wants("2"));
        snapshot.place("3", "a", wants("1"));
        let text = "0/2 nodes are available: 2 Insufficient cpu.";
        assert_eq!(snapshot.choose("", &wants("1")), Choice::None(text.into()));
        assert!(snapshot.release("2"));
        assert!(!snapshot.release("2"));
        assert_eq!(snapshot.choose("", &wants("1")), Choice::Node("b".into()));
    }

    #[test]
    fn of_many_nodes_each_gets_its_turn() {
        let mut snapshot = Snapshot::default();
        for number in 0..1000 {
            snapshot.set_node(&node(&format!("n{number:04}"), "2"));
        }
        assert_eq!((enough(100), enough(1000), enough(10_000)), (100, 420, 500));
        assert_eq!(snapshot.choose("", &wants("1")), Choice::Node("n0000".into()));
        assert_eq!(snapshot.choose("", &wants("1")), Choice::Node("n0420".into()));
        assert_eq!(snapshot.choose("", &wants("1")), Choice::Node("n0840".into()));
        assert_eq!(snapshot.choose("", &wants("1")), Choice::Node("n0260".into()));
    }

    #[test]
    fn a_node_that_has_the_image_is_better() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("a", "2"));
        let mut rich = node("b", "2");
        rich["status"]["images"] = json!([{"names": ["docker.io/library/app:1"], "sizeBytes": 1_u64 << 30}]);
        snapshot.set_node(&rich);
        let app = fit::wants(&json!({"spec": {"containers": [{"image": "app:1"}]}}));
        assert_eq!(snapshot.choose("", &app), Choice::Node("b".into()));
        snapshot.set_node(&node("b", "2"));
        assert_eq!(snapshot.choose("", &app), Choice::Node("a".into()));
    }

    #[test]
    fn a_changed_node_keeps_what_its_pods_have_taken() {
        let mut snapshot = Snapshot::default();
        snapshot.place("1", "a", wants("2"));
        assert!(snapshot.set_node(&node("a", "2")));
        assert!(!snapshot.set_node(&node("a", "2")));
        assert!(snapshot.set_node(&node("a", "3")));
        assert_eq!(snapshot.choose("", &wants("1")), Choice::Node("a".into()));
        assert!(matches!(snapshot.choose("", &wants("2")), Choice::None(_)));
    }
}

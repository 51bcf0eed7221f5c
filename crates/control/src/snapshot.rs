//! What the scheduler knows: nodes and what their pods have taken, kept up by each change instead of counted anew.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::ops::Bound;

use serde_json::Value;

use crate::fit::{self, Node, Wants};
use crate::locality::Locality;
use crate::score::{self, Most, Raw};

/// All nodes, and where pods are.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, Node>,
    placed: HashMap<String, (String, Wants)>,
    locality: Locality,
    /// Where the last search ended that did not look at all nodes.
    last: String,
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
            node.groups = mem::take(&mut old.groups);
            return mem::replace(old, node).differs(old);
        }
        self.nodes.insert(name.to_owned(), node);
        // Pods may be known before their node is.
        let own: Vec<Wants> =
            self.placed.values().filter(|(node, _)| node == name).map(|(_, wants)| wants.clone()).collect();
        for wants in own {
            self.give(name, &wants);
        }
        true
    }

    /// A node has gone.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
        self.locality.remove(name);
    }

    /// Whether a pod is known to be on a node.
    pub fn has(&self, uid: &str, node: &str) -> bool {
        self.placed.get(uid).is_some_and(|(place, _)| place == node)
    }

    /// A pod has a node, or is about to get it. One that is elsewhere leaves there.
    pub fn place(&mut self, uid: &str, node: &str, mut wants: Wants) {
        if self.has(uid, node) {
            return;
        }
        self.release(uid);
        self.give(node, &wants);
        // Only those who wait for a node ask where images are.
        wants.images = Vec::new();
        self.placed.insert(uid.to_owned(), (node.to_owned(), wants));
    }

    /// A pod takes nothing any more. True if it had taken something.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some((name, wants)) = self.placed.remove(uid) else { return false };
        if let Some(node) = self.nodes.get_mut(&name) {
            for (resource, amount) in &wants.requests {
                if let Some(given) = node.requested.get_mut(resource) {
                    *given = given.saturating_sub(*amount);
                }
            }
            for port in &wants.ports {
                if let Some(at) = node.ports.iter().position(|taken| taken == port) {
                    node.ports.swap_remove(at);
                }
            }
            if let Some(count) = wants.group.as_ref().and_then(|group| node.groups.get_mut(group)) {
                *count = count.saturating_sub(1);
            }
            node.groups.retain(|_, count| *count > 0);
        }
        true
    }

    fn give(&mut self, name: &str, wants: &Wants) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        for (resource, amount) in &wants.requests {
            *node.requested.entry(resource.clone()).or_default() += amount;
        }
        node.ports.extend(wants.ports.iter().cloned());
        if let Some(group) = &wants.group {
            *node.groups.entry(group.clone()).or_default() += 1;
        }
    }

    /// The best node for a pod, the first of them in turn among equals. In large clusters not all nodes are looked at: enough that fit are, and
    /// the next search begins where this one ended (upstream's rule).
    pub fn choose(&mut self, wants: &Wants) -> Choice {
        let enough = enough(self.nodes.len());
        let images = self.locality.of(&wants.images, self.nodes.len());
        let last = self.last.as_str();
        let (after, before) = ((Bound::Excluded(last), Bound::Unbounded), (Bound::Unbounded, Bound::Included(last)));
        let around = self.nodes.range::<str, _>(after).chain(self.nodes.range::<str, _>(before));
        let mut fitting: Vec<(&str, Raw)> = Vec::new();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for (name, node) in around {
            let misfits = fit::misfits(wants, node);
            if misfits.is_empty() {
                fitting.push((name, score::raw(wants, name, node, images.score(name))));
            }
            misfits.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
            if fitting.len() == enough {
                break;
            }
        }
        let most = Most::of(fitting.iter().map(|(_, raw)| raw));
        // Of equals `max_by_key` gives the last: turned round, the first.
        let best = fitting.iter().rev().max_by_key(|(_, raw)| most.score(raw));
        let Some((name, _)) = best else { return Choice::None(self.refusal(&reasons)) };
        let name = (*name).to_owned();
        self.last = if fitting.len() == enough && enough < self.nodes.len() {
            fitting.last().map(|(name, _)| (*name).to_owned()).unwrap_or_default()
        } else {
            String::new()
        };
        Choice::Node(name)
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

    fn wants(cpu: &str) -> Wants {
        fit::wants(&json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}}))
    }

    #[test]
    fn pods_spread_and_fill_up() {
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.choose(&wants("1")), Choice::None("no nodes available to schedule pods".into()));
        snapshot.set_node(&node("a", "2"));
        snapshot.set_node(&node("b", "2"));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("a".into()));
        snapshot.place("1", "a", wants("1"));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("b".into()));
        snapshot.place("2", "b", wants("2"));
        snapshot.place("3", "a", wants("1"));
        let text = "0/2 nodes are available: 2 Insufficient cpu.";
        assert_eq!(snapshot.choose(&wants("1")), Choice::None(text.into()));
        assert!(snapshot.release("2"));
        assert!(!snapshot.release("2"));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("b".into()));
    }

    #[test]
    fn of_many_nodes_each_gets_its_turn() {
        let mut snapshot = Snapshot::default();
        for number in 0..1000 {
            snapshot.set_node(&node(&format!("n{number:04}"), "2"));
        }
        assert_eq!((enough(100), enough(1000), enough(10_000)), (100, 420, 500));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("n0000".into()));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("n0420".into()));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("n0840".into()));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("n0260".into()));
    }

    #[test]
    fn a_node_that_has_the_image_is_better() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("a", "2"));
        let mut rich = node("b", "2");
        rich["status"]["images"] = json!([{"names": ["docker.io/library/app:1"], "sizeBytes": 1_u64 << 30}]);
        snapshot.set_node(&rich);
        let app = fit::wants(&json!({"spec": {"containers": [{"image": "app:1"}]}}));
        assert_eq!(snapshot.choose(&app), Choice::Node("b".into()));
        snapshot.set_node(&node("b", "2"));
        assert_eq!(snapshot.choose(&app), Choice::Node("a".into()));
    }

    #[test]
    fn a_changed_node_keeps_what_its_pods_have_taken() {
        let mut snapshot = Snapshot::default();
        snapshot.place("1", "a", wants("2"));
        assert!(snapshot.set_node(&node("a", "2")));
        assert!(!snapshot.set_node(&node("a", "2")));
        assert!(snapshot.set_node(&node("a", "3")));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("a".into()));
        assert!(matches!(snapshot.choose(&wants("2")), Choice::None(_)));
    }
}

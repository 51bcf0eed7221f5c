//! What the scheduler knows: nodes and what their pods have taken, kept up by each change instead of counted anew.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::fit::{self, Node, Wants};

/// All nodes, and where pods are.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, Node>,
    placed: HashMap<String, (String, Wants)>,
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
    /// A node is there, new or changed.
    pub fn set_node(&mut self, object: &Value) {
        let Some(name) = object["metadata"]["name"].as_str() else { return };
        self.nodes.insert(name.to_owned(), fit::node(object));
        let own: Vec<Wants> =
            self.placed.values().filter(|(node, _)| node == name).map(|(_, wants)| wants.clone()).collect();
        for wants in own {
            self.give(name, &wants);
        }
    }

    /// A node has gone.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// A pod has a node, or is about to get it.
    pub fn place(&mut self, uid: &str, node: &str, wants: Wants) {
        if self.placed.contains_key(uid) {
            return;
        }
        self.give(node, &wants);
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
        }
        true
    }

    fn give(&mut self, name: &str, wants: &Wants) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        for (resource, amount) in &wants.requests {
            *node.requested.entry(resource.clone()).or_default() += amount;
        }
        node.ports.extend(wants.ports.iter().cloned());
    }

    /// The best node for a pod: the one with most left, the first by name among equals.
    pub fn choose(&self, wants: &Wants) -> Choice {
        let mut best: Option<(u64, &str)> = None;
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for (name, node) in &self.nodes {
            let misfits = fit::misfits(wants, node);
            if !misfits.is_empty() {
                misfits.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
                continue;
            }
            let score = fit::score(wants, node);
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, name));
            }
        }
        match best {
            Some((_, name)) => Choice::Node(name.to_owned()),
            None => Choice::None(self.refusal(&reasons)),
        }
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
    fn a_changed_node_keeps_what_its_pods_have_taken() {
        let mut snapshot = Snapshot::default();
        snapshot.place("1", "a", wants("2"));
        snapshot.set_node(&node("a", "2"));
        snapshot.set_node(&node("a", "3"));
        assert_eq!(snapshot.choose(&wants("1")), Choice::Node("a".into()));
        assert!(matches!(snapshot.choose(&wants("2")), Choice::None(_)));
    }
}

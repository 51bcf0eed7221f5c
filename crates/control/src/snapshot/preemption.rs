//! Which pods have to go so that a more important one finds a node: as few and as unimportant as can be, by upstream's rules. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use client::cache::Key;
use serde_json::Value;

use super::{Placed, Snapshot, misfits};
use crate::fit::{self, Node, Wants};
use crate::near::{Labels, Selector, holds, selector};

/// No more nodes than this are compared.
const ENOUGH: usize = 100;
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NO_HELP: &str = "Preemption is not helpful for scheduling";

/// What else is known of a pod that has a node.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Which pod it is.
    pub key: Key,
    /// When it began.
    pub started: String,
    /// It is about to go.
    pub is_ending: bool,
}

/// How many of some pods may go.
#[derive(Debug, Clone)]
pub struct Budget {
    namespace: String,
    pods: Selector,
    allowed: i64,
    /// Those of whom it is known that they go.
    disrupted: BTreeSet<String>,
}

/// What a pod can do to find a node.
#[derive(Debug, PartialEq, Eq)]
pub enum Preemption {
    /// With these pods gone it fits on this node.
    Found {
        /// The node.
        node: String,
        /// The uids of the pods and the pods.
        victims: Vec<(String, Key)>,
    },
    /// Nothing; the sentence says why.
    None(String),
}

/// One node, and who would have to go.
struct Candidate {
    node: String,
    violations: usize,
    victims: Vec<Victim>,
}

#[derive(Clone)]
struct Victim {
    uid: String,
    priority: i64,
    facts: Facts,
}

impl Budget {
    /// By the object.
    pub fn read(budget: &Value) -> Self {
        let disrupted = budget["status"]["disruptedPods"].as_object().into_iter().flatten();
        Self {
            namespace: Key::of(budget).namespace,
            pods: selector(&budget["spec"]["selector"]),
            allowed: budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0),
            disrupted: disrupted.map(|(name, _)| name.clone()).collect(),
        }
    }

    fn covers(&self, key: &Key, labels: &Labels) -> bool {
        self.namespace == key.namespace && !self.disrupted.contains(&key.name) && holds(&self.pods, labels)
    }
}

impl Victim {
    /// The important are first: by priority, then by age.
    fn rank(&self) -> (Reverse<i64>, &str, &str) {
        (Reverse(self.priority), &self.facts.started, &self.uid)
    }
}

impl Candidate {
    /// The least is the best: few violations, unimportant victims, few of them, and young ones.
    fn cost(&self) -> (usize, i64, i64, usize, Reverse<&str>) {
        const OFFSET: i64 = 1 << 31;
        let highest = self.victims.iter().map(|victim| victim.priority).max().unwrap_or(0);
        let sum = self.victims.iter().map(|victim| victim.priority + OFFSET).sum();
        let of_highest = self.victims.iter().filter(|victim| victim.priority == highest);
        let earliest = of_highest.map(|victim| victim.facts.started.as_str()).min().unwrap_or_default();
        (self.violations, highest, sum, self.victims.len(), Reverse(earliest))
    }
}

impl Snapshot {
    /// Who has to go for a pod that fits nowhere.
    pub fn preempt(&mut self, uid: &str, wants: &Wants, budgets: &[Budget]) -> Preemption {
        if !wants.preempts {
            return Preemption::None("not eligible due to preemptionPolicy=Never.".into());
        }
        let lower = self.lower(wants.priority);
        let nominated = self.nominated.get(uid).map(|placed| placed.node.clone());
        let is_ending = |victim: &Victim| victim.facts.is_ending;
        if nominated.and_then(|node| lower.get(&node)).is_some_and(|there| there.iter().any(is_ending)) {
            return Preemption::None("not eligible due to a terminating pod on the nominated node.".into());
        }
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut candidates: Vec<Candidate> = Vec::new();
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in &names {
            if candidates.len() == ENOUGH {
                break;
            }
            match self.candidate(name, uid, wants, lower.get(name), budgets) {
                Ok(candidate) => candidates.push(candidate),
                Err(why) => why.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
            }
        }
        match candidates.into_iter().min_by(|one, other| one.cost().cmp(&other.cost())) {
            Some(Candidate { node, victims, .. }) => {
                let victims = victims.into_iter().map(|victim| (victim.uid, victim.facts.key)).collect();
                Preemption::Found { node, victims }
            }
            None => Preemption::None(self.refusal(&reasons)),
        }
    }

    /// Less important pods by node, the most important first.
    fn lower(&self, priority: i64) -> BTreeMap<String, Vec<Victim>> {
        let mut lower: BTreeMap<String, Vec<Victim>> = BTreeMap::new();
        for (uid, placed) in self.placed.iter().filter(|(_, placed)| placed.wants.priority < priority) {
            let facts = self.facts.get(uid).cloned().unwrap_or_default();
            let victim = Victim { uid: uid.clone(), priority: placed.wants.priority, facts };
            lower.entry(placed.node.clone()).or_default().push(victim);
        }
        lower.values_mut().for_each(|victims| victims.sort_by(|one, other| one.rank().cmp(&other.rank())));
        lower
    }

    fn candidate(
        &mut self,
        name: &str,
        uid: &str,
        wants: &Wants,
        lower: Option<&Vec<Victim>>,
        budgets: &[Budget],
    ) -> Result<Candidate, Vec<String>> {
        if self.nodes.get(name).is_none_or(|node| is_hopeless(wants, node)) {
            return Err(vec![NO_HELP.into()]);
        }
        let Some(lower) = lower else { return Err(vec![NO_VICTIMS.into()]) };
        let mut lifted: Vec<(&Victim, Placed)> = Vec::new();
        for victim in lower {
            lifted.extend(self.lift(&victim.uid).map(|placed| (victim, placed)));
        }
        let why = self.misfits_of(name, uid, wants);
        if !why.is_empty() {
            lifted.into_iter().for_each(|(victim, placed)| self.put(&victim.uid, placed));
            return Err(why);
        }
        let (violating, others) = split(lifted, budgets);
        let (mut victims, mut violations, mut gone) = (Vec::new(), 0, Vec::new());
        let marked = violating.into_iter().map(|lifted| (true, lifted));
        for (is_violation, (victim, placed)) in marked.chain(others.into_iter().map(|lifted| (false, lifted))) {
            self.put(&victim.uid, placed);
            if self.misfits_of(name, uid, wants).is_empty() {
                continue;
            }
            violations += usize::from(is_violation);
            victims.push(victim.clone());
            gone.extend(self.lift(&victim.uid).map(|placed| (victim, placed)));
        }
        gone.into_iter().for_each(|(victim, placed)| self.put(&victim.uid, placed));
        if victims.is_empty() {
            Err(vec![NO_VICTIMS.into()])
        } else {
            Ok(Candidate { node: name.to_owned(), violations, victims })
        }
    }

    /// Why one node is no place now.
    fn misfits_of(&mut self, name: &str, uid: &str, wants: &Wants) -> Vec<String> {
        let Some(node) = self.nodes.get(name) else { return vec![NO_HELP.into()] };
        // First what costs little: this is asked again for each who might stay.
        let own = misfits(wants, &self.as_promised(node, uid, wants.priority), None);
        if !own.is_empty() || self.neighbours.is_irrelevant(&wants.social) {
            return own;
        }
        let view = self.neighbours.view(wants, &self.nodes, &self.placed);
        let near = self.nodes.get(name).and_then(|node| view.misfit(node));
        near.map(str::to_owned).into_iter().collect()
    }
}

/// Whether no pod's going would help.
fn is_hopeless(wants: &Wants, node: &Node) -> bool {
    let empty = Node { allocatable: node.allocatable.clone(), ..Node::default() };
    fit::obstacle(wants, node).is_some() || !fit::misfits(wants, &empty).is_empty()
}

type Lifted<'a> = Vec<(&'a Victim, Placed)>;

/// Those whose going would break a budget, and the others.
fn split<'a>(lifted: Lifted<'a>, budgets: &[Budget]) -> (Lifted<'a>, Lifted<'a>) {
    let mut left: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    lifted.into_iter().partition(|(victim, placed)| {
        let mut breaks = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            if budget.covers(&victim.facts.key, &placed.wants.social.labels) {
                *left -= 1;
                breaks |= *left < 0;
            }
        }
        breaks
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    /// Nodes of two cores each, and pods: name, node, priority, cores, label.
    fn cluster(nodes: &[&str], pods: &[(&str, &str, i64, &str, &str)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for name in nodes {
            snapshot.set_node(&json!({"metadata": {"name": name},
                "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}}}));
        }
        for (number, (name, node, priority, cpu, label)) in pods.iter().enumerate() {
            let wants = pod(*priority, cpu, json!({"app": label}), json!({}));
            snapshot.place(name, node, Arc::new(wants));
            let key = Key { namespace: "default".into(), name: (*name).to_owned() };
            snapshot.describe(name, Facts { key, started: format!("2026-01-01T00:00:{number:02}Z"), is_ending: false });
        }
        snapshot
    }

    fn pod(priority: i64, cpu: &str, labels: Value, more: Value) -> Wants {
        let mut spec = json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]});
        spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        fit::wants(&json!({"metadata": {"namespace": "default", "labels": labels}, "spec": spec}))
    }

    fn budget(label: &str, allowed: i64) -> Budget {
        Budget::read(
            &json!({"metadata": {"namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": label}}},
            "status": {"disruptionsAllowed": allowed}}),
        )
    }

    fn found(snapshot: &mut Snapshot, wants: &Wants, budgets: &[Budget]) -> Result<(String, Vec<String>), String> {
        match snapshot.preempt("comer", wants, budgets) {
            Preemption::Found { node, victims } => Ok((node, victims.into_iter().map(|(_, key)| key.name).collect())),
            Preemption::None(why) => Err(why),
        }
    }

    #[test]
    fn who_goes() {
        let vip = |cpu: &str| pod(100, cpu, json!({}), json!({}));
        for (what, pods, comes, budgets, expected) in [
            (
                "the least important node",
                vec![("a", "n1", 5, "2", ""), ("b", "n2", 1, "2", "")],
                vip("1"),
                vec![],
                ("n2", vec!["b"]),
            ),
            (
                "no more than must",
                vec![("a", "n1", 1, "1", ""), ("b", "n1", 2, "1", ""), ("c", "n2", 3, "2", "")],
                vip("1"),
                vec![],
                ("n1", vec!["a"]),
            ),
            (
                "the young first",
                vec![("old", "n1", 1, "1", ""), ("young", "n1", 1, "1", ""), ("c", "n2", 9, "2", "")],
                vip("1"),
                vec![],
                ("n1", vec!["young"]),
            ),
            (
                "fewer of the same",
                vec![("a", "n1", 1, "1", ""), ("b", "n1", 1, "1", ""), ("c", "n2", 1, "2", "")],
                vip("2"),
                vec![],
                ("n2", vec!["c"]),
            ),
            (
                "not those with a budget",
                vec![("a", "n1", 1, "2", "kept"), ("b", "n2", 5, "2", "")],
                vip("1"),
                vec![budget("kept", 0)],
                ("n2", vec!["b"]),
            ),
            (
                "unless it allows",
                vec![("a", "n1", 1, "2", "kept"), ("b", "n2", 5, "2", "")],
                vip("1"),
                vec![budget("kept", 1)],
                ("n1", vec!["a"]),
            ),
            (
                "even then, if there is no other way",
                vec![("a", "n1", 1, "2", "kept"), ("b", "n2", 500, "2", "")],
                vip("1"),
                vec![budget("kept", 0)],
                ("n1", vec!["a"]),
            ),
        ] {
            let mut snapshot = cluster(&["n1", "n2"], &pods);
            let expected = (expected.0.to_owned(), expected.1.into_iter().map(str::to_owned).collect());
            assert_eq!(found(&mut snapshot, &comes, &budgets), Ok(expected), "{what}");
            assert_eq!(snapshot.placed.len(), pods.len(), "{what}: all are where they were");
            assert!(matches!(snapshot.choose("comer", &comes), super::super::Choice::None(_)), "{what}");
        }
    }

    #[test]
    fn neighbours_and_amounts_count_alike() {
        let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "loud"}}}]}}});
        let comes = |cpu: &str| pod(100, cpu, json!({}), apart.clone());
        let pods =
            [("calm", "n1", 1, "500m", "calm"), ("loud", "n1", 2, "500m", "loud"), ("big", "n1", 3, "1", "calm")];
        for (cpu, victims) in [("500m", vec!["loud"]), ("1", vec!["loud", "calm"]), ("1500m", vec!["big", "loud"])] {
            let mut snapshot = cluster(&["n1"], &pods);
            snapshot.set_node(&json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}},
                "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}}}));
            let expected = victims.into_iter().map(str::to_owned).collect();
            assert_eq!(found(&mut snapshot, &comes(cpu), &[]), Ok(("n1".to_owned(), expected)), "{cpu}");
        }
    }

    #[test]
    fn why_nobody_goes() {
        let pods = [("a", "n1", 50, "2", ""), ("b", "n2", 50, "2", "")];
        let mut snapshot = cluster(&["n1", "n2"], &pods);
        let told = |text: &str| Err(text.to_owned());
        let equal = pod(50, "1", json!({}), json!({}));
        assert_eq!(found(&mut snapshot, &equal, &[]), told(&format!("0/2 nodes are available: 2 {NO_VICTIMS}.")));
        let giant = pod(100, "9", json!({}), json!({}));
        assert_eq!(found(&mut snapshot, &giant, &[]), told(&format!("0/2 nodes are available: 2 {NO_HELP}.")));
        let never = pod(100, "1", json!({}), json!({"preemptionPolicy": "Never"}));
        assert_eq!(found(&mut snapshot, &never, &[]), told("not eligible due to preemptionPolicy=Never."));
        let vip = Arc::new(pod(100, "1", json!({}), json!({})));
        snapshot.nominate("comer", "n1", vip.clone());
        snapshot.describe("a", Facts { is_ending: true, ..Facts::default() });
        let why = "not eligible due to a terminating pod on the nominated node.";
        assert_eq!(found(&mut snapshot, &vip, &[]), told(why));
    }

    #[test]
    fn what_is_promised_is_kept() {
        let mut snapshot = cluster(&["n1"], &[]);
        let vip = Arc::new(pod(100, "2", json!({}), json!({})));
        snapshot.nominate("vip", "n1", vip.clone());
        let small = pod(1, "1", json!({}), json!({}));
        assert!(matches!(snapshot.choose("other", &small), super::super::Choice::None(_)));
        let greater = pod(500, "1", json!({}), json!({}));
        assert!(matches!(snapshot.choose("other", &greater), super::super::Choice::Node(_)));
        assert!(matches!(snapshot.choose("vip", &vip), super::super::Choice::Node(_)), "to itself it is free");
        snapshot.forget_nomination("vip");
        assert!(matches!(snapshot.choose("other", &small), super::super::Choice::Node(_)));
    }
}

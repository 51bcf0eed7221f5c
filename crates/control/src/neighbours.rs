//! Which pods are where, as others ask for them: counts by node, made when first asked for and kept up by each pod that comes and goes.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::fit::{Node, Wants};
use crate::near::{Labels, Pods, Question, Social, Spread, Term};
use crate::snapshot::Placed;

/// So many questions are kept answered; more, and all are asked anew.
const QUESTIONS: usize = 1000;
/// What a pod that must be near others is worth to them (upstream's default).
const HARD_WEIGHT: i64 = 1;

type Nodes = BTreeMap<String, Node>;
/// Pods by node. Nodes without any are left out.
type Counts = HashMap<String, u64>;

/// All that is asked for.
#[derive(Debug, Default)]
pub struct Neighbours {
    asked: HashMap<Question, Counts>,
    /// What placed pods say of others, and where those are that say it.
    said: HashMap<Said, Counts>,
    namespaces: HashMap<String, Labels>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Said {
    term: Term,
    /// `None`: they refuse to be near.
    weight: Option<i64>,
}

/// A label of nodes, and what each of its values is worth.
type Places<T> = Vec<(String, HashMap<String, T>)>;

/// What one pod has to know of the others to choose a node.
#[derive(Debug, Default)]
pub struct View {
    with: Places<u64>,
    /// Nobody is there to be near to, and it would be the first of its own kind.
    is_first: bool,
    apart: Places<u64>,
    refused: Places<u64>,
    liked: Places<i64>,
    hard: Vec<Rule>,
    soft: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    key: String,
    skew: u64,
    counts: HashMap<String, u64>,
    least: u64,
    /// The pod itself will count.
    own: u64,
    is_own: bool,
}

impl Neighbours {
    /// A namespace is there, new or changed. True if its labels have changed.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) -> bool {
        if self.namespaces.get(name) == Some(&labels) {
            return false;
        }
        self.namespaces.insert(name.to_owned(), labels);
        self.asked.retain(|question, _| !question.asks_namespaces());
        true
    }

    /// A namespace has gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A pod has come to a node.
    pub fn come(&mut self, node: &str, pod: &Social) {
        self.change(node, pod, |count| *count += 1);
        for said in said(pod) {
            *self.said.entry(said).or_default().entry(node.to_owned()).or_default() += 1;
        }
    }

    /// A pod has gone from a node.
    pub fn go(&mut self, node: &str, pod: &Social) {
        self.change(node, pod, |count| *count = count.saturating_sub(1));
        for said in said(pod) {
            if let Some(counts) = self.said.get_mut(&said) {
                lower(counts, node);
                if counts.is_empty() {
                    self.said.remove(&said);
                }
            }
        }
    }

    fn change(&mut self, node: &str, pod: &Social, change: impl Fn(&mut u64)) {
        let none = Labels::new();
        let labels = self.namespaces.get(&pod.namespace).unwrap_or(&none);
        for (_, counts) in self.asked.iter_mut().filter(|(question, _)| question.counts(pod, labels)) {
            let count = counts.entry(node.to_owned()).or_default();
            change(count);
            if *count == 0 {
                counts.remove(node);
            }
        }
    }

    /// Whether a pod need not know of others.
    pub fn is_irrelevant(&self, pod: &Social) -> bool {
        pod.is_silent() && self.said.is_empty()
    }

    /// What a pod has to know. `placed`: all pods with their nodes.
    pub fn view(&mut self, wants: &Wants, nodes: &Nodes, placed: &HashMap<String, Placed>) -> View {
        let pod = &*wants.social;
        for question in questions(pod) {
            self.answer(&question, placed);
        }
        let mut view = View::default();
        let all: Vec<Pods> = pod.with.iter().map(|term| term.pods.clone()).collect();
        let labels = self.namespaces.get(&pod.namespace).cloned().unwrap_or_default();
        if !all.is_empty() {
            let question = Question::All(all);
            view.with =
                pod.with.iter().map(|term| (term.key.clone(), self.places(&question, &term.key, nodes))).collect();
            view.is_first = view.with.iter().all(|(_, places)| places.is_empty()) && question.counts(pod, &labels);
        }
        for term in &pod.apart {
            let question = Question::All(vec![term.pods.clone()]);
            view.apart.push((term.key.clone(), self.places(&question, &term.key, nodes)));
        }
        for (weight, term) in &pod.likes {
            let places = self.places(&Question::All(vec![term.pods.clone()]), &term.key, nodes);
            let worth = |(value, count): (String, u64)| (value, weight * i64::try_from(count).unwrap_or(i64::MAX));
            view.liked.push((term.key.clone(), places.into_iter().map(worth).collect()));
        }
        self.hear(&mut view, pod, &labels, nodes);
        for rule in &pod.spreads {
            let made = self.rule(rule, wants, nodes, &labels);
            if rule.is_hard { view.hard.push(made) } else { view.soft.push(made) }
        }
        view
    }

    /// What placed pods say that is about this one.
    fn hear(&self, view: &mut View, pod: &Social, labels: &Labels, nodes: &Nodes) {
        for (said, counts) in self.said.iter().filter(|(said, _)| said.term.pods.have(pod, labels)) {
            let places = sum(counts, &said.term.key, nodes);
            match said.weight {
                None => view.refused.push((said.term.key.clone(), places)),
                Some(weight) => {
                    let worth =
                        |(value, count): (String, u64)| (value, weight * i64::try_from(count).unwrap_or(i64::MAX));
                    view.liked.push((said.term.key.clone(), places.into_iter().map(worth).collect()));
                }
            }
        }
    }

    fn answer(&mut self, question: &Question, placed: &HashMap<String, Placed>) {
        if self.asked.contains_key(question) {
            return;
        }
        if self.asked.len() >= QUESTIONS {
            self.asked.clear();
        }
        let none = Labels::new();
        let mut counts = Counts::new();
        for Placed { node, wants } in placed.values() {
            let pod = &wants.social;
            if question.counts(pod, self.namespaces.get(&pod.namespace).unwrap_or(&none)) {
                *counts.entry(node.clone()).or_default() += 1;
            }
        }
        self.asked.insert(question.clone(), counts);
    }

    fn places(&self, question: &Question, key: &str, nodes: &Nodes) -> HashMap<String, u64> {
        self.asked.get(question).map(|counts| sum(counts, key, nodes)).unwrap_or_default()
    }

    fn rule(&self, rule: &Spread, wants: &Wants, nodes: &Nodes, labels: &Labels) -> Rule {
        let none = Counts::new();
        let by_node = self.asked.get(&rule.pods).unwrap_or(&none);
        let mut counts: HashMap<String, u64> = HashMap::new();
        for node in nodes.values().filter(|node| is_eligible(rule, wants, node)) {
            if let Some(value) = node.labels.get(&rule.key) {
                let count = by_node.get(&node.name).copied().unwrap_or(0);
                match counts.get_mut(value) {
                    Some(sum) => *sum += count,
                    None => drop(counts.insert(value.clone(), count)),
                }
            }
        }
        let is_few = (counts.len() as u64) < rule.least_places;
        let least = if is_few { 0 } else { counts.values().copied().min().unwrap_or(0) };
        let own = u64::from(rule.pods.counts(&wants.social, labels));
        Rule { key: rule.key.clone(), skew: rule.skew, counts, least, own, is_own: rule.is_own() }
    }
}

/// Whether a node counts as a place, or a part of one.
fn is_eligible(rule: &Spread, wants: &Wants, node: &Node) -> bool {
    let keys = wants.social.spreads.iter().filter(|other| other.is_hard == rule.is_hard && other.is_own());
    keys.map(|other| &other.key).all(|key| node.labels.contains_key(key))
        && (!rule.heeds_affinity || wants.selects(node))
        && (!rule.heeds_taints || wants.bears_taints_of(node))
}

fn sum(counts: &Counts, key: &str, nodes: &Nodes) -> HashMap<String, u64> {
    let mut places: HashMap<String, u64> = HashMap::new();
    for (node, count) in counts {
        if let Some(value) = nodes.get(node).and_then(|node| node.labels.get(key)) {
            *places.entry(value.clone()).or_default() += count;
        }
    }
    places
}

fn lower(counts: &mut Counts, node: &str) {
    if let Some(count) = counts.get_mut(node) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(node);
        }
    }
}

fn said(pod: &Social) -> HashSet<Said> {
    let hard = pod.with.iter().map(|term| Said { term: term.clone(), weight: Some(HARD_WEIGHT) });
    let likes = pod.likes.iter().map(|(weight, term)| Said { term: term.clone(), weight: Some(*weight) });
    let apart = pod.apart.iter().map(|term| Said { term: term.clone(), weight: None });
    hard.chain(likes).chain(apart).collect()
}

fn questions(pod: &Social) -> Vec<Question> {
    let one = |term: &Term| Question::All(vec![term.pods.clone()]);
    let all = Question::All(pod.with.iter().map(|term| term.pods.clone()).collect());
    let likes = pod.likes.iter().map(|(_, term)| one(term));
    let spreads = pod.spreads.iter().map(|rule| rule.pods.clone());
    std::iter::once(all).chain(pod.apart.iter().map(one)).chain(likes).chain(spreads).collect()
}

impl View {
    /// Why a node is no place for the pod because of other pods, in upstream's words.
    pub fn misfit(&self, node: &Node) -> Option<&'static str> {
        for rule in &self.hard {
            let Some(value) = node.labels.get(&rule.key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let count = rule.counts.get(value).copied().unwrap_or(0);
            if count + rule.own > rule.least + rule.skew {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        let at = |places: &HashMap<String, u64>, key: &str| {
            node.labels.get(key).and_then(|value| places.get(value)).copied().unwrap_or(0)
        };
        let is_near = |(key, places): &(String, HashMap<String, u64>)| at(places, key) > 0;
        let has_label = |(key, _): &(String, HashMap<String, u64>)| node.labels.contains_key(key);
        let is_fine = self.with.iter().all(is_near) || self.is_first && self.with.iter().all(has_label);
        if !is_fine {
            return Some("node(s) didn't match pod affinity rules");
        }
        if self.apart.iter().any(is_near) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        self.refused.iter().any(is_near).then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }

    /// What each of the nodes is worth because of other pods, each part from 0 to 100: for how pods are spread, and for who is near.
    pub fn rate(&self, nodes: &[&Node]) -> Vec<(u64, u64)> {
        let spread = self.spread(nodes);
        let near = self.near(nodes);
        spread.into_iter().zip(near).collect()
    }

    fn near(&self, nodes: &[&Node]) -> Vec<u64> {
        let worth = |node: &&Node| -> i64 {
            let at = |(key, places): &(String, HashMap<String, i64>)| {
                node.labels.get(key).and_then(|value| places.get(value)).copied().unwrap_or(0)
            };
            self.liked.iter().map(at).sum()
        };
        let sums: Vec<i64> = nodes.iter().map(worth).collect();
        let (least, most) = (sums.iter().copied().min().unwrap_or(0), sums.iter().copied().max().unwrap_or(0));
        let part = |sum: i64| 100 * (sum - least).unsigned_abs();
        sums.into_iter().map(|sum| part(sum).checked_div((most - least).unsigned_abs()).unwrap_or(0)).collect()
    }

    fn spread(&self, nodes: &[&Node]) -> Vec<u64> {
        if self.soft.is_empty() {
            return vec![0; nodes.len()];
        }
        let own = self.soft.iter().filter(|rule| rule.is_own).map(|rule| &rule.key);
        let is_ignored = |node: &Node| own.clone().any(|key| !node.labels.contains_key(key));
        let weights: Vec<f64> =
            self.soft.iter().map(|rule| rule.weight(nodes.iter().filter(|node| !is_ignored(node)))).collect();
        let crowd = |node: &&Node| -> Option<u64> {
            let sum: f64 = self.soft.iter().zip(&weights).filter_map(|(rule, weight)| rule.crowd(node, *weight)).sum();
            (!is_ignored(node)).then_some(sum.round() as u64)
        };
        let crowds: Vec<Option<u64>> = nodes.iter().map(crowd).collect();
        let least = crowds.iter().flatten().copied().min().unwrap_or(0);
        let most = crowds.iter().flatten().copied().max().unwrap_or(0);
        let part = |crowd: u64| (100 * (most + least - crowd)).checked_div(most).unwrap_or(100);
        crowds.into_iter().map(|crowd| crowd.map_or(0, part)).collect()
    }
}

impl Rule {
    /// The more places there are, the more each pod counts.
    fn weight<'a>(&self, nodes: impl Iterator<Item = &'a &'a Node>) -> f64 {
        let places: HashSet<&String> = nodes.filter_map(|node| node.labels.get(&self.key)).collect();
        (places.len() as f64 + 2.0).ln()
    }

    fn crowd(&self, node: &Node, weight: f64) -> Option<f64> {
        let value = node.labels.get(&self.key)?;
        let count = self.counts.get(value).copied().unwrap_or(0);
        Some(count as f64 * weight + self.skew.saturating_sub(1) as f64)
    }
}

#[cfg(test)]
mod tests;

//! The pods that wait for a node, in the order in which they get one. Pure.
//!
//! Those that want the same wait together: what does not fit for one of them fits for none, so a group in which nothing fits costs nothing
//! until something has changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::cache::Key;
use serde_json::Value;

use crate::fit::Wants;

/// The order in which pods get their nodes: by priority, then by age.
type Rank = (Reverse<i64>, String, Key);

/// All that wait.
#[derive(Default)]
pub struct Waiting {
    groups: HashMap<Arc<Wants>, Group>,
    /// The first of each group that may fit.
    line: BTreeMap<Rank, Arc<Wants>>,
    /// Pods for which others go: they wait for that alone.
    parked: HashMap<Key, Arc<Value>>,
    /// Where each pod is.
    places: HashMap<Key, (Arc<Wants>, Rank)>,
}

#[derive(Default)]
struct Group {
    pods: BTreeMap<Rank, Arc<Value>>,
    /// It was found that nothing fits, and nothing has changed since.
    is_hopeless: bool,
}

impl Group {
    /// The first, if it may fit.
    fn first(&self) -> Option<Rank> {
        let first = self.pods.first_key_value().map(|(rank, _)| rank.clone());
        first.filter(|_| !self.is_hopeless)
    }
}

impl Waiting {
    /// A pod waits, new or changed. What it wants may have changed too.
    pub fn add(&mut self, pod: Arc<Value>, wants: Wants) {
        let (key, rank) = (Key::of(&pod), rank(&pod));
        let wants = self.groups.get_key_value(&wants).map_or_else(|| Arc::new(wants), |(known, _)| known.clone());
        let place = (wants.clone(), rank.clone());
        let is_known = self.places.get(&key) == Some(&place);
        if let Some(parked) = self.parked.get_mut(&key).filter(|_| is_known) {
            *parked = pod;
            return;
        }
        if !is_known {
            self.remove(&key);
            self.places.insert(key, place);
        }
        self.change(&wants, |group| {
            group.pods.insert(rank, pod);
            // Who is new wants to be told why it waits, if it must.
            group.is_hopeless &= is_known;
        });
    }

    /// The first pod of a group waits until something changes; the others are next.
    pub fn park(&mut self, key: &Key) {
        let Some((wants, rank)) = self.places.get(key).cloned() else { return };
        let mut parked = None;
        self.change(&wants, |group| parked = group.pods.remove(&rank));
        self.parked.extend(parked.map(|pod| (key.clone(), pod)));
    }

    /// A pod waits no more.
    pub fn remove(&mut self, key: &Key) {
        self.parked.remove(key);
        if let Some((wants, rank)) = self.places.remove(key) {
            self.change(&wants, |group| drop(group.pods.remove(&rank)));
        }
    }

    /// The first of those that may fit.
    pub fn first(&self) -> Option<(Arc<Wants>, Arc<Value>)> {
        let (rank, wants) = self.line.first_key_value()?;
        let pod = self.groups.get(wants)?.pods.get(rank)?;
        Some((wants.clone(), pod.clone()))
    }

    /// Nothing fits for those who want this. Gives them.
    pub fn despair(&mut self, wants: &Arc<Wants>) -> Vec<Arc<Value>> {
        self.change(wants, |group| group.is_hopeless = true);
        self.groups.get(wants).map(|group| group.pods.values().cloned().collect()).unwrap_or_default()
    }

    /// Something has changed: whatever did not fit may fit now.
    pub fn hope(&mut self) {
        for (key, pod) in std::mem::take(&mut self.parked) {
            if let Some((wants, rank)) = self.places.get(&key).cloned() {
                self.change(&wants, |group| drop(group.pods.insert(rank, pod)));
            }
        }
        self.hope_for(|_| true);
    }

    /// A pod has come to a node: those who look for others may have found them.
    pub fn hope_for_company(&mut self) {
        self.hope_for(|wants| !wants.social.is_silent());
    }

    fn hope_for(&mut self, is_meant: impl Fn(&Wants) -> bool) {
        for (wants, group) in self.groups.iter_mut().filter(|(wants, group)| group.is_hopeless && is_meant(wants)) {
            group.is_hopeless = false;
            if let Some((rank, _)) = group.pods.first_key_value() {
                self.line.insert(rank.clone(), wants.clone());
            }
        }
    }

    /// Changes a group and keeps the line true.
    fn change(&mut self, wants: &Arc<Wants>, change: impl FnOnce(&mut Group)) {
        let group = self.groups.entry(wants.clone()).or_default();
        let old = group.first();
        change(group);
        let new = group.first();
        if group.pods.is_empty() {
            self.groups.remove(wants);
        }
        if old != new {
            old.into_iter().for_each(|rank| drop(self.line.remove(&rank)));
            new.into_iter().for_each(|rank| drop(self.line.insert(rank, wants.clone())));
        }
    }
}

fn rank(pod: &Value) -> Rank {
    let created = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    (Reverse(pod["spec"]["priority"].as_i64().unwrap_or(0)), created.to_owned(), Key::of(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fit;

    fn pod(name: &str, priority: i64, cpu: &str) -> (Arc<Value>, Wants) {
        let container = json!({"resources": {"requests": {"cpu": cpu}}});
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [container]}});
        let wants = fit::wants(&pod);
        (Arc::new(pod), wants)
    }

    fn first(waiting: &Waiting) -> String {
        waiting.first().map(|(_, pod)| Key::of(&pod).name).unwrap_or_default()
    }

    #[test]
    fn the_important_and_the_old_are_first() {
        let mut waiting = Waiting::default();
        for (name, priority, cpu) in [("b", 0, "1"), ("a", 0, "2"), ("c", 7, "1"), ("d", 7, "2")] {
            let (pod, wants) = pod(name, priority, cpu);
            waiting.add(pod, wants);
        }
        let mut order = Vec::new();
        while let Some((_, pod)) = waiting.first() {
            let key = Key::of(&pod);
            waiting.remove(&key);
            order.push(key.name);
        }
        assert_eq!(order, ["c", "d", "a", "b"]);
    }

    #[test]
    fn a_group_without_hope_waits_for_a_change() {
        let mut waiting = Waiting::default();
        for (name, priority, cpu) in [("big", 9, "8"), ("big-too", 9, "8"), ("small", 0, "1")] {
            let (pod, wants) = pod(name, priority, cpu);
            waiting.add(pod, wants);
        }
        let (wants, _) = waiting.first().unwrap();
        assert_eq!(waiting.despair(&wants).len(), 2);
        assert_eq!(first(&waiting), "small");
        let (again, wants) = pod("big", 9, "8");
        waiting.add(again, wants);
        assert_eq!(first(&waiting), "small", "it wants what it wanted");
        waiting.hope();
        assert_eq!(first(&waiting), "big");
        let (wants, _) = waiting.first().unwrap();
        waiting.despair(&wants);
        let (late, wants) = pod("late", 10, "8");
        waiting.add(late, wants);
        assert_eq!(first(&waiting), "late", "who is new is looked at");
    }

    #[test]
    fn a_parked_pod_lets_others_pass() {
        let mut waiting = Waiting::default();
        for (name, priority, cpu) in [("a", 9, "8"), ("b", 9, "8")] {
            let (pod, wants) = pod(name, priority, cpu);
            waiting.add(pod, wants);
        }
        waiting.park(&Key { namespace: String::new(), name: "a".into() });
        let (again, wants) = pod("a", 9, "8");
        waiting.add(again, wants);
        assert_eq!(first(&waiting), "b", "news of it do not wake it");
        waiting.hope();
        assert_eq!(first(&waiting), "a");
    }

    #[test]
    fn a_pod_that_wants_something_else_has_hope() {
        let mut waiting = Waiting::default();
        let (big, wants) = pod("p", 0, "8");
        waiting.add(big, wants);
        let (wants, _) = waiting.first().unwrap();
        waiting.despair(&wants);
        assert!(waiting.first().is_none());
        let (small, wants) = pod("p", 0, "1");
        waiting.add(small, wants);
        assert_eq!(first(&waiting), "p");
        waiting.remove(&Key { namespace: String::new(), name: "p".into() });
        assert!(waiting.first().is_none() && waiting.groups.is_empty() && waiting.line.is_empty());
    }
}

//! How good a place each node is for a pod, among those that fit: upstream's default scores and weights. Pure.

use crate::fit::{Node, Wants};

const BEST: u64 = 100;
/// What the parts weigh: room left, balance, images, taints, affinity, spread, near pods.
const WEIGHTS: [u64; 7] = [1, 1, 1, 3, 2, 2, 2];

/// What is known of one node before it is compared with the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Raw {
    /// Room left, 0 to 100.
    room: u64,
    /// How evenly CPU and memory would be used, 0 to 100.
    balance: u64,
    /// What the images it has are worth, 0 to 100.
    images: u64,
    /// Taints that say "rather not".
    taints: u64,
    /// What its labels are worth to the pod.
    affinity: u64,
    /// How well pods would be spread, and how good those that are near: 0 to 100.
    pub others: (u64, u64),
}

/// Looks at one node. `images`: what those it has of the pod's are worth.
pub fn raw(wants: &Wants, name: &str, node: &Node, images: u64) -> Raw {
    let [cpu, memory] = shares(wants, node);
    Raw {
        room: BEST - u64::midpoint(cpu, memory),
        // The standard deviation of two shares is half their distance.
        balance: BEST - cpu.abs_diff(memory) / 2,
        images,
        taints: node.unwanted(wants),
        affinity: wants.affinity.weight(name, &node.labels),
        others: (0, 0),
    }
}

/// How much of CPU and memory would be given, in hundredths.
fn shares(wants: &Wants, node: &Node) -> [u64; 2] {
    let (all, given, wanted) = (node.allocatable.main(), node.requested.main(), wants.requests.main());
    [0, 1].map(|at| (given[at] + wanted[at]).saturating_mul(BEST).checked_div(all[at]).unwrap_or(0).min(BEST))
}

/// The largest of each part: what the others are measured by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Most {
    taints: u64,
    affinity: u64,
}

impl Most {
    /// Of all nodes that fit.
    pub fn of<'a>(all: impl Iterator<Item = &'a Raw>) -> Self {
        all.fold(Self::default(), |most, raw| Self {
            taints: most.taints.max(raw.taints),
            affinity: most.affinity.max(raw.affinity),
        })
    }

    /// The score of one of them. More is better.
    pub fn score(&self, raw: &Raw) -> u64 {
        let part = |value: u64, most: u64| (value * BEST).checked_div(most);
        let few = |value: u64, most: u64| BEST - part(value, most).unwrap_or(0);
        let parts = [
            raw.room,
            raw.balance,
            raw.images,
            few(raw.taints, self.taints),
            part(raw.affinity, self.affinity).unwrap_or(0),
            raw.others.0,
            raw.others.1,
        ];
        parts.iter().zip(WEIGHTS).map(|(part, weight)| part * weight).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fit;

    fn node(spec: Value) -> Node {
        fit::node(&json!({"metadata": {"labels": {"disk": "ssd"}}, "spec": spec,
            "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}}))
    }

    fn pod(extra: Value) -> Wants {
        let mut spec = json!({"containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
        fit::wants(&json!({"spec": spec}))
    }

    fn better(wants: &Wants, one: &Node, other: &Node) -> bool {
        let raws = [raw(wants, "one", one, 0), raw(wants, "other", other, 0)];
        let most = Most::of(raws.iter());
        most.score(&raws[0]) > most.score(&raws[1])
    }

    #[test]
    fn room_and_balance_count() {
        let mut full = node(json!({}));
        *full.requested.of("cpu") = 2000;
        *full.requested.of("memory") = 2 << 30;
        assert!(better(&pod(json!({})), &node(json!({})), &full));
        let mut lopsided = node(json!({}));
        *lopsided.requested.of("cpu") = 3000;
        let mut even = node(json!({}));
        *even.requested.of("cpu") = 1500;
        *even.requested.of("memory") = 3 << 29;
        assert!(better(&pod(json!({})), &even, &lopsided));
    }

    #[test]
    fn taints_and_affinity_count() {
        let shy = node(json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}));
        assert!(better(&pod(json!({})), &node(json!({})), &shy));
        assert!(!better(&pod(json!({"tolerations": [{"operator": "Exists"}]})), &node(json!({})), &shy));
        let preference = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]});
        let likes = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": preference}]}}});
        let plain = Node { labels: Default::default(), ..node(json!({})) };
        assert!(better(&pod(likes), &node(json!({})), &plain));
    }
}

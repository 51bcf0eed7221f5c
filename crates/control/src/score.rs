//! How good a place each node is for a pod, among those that fit: upstream's default scores and weights. Pure.

use crate::fit::{Amounts, Node, Wants};

const BEST: u64 = 100;
/// What the parts weigh: room left, balance, images, taints, affinity, spread.
const WEIGHTS: [u64; 6] = [1, 1, 1, 3, 2, 2];

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
    /// Pods there that belong together with this one.
    kin: u64,
}

/// Looks at one node. `images`: what those it has of the pod's are worth.
pub fn raw(wants: &Wants, name: &str, node: &Node, images: u64) -> Raw {
    let used = |resource: &str| share(wants, node, resource);
    let (cpu, memory) = (used("cpu"), used("memory"));
    Raw {
        room: BEST - u64::midpoint(cpu, memory),
        // The standard deviation of two shares is half their distance.
        balance: BEST - cpu.abs_diff(memory) / 2,
        images,
        taints: node.unwanted(wants),
        affinity: wants.affinity.weight(name, &node.labels),
        kin: wants.group.as_ref().and_then(|group| node.groups.get(group)).copied().unwrap_or(0),
    }
}

/// How much of a resource would be given, in hundredths.
fn share(wants: &Wants, node: &Node, resource: &str) -> u64 {
    let amount = |map: &Amounts| map.get(resource).copied().unwrap_or(0);
    let all = amount(&node.allocatable);
    let used = amount(&node.requested) + amount(&wants.requests);
    used.saturating_mul(BEST).checked_div(all).unwrap_or(0).min(BEST)
}

/// The largest of each part: what the others are measured by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Most {
    taints: u64,
    affinity: u64,
    kin: u64,
}

impl Most {
    /// Of all nodes that fit.
    pub fn of<'a>(all: impl Iterator<Item = &'a Raw>) -> Self {
        all.fold(Self::default(), |most, raw| Self {
            taints: most.taints.max(raw.taints),
            affinity: most.affinity.max(raw.affinity),
            kin: most.kin.max(raw.kin),
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
            few(raw.kin, self.kin),
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
        fit::wants(&json!({"metadata": {"ownerReferences": [{"uid": "set", "controller": true}]}, "spec": spec}))
    }

    fn better(wants: &Wants, one: &Node, other: &Node) -> bool {
        let raws = [raw(wants, "one", one, 0), raw(wants, "other", other, 0)];
        let most = Most::of(raws.iter());
        most.score(&raws[0]) > most.score(&raws[1])
    }

    #[test]
    fn room_and_balance_count() {
        let mut full = node(json!({}));
        full.requested.insert("cpu".into(), 2000);
        full.requested.insert("memory".into(), 2 << 30);
        assert!(better(&pod(json!({})), &node(json!({})), &full));
        let mut lopsided = node(json!({}));
        lopsided.requested.insert("cpu".into(), 3000);
        let mut even = node(json!({}));
        even.requested.insert("cpu".into(), 1500);
        even.requested.insert("memory".into(), 3 << 29);
        assert!(better(&pod(json!({})), &even, &lopsided));
    }

    #[test]
    fn taints_affinity_and_kin_count() {
        let shy = node(json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}));
        assert!(better(&pod(json!({})), &node(json!({})), &shy));
        assert!(!better(&pod(json!({"tolerations": [{"operator": "Exists"}]})), &node(json!({})), &shy));
        let preference = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]});
        let likes = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": preference}]}}});
        let plain = Node { labels: Default::default(), ..node(json!({})) };
        assert!(better(&pod(likes), &node(json!({})), &plain));
        let mut crowded = node(json!({}));
        crowded.groups.insert("set".into(), 2);
        assert!(better(&pod(json!({})), &node(json!({})), &crowded));
    }
}

//! The same events in the same order lead to the same decisions, whatever the order inside of hash tables; and no node ever gives more than it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::cache::Key;
use control::fit::{self, Wants};
use control::snapshot::{Choice, Facts, Preemption, Snapshot};
use control::waiting::Waiting;
use serde_json::{Value, json};

const NODES: u64 = 12;
const CORES: u64 = 4;
const STEPS: usize = 200;

/// Numbers that look random and are the same for the same seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A cluster without an API: pods come, get nodes, go.
struct World {
    numbers: Numbers,
    snapshot: Snapshot,
    waiting: Waiting,
    placed: BTreeMap<String, (String, Arc<Wants>)>,
    decisions: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut snapshot = Snapshot::default();
        for number in 0..NODES {
            let labels = json!({"kubernetes.io/hostname": format!("n{number}"), "zone": format!("z{}", number % 3)});
            snapshot.set_node(&json!({"metadata": {"name": format!("n{number}"), "labels": labels},
                "status": {"allocatable": {"cpu": CORES.to_string(), "memory": "8Gi", "pods": "8"}}}));
        }
        let (waiting, placed, decisions) = (Waiting::default(), BTreeMap::new(), Vec::new());
        Self { numbers: Numbers(seed), snapshot, waiting, placed, decisions }
    }

    fn pod(&mut self, number: usize) -> Value {
        let app = format!("a{}", self.numbers.below(4));
        let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "zone"});
        let weighed = json!([{"weight": 1 + self.numbers.below(100), "podAffinityTerm": term}]);
        let rule = |when: &str| {
            json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1,
            "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": app}}}]})
        };
        let mut spec = match self.numbers.below(7) {
            0 => json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
            1 => json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"}]}}}),
            2 => json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": weighed}}}),
            3 => rule("DoNotSchedule"),
            4 => rule("ScheduleAnyway"),
            _ => json!({}),
        };
        spec["priority"] = self.numbers.below(3).into();
        let cpu = format!("{}m", 250 * (1 + self.numbers.below(6)));
        spec["containers"] = json!([{"resources": {"requests": {"cpu": cpu}}}]);
        json!({"metadata": {"name": format!("p{number:04}"), "namespace": "default", "uid": format!("p{number:04}"),
            "labels": {"app": app}, "creationTimestamp": format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60)},
            "spec": spec})
    }

    fn step(&mut self, number: usize) {
        if self.numbers.below(3) == 0 && !self.placed.is_empty() {
            let at = self.numbers.below(self.placed.len() as u64) as usize;
            let uid = self.placed.keys().nth(at).cloned().unwrap_or_default();
            self.end(&uid);
        }
        let pod = self.pod(number);
        let wants = fit::wants(&pod);
        self.waiting.add(Arc::new(pod), wants);
        while let Some((wants, pod)) = self.waiting.first() {
            let uid = Key::of(&pod).name;
            match self.snapshot.choose(&uid, &wants) {
                Choice::Node(node) => self.place(&pod, &uid, node, wants),
                Choice::None(why) => self.refuse(&pod, &uid, &wants, &why),
            }
        }
    }

    fn place(&mut self, pod: &Value, uid: &str, node: String, wants: Arc<Wants>) {
        self.waiting.remove(&Key::of(pod));
        self.snapshot.place(uid, &node, wants.clone());
        let started = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
        self.snapshot.describe(uid, Facts { key: Key::of(pod), started, is_ending: false });
        self.snapshot.forget_nomination(uid);
        self.decisions.push(format!("{uid} on {node}"));
        self.placed.insert(uid.to_owned(), (node, wants));
        self.check();
    }

    fn refuse(&mut self, pod: &Value, uid: &str, wants: &Arc<Wants>, why: &str) {
        match self.snapshot.preempt(uid, wants, &[]) {
            Preemption::None(told) => {
                self.waiting.despair(wants);
                self.decisions.push(format!("{uid}: {why} {told}"));
            }
            Preemption::Found { node, victims } => {
                self.decisions.push(format!("{uid} instead of {victims:?} on {node}"));
                self.snapshot.nominate(uid, &node, wants.clone());
                self.waiting.park(&Key::of(pod));
                victims.iter().for_each(|(victim, _)| self.end(victim));
            }
        }
    }

    fn end(&mut self, uid: &str) {
        self.placed.remove(uid);
        if self.snapshot.release(uid) {
            self.waiting.hope();
        }
    }

    fn check(&self) {
        let mut given: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (node, wants) in self.placed.values() {
            let (cpu, pods) = given.entry(node).or_default();
            *cpu += wants.requests.get("cpu");
            *pods += 1;
        }
        for (node, (cpu, pods)) in given {
            assert!(cpu <= CORES * 1000 && pods <= 8, "{node} gives {cpu} m to {pods} pods");
        }
    }
}

fn run(seed: u64) -> Vec<String> {
    let mut world = World::new(seed);
    (0..STEPS).for_each(|number| world.step(number));
    world.decisions
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..4 {
        let (one, other) = (run(seed), run(seed));
        let differ = one.iter().zip(&other).position(|(one, other)| one != other);
        assert_eq!(differ.map(|at| (&one[at], &other[at])), None, "seed {seed}");
        assert_eq!(one.len(), other.len());
        assert!(one.iter().any(|decision| decision.contains(" instead of ")), "seed {seed} pushes nobody out");
    }
    assert_ne!(run(1), run(2));
}

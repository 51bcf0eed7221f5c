//! The scheduler's decisions, without the API around them.

use std::time::Instant;

use anyhow::{Result, ensure};
use control::fit;
use control::snapshot::{Choice, Snapshot};
use serde_json::json;

use crate::{Bench, rate, row};

const NODES: usize = 1000;
const DECISIONS: usize = 10_000;

pub(crate) fn run(_: &Bench) -> Result<()> {
    let mut snapshot = Snapshot::default();
    for number in 0..NODES {
        let allocatable = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
        let labels = json!({"kubernetes.io/os": "linux", "zone": format!("zone-{}", number % 3)});
        snapshot.set_node(&json!({"metadata": {"name": format!("node-{number}"), "labels": labels},
            "status": {"allocatable": allocatable, "capacity": allocatable}}));
    }
    let begun = Instant::now();
    for number in 0..DECISIONS {
        let requests = json!({"cpu": format!("{}m", 100 + number % 10), "memory": "128Mi"});
        let container = json!({"name": "main", "image": "none", "resources": {"requests": requests}});
        let wants = fit::wants(&json!({"spec": {"containers": [container]}}));
        let choice = snapshot.choose("", &wants);
        let Choice::Node(node) = choice else { anyhow::bail!("no node fits: {choice:?}") };
        snapshot.place(&number.to_string(), &node, wants.into());
    }
    let per_second = DECISIONS as f64 / begun.elapsed().as_secs_f64();
    ensure!(per_second > 0.0, "time passes");
    row("scheduling decisions, 1000 nodes", &rate(per_second), "≥ 5000 per s");
    Ok(())
}

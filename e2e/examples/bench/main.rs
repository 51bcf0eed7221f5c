//! `cargo xtask bench`: figures of the real binary, each printed beside its target, and beside a floor or a peer of the same run where there
//! is one. `--peers` measures etcd's puts too; words choose groups.
#![expect(clippy::print_stdout, reason = "figures are for people")]

mod creates;
mod etcd;
mod join;
mod logs;
mod memory;
mod pods;
mod reads;
mod scale;
mod schedule;
mod shared;
mod watch;

use std::cell::LazyCell;
use std::time::Duration;

use anyhow::Result;
use e2e::cluster::Cluster;
use tokio::runtime::Runtime;

/// As podling's own: what simulates many nodes shall cost what they would.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One part of the table.
type Group = fn(&Bench) -> Result<()>;

const GROUPS: [(&str, Group); 11] = [
    ("idle", memory::idle),
    ("pods", pods::run),
    ("creates", creates::run),
    ("peers", etcd::run),
    ("etcd", shared::run),
    ("logs", logs::run),
    ("watch", watch::run),
    ("reads", reads::run),
    ("schedule", schedule::run),
    ("scale", scale::run),
    ("join", join::run),
];

/// What the groups share.
struct Bench {
    /// Starts when the first group asks for it.
    cluster: LazyCell<Cluster>,
    runtime: Runtime,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has_peers = words.iter().any(|word| word == "--peers");
    let chosen: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    // The generator must not take the processors from what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster: LazyCell<Cluster> = LazyCell::new(|| {
        let cluster = Cluster::with_kubia();
        row("up to Ready, as it says itself", &cluster.ready_line, "≤ 300 ms");
        cluster
    });
    let bench = Bench { cluster, runtime };
    for (name, group) in GROUPS {
        let is_wanted =
            if chosen.is_empty() { name != "peers" || has_peers } else { chosen.iter().any(|it| *it == name) };
        if is_wanted {
            group(&bench)?;
        }
    }
    Ok(())
}

fn row(name: &str, measured: &str, target: &str) {
    println!("{name:<44} {measured:<64} {target}");
}

fn rate(per_second: f64) -> String {
    format!("{per_second:.0} per s")
}

/// A time of a sorted list: 0 is the smallest, 100 the largest.
fn percentile(sorted: &[Duration], hundredth: usize) -> f64 {
    sorted[(sorted.len() - 1) * hundredth / 100].as_secs_f64() * 1000.0
}

/// The smallest, the middle and the ninth tenth.
fn spread(name: &str, mut times: Vec<Duration>, target: &str) {
    times.sort();
    let [least, middle, most] = [0, 50, 90].map(|hundredth| percentile(&times, hundredth));
    row(name, &format!("min {least:.1}  p50 {middle:.1}  p90 {most:.1} ms  (n = {})", times.len()), target);
}

/// Processor time of the process under measurement, in seconds.
fn cpu(cluster: &Cluster) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid(cluster)?))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

fn pid(cluster: &Cluster) -> Result<String> {
    Ok(std::fs::read_to_string(cluster.data().join("podling.pid"))?.trim().to_owned())
}

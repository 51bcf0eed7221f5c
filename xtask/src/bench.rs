//! `cargo xtask bench`: builds podling for release and lets `e2e/examples/bench` measure it.

use crate::command::cargo;
use crate::{test, tools};

/// The options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure etcd too, of Debian's etcd-server.
    #[arg(long)]
    peers: bool,
    /// Only these: idle, pods, creates, peers, logs, watch, reads, schedule, scale, join, mesh.
    groups: Vec<String>,
}

/// Measures.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    tools::install()?;
    cargo(&["build", "--release", "--package", "podling"]).run()?;
    let podling = test::built_podling("release")?;
    let bench = cargo(&["run", "--quiet", "--release", "--package", "e2e", "--example", "bench", "--"]);
    let bench = bench.env("PODLING_BIN", podling);
    let bench = bench.args(arguments.groups.iter().filter(|group| *group != "mesh"));
    // The throughput between machines needs no cluster.
    let is_mesh = |group: &String| group == "mesh";
    if arguments.groups.is_empty() || !arguments.groups.iter().all(is_mesh) {
        let bench = if arguments.peers { bench.args(["--peers"]) } else { bench };
        bench.run()?;
    }
    if arguments.groups.is_empty() || arguments.groups.iter().any(is_mesh) {
        cargo(&["run", "--quiet", "--release", "--package", "network", "--example", "between_machines"]).run()?;
    }
    Ok(())
}

//! `cargo xtask bench`: builds podling for release and lets `e2e/examples/bench` measure it.

use crate::command::cargo;
use crate::{test, tools};

/// The options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measure etcd too, of Debian's etcd-server.
    #[arg(long)]
    peers: bool,
    /// Only these: idle, pods, creates, peers, logs, watch, reads, schedule, scale.
    groups: Vec<String>,
}

/// Measures.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    tools::install()?;
    cargo(&["build", "--release", "--package", "podling"]).run()?;
    let podling = test::built_podling("release")?;
    let bench = cargo(&["run", "--quiet", "--release", "--package", "e2e", "--example", "bench", "--"]);
    let bench = bench.env("PODLING_BIN", podling);
    let bench = bench.args(&arguments.groups);
    if arguments.peers { bench.args(["--peers"]).run() } else { bench.run() }
}

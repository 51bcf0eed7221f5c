//! `podling demo`: plays the chapter on a temporary cluster, or pods on several nodes, checks every answer, and leaves nothing.
//!
//! It uses podling as people do: each step is a child process of this very program. What a step must answer stands beside it in [`script`]
//! and [`nodes`]; how steps are run and judged is in [`stage`], on which machines in [`machines`].

mod machines;
mod nodes;
mod script;
mod stage;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use tokio::sync::watch;

use crate::signals;
use machines::Machines;
use stage::Stage;

/// The options of `demo`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Options {
    /// Play pods on this many nodes, each in a network namespace of its own: two or more on one wire, the last of three or more behind a router
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
}

/// Plays everything.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "podling demo starts a cluster, which makes namespaces, mounts and links: run it as root"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(play(options.nodes))
}

async fn play(nodes: u8) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let (end, ended) = watch::channel(false);
    // Armed before anything is made: what is asked to end goes on until nothing is left behind.
    let asked = signals::armed()?;
    let ending = tokio::spawn(async move {
        asked.await;
        end.send_replace(true);
    });
    let several = if nodes > 1 { Some(Machines::new(nodes)?) } else { None };
    let mut stage = Stage::set(several, ended)?;
    let played = if nodes > 1 { nodes::play(&mut stage).await } else { script::play(&mut stage).await };
    let struck = stage.strike().await;
    ending.abort();
    played?;
    struck?;
    Ok(stage.verdict(begun.elapsed()))
}

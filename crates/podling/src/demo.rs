//! `podling demo`: plays the chapter on a temporary cluster, checks every answer, and leaves nothing.
//!
//! It uses podling as people do: each step is a child process of this very program. What a step must answer stands beside it in [`script`]; how
//! steps are run and judged is in [`stage`].

mod script;
mod stage;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;

use crate::signals;
use stage::Stage;

/// Plays everything.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "podling demo starts a cluster, which makes namespaces, mounts and links: run it as root"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(play())
}

async fn play() -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let mut stage = Stage::set()?;
    // Armed before anything is made, so that no signal leaves something behind.
    let ended = signals::ended();
    let played = tokio::select! {
        played = script::play(&mut stage) => played,
        ended = ended => ended.and_then(|()| Err(anyhow::anyhow!("interrupted"))),
    };
    let struck = stage.strike().await;
    played?;
    struck?;
    Ok(stage.verdict(begun.elapsed()))
}

//! The end of a run: SIGTERM and SIGINT.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves when the process is asked to end.
pub(crate) async fn ended() -> anyhow::Result<()> {
    armed()?.await;
    Ok(())
}

/// The same; from this call on, not only from the first wait, the process is not ended by the signals themselves.
pub(crate) fn armed() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

//! `cargo xtask oracle --record`: asks the real API server anew.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::command::cargo;

/// The options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write down what the oracle answers.
    #[arg(long)]
    record: bool,
    /// The kubeconfig of a real API server, empty and started for this.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Records, or compares podling with what is recorded.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.record {
        return cargo(&["test", "--package", "e2e", "--test", "oracle"]).run();
    }
    let Some(kubeconfig) = &arguments.kubeconfig else {
        bail!("--record needs --kubeconfig FILE of a real API server that was started for this");
    };
    cargo(&["run", "--quiet", "--package", "e2e", "--example", "oracle", "--"]).args([kubeconfig]).run()
}

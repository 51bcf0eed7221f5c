//! Records the oracle's answers: `cargo run -p e2e --example oracle -- KUBECONFIG`, against a reference cluster that was
//! started for this (`reference/up.sh api`).

use std::path::{Path, PathBuf};

use anyhow::Context;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kubeconfig: PathBuf = std::env::args_os().nth(1).context("which kubeconfig?")?.into();
    e2e::oracle::record(&Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle"), &kubeconfig).await
}

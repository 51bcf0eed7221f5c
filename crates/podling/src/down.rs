//! `podling down`: ends the process, then the pods, and with `--purge` everything that was ever made on this machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use client::kubeconfig::Kubeconfig;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::cluster::{Facts, Place, Role, unless_missing};
use crate::process;
use crate::progress::Progress;
use crate::state::Home;

/// The process must end within this time after SIGTERM.
const PROCESS_DEADLINE: Duration = Duration::from_secs(15);
/// Containers must end within this time after SIGTERM; then they are killed.
const CONTAINER_DEADLINE: Duration = Duration::from_secs(5);

/// The options of `down`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    /// Take everything away: state, images, logs, the kubeconfig entry
    #[arg(long)]
    purge: bool,
}

/// Ends the cluster.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = &options.place;
    let facts = match place.facts()? {
        Some(facts) => facts,
        // There is nothing to do, and nothing that may be touched: a directory without a cluster is somebody else's.
        None if options.purge && !place.data_dir.exists() => return Ok(()),
        None => bail!("there is no cluster in {}", place.data_dir.display()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let progress = Progress::of("ending the pods");
    runtime.block_on(end(place, &facts))?;
    drop(progress);
    let what = match facts.role {
        Role::Node => format!("node {}", facts.node_name),
        _ => format!("cluster {}", facts.cluster()),
    };
    if options.purge {
        forget_kubeconfig(&facts)?;
        place.remove()?;
        match &facts.store {
            Home::Etcd(etcd) => say!("{what} is gone from this machine; its state stays in {etcd}"),
            Home::Disk => say!("{what} is gone"),
        }
    } else {
        say!("{what} has ended; `podling {}` resumes it", facts.role.verb());
    }
    Ok(())
}

pub(crate) async fn end(place: &Place, facts: &Facts) -> anyhow::Result<()> {
    if let Some(pid) = place.process() {
        stop_process(pid).await?;
    }
    let host = facts.runtime(place)?;
    let sandboxes = host.adopt().await.context("looking for pods")?;
    let ended = join_all(sandboxes.iter().map(end_sandbox)).await;
    let mut failures: Vec<anyhow::Error> = ended.into_iter().filter_map(Result::err).collect();
    failures.extend(facts.network()?.remove().err().map(anyhow::Error::from));
    failures.extend(host.remove().err().map(anyhow::Error::from));
    failures.extend(unmount_volumes(&place.file("node/pods")).await.err());
    failures.extend(remove_directory(&facts.run_directory()).err());
    match failures.into_iter().next() {
        Some(first) => Err(first.context("taking the cluster's traces off the machine")),
        None => Ok(()),
    }
}

async fn stop_process(pid: i32) -> anyhow::Result<()> {
    process::terminate(pid)?;
    if !process::has_ended(pid, PROCESS_DEADLINE).await? {
        bail!("process {pid} does not end within {} s", PROCESS_DEADLINE.as_secs());
    }
    Ok(())
}

async fn end_sandbox(sandbox: &Arc<runtime::Sandbox>) -> anyhow::Result<()> {
    const SIGTERM: i32 = 15;
    let is_running = |state: &runtime::ContainerState| state.phase != runtime::Phase::Exited;
    for state in sandbox.containers().iter().filter(|state| is_running(state)) {
        if let Err(error) = sandbox.signal(&state.id, SIGTERM).await {
            tracing::debug!(%error, "signalling a container");
        }
    }
    let mut changes = sandbox.changes();
    let all_ended = async {
        while sandbox.is_alive() && sandbox.containers().iter().any(is_running) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // Those that do not end in time are killed with their sandbox.
    drop(timeout(CONTAINER_DEADLINE, all_ended).await);
    sandbox.remove().await.with_context(|| format!("removing the sandbox {}", sandbox.id()))
}

/// Unmounts what pods had in memory.
async fn unmount_volumes(pods: &Path) -> anyhow::Result<()> {
    for pod in std::fs::read_dir(pods).into_iter().flatten().flatten() {
        node::volume::remove(&pod.path()).await.with_context(|| format!("removing {}", pod.path().display()))?;
    }
    Ok(())
}

fn forget_kubeconfig(facts: &Facts) -> anyhow::Result<()> {
    let Some((path, name)) = &facts.kubeconfig else { return Ok(()) };
    let mut config = Kubeconfig::read(path)?;
    if !config.remove(name, &format!("https://{}", facts.listen)) {
        return Ok(());
    }
    if config.is_empty() {
        return std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()));
    }
    Ok(config.write()?)
}

fn remove_directory(path: &Path) -> anyhow::Result<()> {
    unless_missing(std::fs::remove_dir_all(path)).with_context(|| format!("removing {}", path.display()))
}

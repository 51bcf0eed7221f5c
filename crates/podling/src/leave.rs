//! `podling leave`: takes this machine out of its cluster, and leaves nothing here or there.

use anyhow::{Context, bail};
use client::{Client, Delete, resource};

use crate::cluster::{Facts, Place, Role};
use crate::progress::Progress;
use crate::{down, join};

/// The options of `leave`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
}

/// Leaves.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let place = &options.place;
    let facts = place.existing()?;
    if facts.role != Role::Node {
        bail!("this is a cluster's server, which cannot leave itself: `podling down --purge` ends the cluster");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let progress = Progress::of("leaving");
    runtime.block_on(leave(place, &facts))?;
    drop(progress);
    place.remove()?;
    say!("node {} has left its cluster", facts.node_name);
    Ok(())
}

async fn leave(place: &Place, facts: &Facts) -> anyhow::Result<()> {
    let client = join::membership(place, facts)?.client;
    down::end(place, facts).await?;
    let cure = format!("`podling down --purge` here and `kubectl delete node {}` there do the same", facts.node_name);
    forget(&client, &facts.node_name).await.with_context(|| format!("telling the cluster ({cure})"))
}

/// Takes away what the cluster knows of this node: its pods, its claims of addresses, its sign of life, itself.
async fn forget(client: &Client, node: &str) -> Result<(), client::Error> {
    let selector = format!("spec.nodeName={node}");
    let now = Delete { grace_seconds: Some(0), ..Delete::default() };
    for pod in client.list(&resource::PODS.collection(None), &[("fieldSelector", &selector)]).await?.items {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        gone(client.delete(&resource::PODS.object(Some(text("namespace")), text("name")), &now).await)?;
    }
    for block in client.list(&resource::LEASES.collection(Some(api::block::NAMESPACE)), &[]).await?.items {
        if block["spec"]["holderIdentity"] == node {
            let name = block["metadata"]["name"].as_str().unwrap_or_default();
            gone(client.delete(&resource::LEASES.object(Some(api::block::NAMESPACE), name), &Delete::default()).await)?;
        }
    }
    let lease = resource::LEASES.object(Some("kube-node-lease"), node);
    gone(client.delete(&lease, &Delete::default()).await)?;
    gone(client.delete(&resource::NODES.object(None, node), &Delete::default()).await)
}

/// What is not there needs not be taken away.
fn gone(deleted: Result<serde_json::Value, client::Error>) -> Result<(), client::Error> {
    match deleted {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

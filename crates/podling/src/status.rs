//! `podling status`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use client::kubeconfig::Kubeconfig;
use client::transport::Remote;
use client::{Client, resource};
use serde_json::Value;

use crate::cluster::{Facts, Place, Role};
use crate::join;
use crate::state::Home;

/// A cluster that runs answers within this time.
const DEADLINE: Duration = Duration::from_secs(5);

/// Prints how the cluster is. The exit code is 0 if it runs and its node is ready, else 1.
pub(crate) fn run(place: &Place) -> anyhow::Result<ExitCode> {
    let facts = place.existing()?;
    let directory = place.data_dir.display();
    let Some(pid) = place.process() else {
        say!("cluster {} in {directory} does not run", facts.cluster());
        return Ok(ExitCode::FAILURE);
    };
    let cluster = facts.cluster();
    let api = match &facts.joined {
        Some(joined) => joined.shown(),
        None => format!("https://{}", facts.listen),
    };
    say!("cluster   {cluster} in {directory}, process {pid}");
    say!("api       {api}");
    say!("pods      {}", facts.pod_cidr);
    if let Home::Etcd(etcd) = &facts.store {
        say!("state     {etcd}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async { tokio::time::timeout(DEADLINE, ask(place, &facts)).await });
    match asked {
        Ok(Ok((ready, phases))) => {
            if facts.role == Role::Server {
                say!("node      none here: this is the control plane alone");
                return Ok(ExitCode::SUCCESS);
            }
            say!("node      {} is {}", facts.node_name, if ready { "Ready" } else { "NotReady" });
            let counts: Vec<String> = phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
            say!("running   {}", if counts.is_empty() { "no pods".to_owned() } else { counts.join(", ") });
            Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Ok(Err(error)) => {
            say!("node      unknown: {error}");
            Ok(ExitCode::FAILURE)
        }
        Err(_) => {
            let what = if facts.role == Role::Server { "answers" } else { "node   " };
            say!("{what}   unknown: the API does not answer within {} s", DEADLINE.as_secs());
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn ask(place: &Place, facts: &Facts) -> anyhow::Result<(bool, BTreeMap<String, usize>)> {
    let client = match facts.role {
        Role::Node => join::membership(place, facts)?.client,
        _ => {
            let access = Kubeconfig::read(&place.file("kubeconfig"))?.access(None)?;
            Client::new(Arc::new(Remote::new(&access.server, &access.trust)?), "podling")
        }
    };
    let node = match client.get(&resource::NODES.object(None, &facts.node_name)).await {
        Err(error) if error.is_not_found() && facts.role == Role::Server => Value::Null,
        other => other?,
    };
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let is_ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let mut phases = BTreeMap::new();
    let own = format!("spec.nodeName={}", facts.node_name);
    let selector: &[_] = if facts.role == Role::Node { &[("fieldSelector", own.as_str())] } else { &[] };
    for pod in client.list(&resource::PODS.collection(None), selector).await?.items {
        *phases.entry(pod["status"]["phase"].as_str().unwrap_or("Unknown").to_owned()).or_default() += 1;
    }
    Ok((is_ready, phases))
}

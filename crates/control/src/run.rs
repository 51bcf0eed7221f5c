//! Starts the scheduler and the controllers.

use std::time::Duration;

use client::Client;
use client::events::Recorder;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::leader::{self, Election};
use crate::signing::{self, Signing};
use crate::{belongings, disruption, eviction, lifecycle, namespace, orphans, pods, scheduler, tokens};

/// What they need.
#[derive(Clone)]
pub struct Config {
    /// A way to the API as the scheduler.
    pub scheduler: Client,
    /// A way to the API as the controllers.
    pub controllers: Client,
    /// PEM of the cluster's authority, which each namespace gets a copy of.
    pub authority_pem: String,
    /// A node from which nothing is heard for so long is not ready.
    pub node_grace: Duration,
    /// How nodes get their certificates; without it, none do.
    pub signing: Option<Signing>,
}

/// Runs all of them until the shutdown; where there are several servers, while this one is elected.
pub async fn run(config: Config, election: Option<Election>, shutdown: watch::Receiver<bool>) {
    match election {
        Some(election) => leader::run(election, shutdown, |term| work(config.clone(), term)).await,
        None => work(config, shutdown).await,
    }
}

async fn work(config: Config, shutdown: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let [to_place, of_namespaces, to_evict, of_budgets, of_nodes] = pods::follow(config.controllers.clone(), &shutdown);
    let recorder = Recorder::start(config.scheduler.clone(), "default-scheduler", String::new());
    tasks.spawn(scheduler::run(config.scheduler, recorder, to_place, shutdown.clone()));
    tasks.spawn(namespace::run(config.controllers.clone(), of_namespaces, shutdown.clone()));
    if let Some(signing) = config.signing {
        tasks.spawn(signing::run(config.controllers.clone(), signing, shutdown.clone()));
    }
    tasks.spawn(tokens::run(config.controllers.clone(), shutdown.clone()));
    tasks.spawn(belongings::run(config.controllers.clone(), config.authority_pem, shutdown.clone()));
    let recorder = Recorder::start(config.controllers.clone(), "node-controller", String::new());
    tasks.spawn(lifecycle::run(config.controllers.clone(), recorder, config.node_grace, shutdown.clone()));
    let recorder = Recorder::start(config.controllers.clone(), "taint-eviction-controller", String::new());
    tasks.spawn(eviction::run(config.controllers.clone(), recorder, to_evict, shutdown.clone()));
    let recorder = Recorder::start(config.controllers.clone(), "controllermanager", String::new());
    tasks.spawn(disruption::run(config.controllers.clone(), recorder, of_budgets, shutdown.clone()));
    tasks.spawn(orphans::run(config.controllers, config.node_grace, of_nodes, shutdown));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller broke down");
        }
    }
}

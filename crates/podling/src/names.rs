//! What this server is called: the names in its certificate, which its machine's addresses are among. When these change, so do the certificate
//! and what the cluster is told.

use std::sync::Arc;

use anyhow::Context;
use client::Client;
use ipnet::IpNet;
use node::Upheaval;
use tokio::sync::watch;

use crate::cluster::Facts;
use crate::own::Own;
use crate::up::{Options, node_address, publish};

/// All by which clients may have found it.
pub(crate) fn names(facts: &Facts) -> anyhow::Result<Vec<String>> {
    let fixed = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        &facts.node_name,
        &facts.node_address.to_string(),
        &facts.listen.ip().to_string(),
    ];
    let mut names: Vec<String> = fixed.iter().map(ToString::to_string).chain(facts.advertise.iter().cloned()).collect();
    if !facts.listen.ip().is_loopback() {
        let all = network::addresses().context("listing the machine's addresses")?;
        // The ends of tunnels come and go with other nodes; nobody looks for a server there.
        let own = all.into_iter().filter(|address| !facts.pod_cidr.contains(&IpNet::from(*address)));
        names.extend(own.map(|address| address.to_string()));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The facts as they are now: the server's own node may have moved.
pub(crate) fn current(facts: &Facts, options: &Options) -> Facts {
    let mut facts = facts.clone();
    if let Ok(address) = node_address(options, &facts.pod_cidr, Some(facts.node_address)) {
        facts.node_address = address;
    }
    facts
}

/// A server that is to be called by the addresses of its machine.
pub(crate) struct Called {
    /// A way to tell the cluster.
    pub(crate) client: Client,
    pub(crate) facts: Facts,
    pub(crate) options: Options,
    /// The certificates that say the names.
    pub(crate) own: Arc<Own>,
    /// What they say now.
    pub(crate) names: Vec<String>,
}

impl Called {
    /// Follows the machine's addresses until the shutdown.
    pub(crate) async fn follow(mut self, mut shutdown: watch::Receiver<bool>) {
        let upheaval = match self.facts.network().and_then(|host| Ok(Upheaval::of(&host)?)) {
            Ok(upheaval) => upheaval,
            Err(error) => return tracing::warn!("nobody follows what this server is called: {error:#}"),
        };
        loop {
            if let Err(error) = self.rename().await {
                tracing::warn!("naming this server by its machine's addresses: {error:#}");
            }
            tokio::select! {
                () = client::stopped(&mut shutdown) => return,
                () = upheaval.next() => {}
            }
        }
    }

    async fn rename(&mut self) -> anyhow::Result<()> {
        let facts = current(&self.facts, &self.options);
        let now = names(&facts)?;
        if now == self.names {
            return Ok(());
        }
        self.own.renew()?;
        publish(self.client.clone(), facts, now.clone(), self.options.clone()).await?;
        self.names = now;
        Ok(())
    }
}

//! Where a node can be reached: the port on which it listens, and the connections that it keeps ready. Both follow its address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use wire::Service;
use wire::dial::Dialer;
use wire::keys::Keys;
use wire::listen::{Listener, Reception, Strangers};

use super::tunnel;
use crate::cluster::{Facts, Place};

/// Of a node, at its address.
pub(super) struct Presence {
    pub(super) place: Place,
    pub(super) facts: Facts,
    pub(super) service: Arc<dyn Service>,
    /// What is shown to those who call, and whom they must be vouched for by.
    pub(super) keys: Arc<Keys>,
    pub(super) authority_pem: String,
    pub(super) dialer: Dialer,
    pub(super) reception: Reception,
}

/// What goes on at one address.
struct Here {
    listening: JoinHandle<()>,
    tunnels: JoinSet<()>,
    end: watch::Sender<bool>,
}

impl Here {
    async fn leave(mut self) {
        self.end.send_replace(true);
        if let Err(error) = self.listening.await {
            tracing::error!(%error, "listening broke down");
        }
        while self.tunnels.join_next().await.is_some() {}
    }
}

impl Presence {
    /// Can be reached until the shutdown.
    pub(super) async fn run(
        mut self,
        listener: Listener,
        mut addresses: watch::Receiver<Vec<IpAddr>>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut here = self.at(Some(listener));
        loop {
            tokio::select! {
                () = client::stopped(&mut shutdown) => break,
                Ok(()) = addresses.changed() => {}
            }
            let next = addresses.borrow_and_update().first().copied();
            let Some(next) = next.filter(|next| *next != self.facts.node_address) else { continue };
            let listener = self.bind(next).await;
            // The calls that are under way have lost their address.
            tokio::spawn(std::mem::replace(&mut here, self.at(listener)).leave());
        }
        here.leave().await;
    }

    /// Listens at an address, on the port that others know. A node that cannot is reached over the connections that it keeps.
    async fn bind(&mut self, address: IpAddr) -> Option<Listener> {
        (self.facts.node_address, self.facts.listen) = (address, SocketAddr::from((address, self.facts.listen.port())));
        if let Err(error) = self.place.keep(&self.facts) {
            tracing::warn!("keeping the node's address: {error:#}");
        }
        let bound =
            Listener::bind_with(self.facts.listen, self.keys.clone(), &self.authority_pem, Strangers::Refused).await;
        bound.inspect_err(|error| tracing::warn!(%error, "listening at the node's new address")).ok()
    }

    fn at(&self, listener: Option<Listener>) -> Here {
        let (end, ended) = watch::channel(false);
        let (service, until) = (self.service.clone(), ended.clone());
        let listening = tokio::spawn(async move {
            if let Some(listener) = listener {
                listener.serve(service, until).await;
            }
        });
        Here { listening, tunnels: self.tunnels(&ended), end }
    }

    /// Keeps connections ready at all servers.
    fn tunnels(&self, ended: &watch::Receiver<bool>) -> JoinSet<()> {
        let mut keepers = JoinSet::new();
        for server in self.facts.joined.iter().flat_map(|joined| &joined.servers) {
            match format!("{server}/podling/v1/tunnel/{}", self.facts.node_name).parse() {
                Ok(url) => {
                    let keeper = tunnel::Keeper { dialer: self.dialer.clone(), url, reception: self.reception.clone() };
                    keepers.spawn(keeper.run(ended.clone()));
                }
                Err(error) => tracing::warn!(%error, server, "keeping connections ready"),
            }
        }
        keepers
    }
}

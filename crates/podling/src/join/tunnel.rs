//! Connections that a node keeps ready at each server, so that no server needs to be able to dial the node.

use std::time::Duration;

use http::Uri;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wire::dial::Dialer;
use wire::listen::{Greeted, Reception};
use wire::tunnel::{self, Stream};

/// So many connections wait at each server.
const READY: usize = 2;
/// A connection that was not used is replaced before its time is over.
const LIFE: Duration = Duration::from_secs(tunnel::LIFE.as_secs() - 20);
/// A server that cannot be reached is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// A server must have taken a connection within this time.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Calls have so long to end with the node.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// One that wants no tunnels, being older, is tried again much later.
const RELUCTANT: Duration = Duration::from_secs(60);

/// Keeps connections ready at one server.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) dialer: Dialer,
    pub(super) url: Uri,
    pub(super) reception: Reception,
}

impl Keeper {
    /// Works until the shutdown.
    pub(super) async fn run(self, shutdown: watch::Receiver<bool>) {
        let mut slots = JoinSet::new();
        for _ in 0..READY {
            slots.spawn(self.clone().keep_one(shutdown.clone()));
        }
        while slots.join_next().await.is_some() {}
    }

    async fn keep_one(self, mut shutdown: watch::Receiver<bool>) {
        let mut calls = JoinSet::new();
        // Outlives the turns of the loop: that a call ends is no reason to drop the connection that waits for the next.
        let mut waiting = Box::pin(self.wait_for_call());
        loop {
            let waited = tokio::select! {
                () = client::stopped(&mut shutdown) => break,
                Some(_) = calls.join_next() => continue,
                waited = waiting.as_mut() => waited,
            };
            waiting.set(self.wait_for_call());
            let pause = match waited {
                Waited::Call(greeted) => {
                    calls.spawn(greeted.serve(shutdown.clone()));
                    continue;
                }
                Waited::Stale => continue,
                Waited::Lost(pause) => pause,
            };
            tokio::select! {
                () = client::stopped(&mut shutdown) => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        drop(timeout(DRAIN_DEADLINE, async { while calls.join_next().await.is_some() {} }).await);
    }

    async fn wait_for_call(&self) -> Waited {
        let stream = match timeout(OPEN_DEADLINE, tunnel::open(&self.dialer, &self.url)).await {
            Ok(Ok(stream)) => stream,
            Err(_) => {
                tracing::debug!(url = %self.url, "keeping a connection ready took too long");
                return Waited::Lost(RETRY);
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, url = %self.url, "keeping a connection ready");
                let is_reluctant = matches!(error, wire::Error::BadUpgrade(_));
                return Waited::Lost(if is_reluctant { RELUCTANT } else { RETRY });
            }
        };
        match timeout(LIFE, self.reception.greeted(stream)).await {
            Ok(Some(greeted)) => Waited::Call(Box::new(greeted)),
            Ok(None) => Waited::Lost(RETRY),
            Err(_) => Waited::Stale,
        }
    }
}

/// What became of a connection that was ready.
enum Waited {
    Call(Box<Greeted<Stream>>),
    Stale,
    Lost(Duration),
}

//! What the paths to other nodes take: probed when a node comes, and again from time to time, since paths change without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::chain;

/// Paths are probed again after this time.
const AGAIN: Duration = Duration::from_secs(600);

type Found = Vec<(IpAddr, u32)>;

/// The largest packets that were seen to get through.
pub(crate) struct Paths {
    known: BTreeMap<IpAddr, u32>,
    wanted: BTreeSet<IpAddr>,
    /// Those that were asked for already, whether or not they answered.
    asked: BTreeSet<IpAddr>,
    next: Instant,
    running: Option<oneshot::Receiver<Found>>,
}

impl Paths {
    pub(crate) fn new() -> Self {
        let (known, wanted, asked) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { known, wanted, asked, next: Instant::now() + AGAIN, running: None }
    }

    /// The largest packet to a node, if that is known.
    pub(crate) fn to(&self, address: IpAddr) -> Option<u32> {
        self.known.get(&address).copied()
    }

    /// These are the ones to know about; who is new is probed at once.
    pub(crate) fn want(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        self.wanted = addresses.collect();
        self.known.retain(|address, _| self.wanted.contains(address));
        self.asked.retain(|address| self.wanted.contains(address));
        if !self.wanted.is_subset(&self.asked) {
            self.next = Instant::now();
        }
    }

    /// Resolves when a path turned out to be other than known. May be dropped and called again.
    pub(crate) async fn changed(&mut self) {
        loop {
            let Some(running) = &mut self.running else {
                tokio::time::sleep_until(self.next).await;
                self.begin();
                continue;
            };
            let found = running.await.unwrap_or_default();
            self.running = None;
            let is_news = found.iter().any(|(address, mtu)| self.known.get(address) != Some(mtu));
            self.known.extend(found);
            if is_news {
                return;
            }
        }
    }

    fn begin(&mut self) {
        self.next = Instant::now() + AGAIN;
        self.asked.clone_from(&self.wanted);
        if self.wanted.is_empty() {
            return;
        }
        let (sender, found) = oneshot::channel();
        let addresses: Vec<IpAddr> = self.wanted.iter().copied().collect();
        // A thread of its own, for which the end of the process does not wait.
        let started = std::thread::Builder::new().name("paths".into()).spawn(move || {
            // Nobody may be there any more.
            drop(sender.send(probe(&addresses)));
        });
        match started {
            Ok(_) => self.running = Some(found),
            Err(error) => tracing::warn!(%error, "starting to probe the paths to other nodes"),
        }
    }
}

fn probe(addresses: &[IpAddr]) -> Found {
    match network::probe::largest(addresses) {
        Ok(found) => addresses.iter().zip(found).filter_map(|(address, mtu)| Some((*address, mtu?))).collect(),
        Err(error) => {
            tracing::warn!(error = chain(&error), "probing the paths to other nodes");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_new_is_asked_at_once() {
        let mut paths = Paths::new();
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        paths.want([one].into_iter());
        assert!(paths.next <= Instant::now());
        paths.asked.insert(one);
        paths.known.insert(one, 1400);
        paths.next = Instant::now() + AGAIN;
        paths.want([one].into_iter());
        assert!(paths.next > Instant::now() && paths.to(one) == Some(1400));
        paths.want([two].into_iter());
        assert!(paths.next <= Instant::now() && paths.to(one).is_none());
    }

    #[tokio::test]
    async fn only_news_resolves() {
        let mut paths = Paths::new();
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        paths.known.insert(one, 1500);
        let answer = |paths: &mut Paths, found: Found| {
            let (sender, receiver) = oneshot::channel();
            paths.running = Some(receiver);
            sender.send(found).expect("it waits");
        };
        answer(&mut paths, vec![(one, 1500)]);
        assert!(tokio::time::timeout(Duration::from_millis(20), paths.changed()).await.is_err());
        answer(&mut paths, vec![(one, 1500), (two, 1400)]);
        paths.changed().await;
        assert_eq!(paths.to(two), Some(1400));
    }
}

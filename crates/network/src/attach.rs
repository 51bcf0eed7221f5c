//! One pair of links: how a network namespace is joined to the machine's routing.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// What the inner end uses as its next hop; no machine has this address, every outer end answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// How to join a network namespace to the host's: carried out by whoever is about to make that namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name inside, as `eth0`.
    pub link: String,
    /// Name of the outer end: the prefix of the host's configuration and something unique, at most 15 bytes.
    pub host_link: String,
    /// Of the inner end, with 32 bits.
    pub address: Ipv4Addr,
    /// Next hop inside; see [`GATEWAY`].
    pub gateway: Ipv4Addr,
    /// What the host says when it speaks to this address. None: the machine has no other address, so the outer end gets the gateway's.
    pub host_address: Option<Ipv4Addr>,
    /// Of both ends.
    pub mtu: u32,
}

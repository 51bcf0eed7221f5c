//! The ways to the blocks of other machines: plain routes to those on a shared link, one VXLAN link to all others.
//!
//! `plan` (pure) decides, `apply` makes the kernel be so. What a tunnel's far end needs beyond its machine's address is derived: its
//! own address is the first of the machine's first block, which no pool gives away; its hardware address is made of the machine's.

mod apply;
pub mod plan;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub(crate) use apply::look_up;
pub use plan::{Mesh, Way, plan};

/// UDP port of the tunnel, as Linux had it before the number was registered and as everybody has it in their firewalls.
pub const VXLAN_PORT: u16 = 8472;

/// What the outer headers of IPv4, UDP, VXLAN and the inner Ethernet take.
pub const VXLAN_OVERHEAD: u32 = 50;

/// This machine, as others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// By which peers reach it.
    pub address: Ipv4Addr,
    /// Its blocks; the first one names the tunnel's end.
    pub blocks: Vec<Ipv4Net>,
    /// The number of the cluster's tunnel; see [`vni`].
    pub vni: u32,
}

/// Another machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// For people.
    pub name: String,
    /// By which it is reached.
    pub address: Ipv4Addr,
    /// Its blocks; the first one names the tunnel's end.
    pub blocks: Vec<Ipv4Net>,
    /// The largest packet that was seen to get to its address, if that was tried: see [`crate::probe`].
    #[serde(default)]
    pub path_mtu: Option<u32>,
}

/// Which kind of way to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Plain routes to those on a shared link, a tunnel to all others.
    #[default]
    Auto,
    /// Plain routes only; who is behind a router is not reached.
    Route,
    /// A tunnel to everybody.
    Vxlan,
}

/// How a peer's blocks are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// By plain routes through this link.
    Route {
        /// Name of the link.
        link: String,
    },
    /// Through the tunnel, which leaves by this link.
    Vxlan {
        /// Name of the link.
        link: String,
    },
    /// Not at all.
    Nowhere,
}

/// What came of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerState {
    /// The peer.
    pub peer: Peer,
    /// How it is reached.
    pub reach: Reach,
    /// The largest packet between attachments there and here; 0 where there is no way.
    pub mtu: u32,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

/// The tunnel's number for a cluster of this id: two clusters on one wire do not hear each other. Numbers that others use by default (flannel
/// 1, Calico 4096) are never taken.
pub fn vni(cluster: &str) -> u32 {
    let hash = cluster.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // 24 bits, above all numbers that people give by hand.
    ((hash >> 8) ^ (hash & 0xff)) % 0x00f0_0000 + 0x000f_0000
}

/// The hardware address of the tunnel's end at the machine of this address: locally administered, and unique as the address is.
pub fn tunnel_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x59, a, b, c, d]
}

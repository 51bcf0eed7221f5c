//! The ways to the blocks of other machines: plain routes to those on a shared link, one VXLAN link to all others; or one WireGuard link to
//! everybody.
//!
//! `plan` (pure) decides, `apply` makes the kernel be so. What a tunnel's far end needs beyond its machine's address is derived: its
//! own address is the first of the machine's first block, which no pool gives away; its hardware address is made of the machine's.

mod apply;
pub mod plan;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::family::{Family, digest};

pub(crate) use apply::look_up;
pub use plan::{Mesh, Way, plan};

use crate::hash;
use crate::wireguard::{PublicKey, SecretKey};

/// UDP port of the tunnel, as Linux had it before the number was registered and as everybody has it in their firewalls.
pub const VXLAN_PORT: u16 = 8472;

/// This machine, as others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// By which peers reach it, one of each family that it has.
    pub addresses: Vec<IpAddr>,
    /// Its blocks; the first one of each family names the tunnel's end.
    pub blocks: Vec<IpNet>,
    /// The number of the cluster's tunnel; see [`vni`].
    pub vni: u32,
    /// What [`Backend::WireGuard`] needs.
    pub secret: Option<SecretKey>,
}

/// Another machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// For people.
    pub name: String,
    /// By which it is reached, one of each family that it has.
    pub addresses: Vec<IpAddr>,
    /// Its blocks; the first one of each family names the tunnel's end.
    pub blocks: Vec<IpNet>,
    /// The largest packet that was seen to get to its [`underlay`], if that was tried: see [`crate::probe`].
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// By which WireGuard knows it, if it has said that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
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
    /// An encrypted tunnel to everybody.
    WireGuard,
}

/// What carries packets to those that no plain route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// VXLAN.
    Vxlan,
    /// WireGuard.
    WireGuard,
}

impl Backend {
    fn carrier(self) -> Carrier {
        if self == Backend::WireGuard { Carrier::WireGuard } else { Carrier::Vxlan }
    }

    /// Whether nobody is reached by a plain route.
    fn is_tunnel_only(self) -> bool {
        matches!(self, Backend::Vxlan | Backend::WireGuard)
    }
}

impl Carrier {
    pub(crate) const ALL: [Carrier; 2] = [Carrier::Vxlan, Carrier::WireGuard];

    /// What it adds to each packet: the outer headers of IP and UDP and its own, and where it carries whole frames, the inner one of Ethernet.
    fn overhead(self, outer: Family) -> u32 {
        match (self, outer) {
            (Carrier::Vxlan, Family::V4) => 50,
            (Carrier::Vxlan, Family::V6) => 70,
            (Carrier::WireGuard, Family::V4) => 60,
            (Carrier::WireGuard, Family::V6) => 80,
        }
    }

    fn reach(self, link: &str) -> Reach {
        let link = link.to_owned();
        match self {
            Carrier::Vxlan => Reach::Vxlan { link },
            Carrier::WireGuard => Reach::WireGuard { link },
        }
    }
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
    /// Through the encrypted tunnel, which leaves by this link.
    WireGuard {
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
    /// How it is reached, for each of the cluster's ranges in their order.
    pub ways: Vec<Led>,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

/// The way of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Led {
    /// Of the packets between attachments.
    pub family: Family,
    /// How they get there.
    pub reach: Reach,
    /// The largest one; 0 where there is no way.
    pub mtu: u32,
}

impl PeerState {
    /// Whether no way of any family leads there.
    pub fn is_lost(&self) -> bool {
        self.ways.iter().all(|way| way.reach == Reach::Nowhere)
    }
}

/// By which of its addresses a machine is at the end of a tunnel: both ends must decide alike, so it is that of IPv4 where there is one.
pub fn underlay(addresses: &[IpAddr]) -> Option<IpAddr> {
    Family::ALL.iter().find_map(|family| family.first(addresses))
}

/// The tunnel's number for a cluster of this id: two clusters on one wire do not hear each other. Numbers that others use by default (flannel
/// 1, Calico 4096) are never taken.
pub fn vni(cluster: &str) -> u32 {
    let hash = hash::in_32_bits(cluster.bytes());
    // 24 bits, above all numbers that people give by hand.
    ((hash >> 8) ^ (hash & 0xff)) % 0x00f0_0000 + 0x000f_0000
}

/// The name of the tunnel's link.
pub(crate) fn tunnel_name(prefix: &str, carrier: Carrier) -> String {
    match carrier {
        Carrier::Vxlan => format!("{prefix}vx"),
        Carrier::WireGuard => format!("{prefix}wg"),
    }
}

/// The hardware address of the tunnel's end at the machine of this address: locally administered, and unique as the address is.
pub fn tunnel_mac(address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = digest(address);
    [0x0a, 0x59, a, b, c, d]
}

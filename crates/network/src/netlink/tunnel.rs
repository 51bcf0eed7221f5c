//! Messages about a VXLAN link: itself, who is behind which hardware address, and on which machine that is.

use std::net::IpAddr;

use super::message::{Attributes, CREATE, EXCLUSIVE, Message, REPLACE, Received, i32_at};
use super::route::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, LINK_HEADER, PERMANENT,
    RTM_NEWLINK, RTM_NEWNEIGH, link,
};
use crate::family::{Family, address as read_ip, octets};

const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;
const VXLAN_UDP_CSUM: u16 = 18;

const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const BRIDGE: u8 = 7;
/// The entry is the link's own, not that of a bridge above it.
const SELF: u8 = 2;
const NEIGHBOUR_HEADER: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// What cannot be changed in place: another of these is another link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vxlan {
    pub(crate) vni: u32,
    pub(crate) local: IpAddr,
    pub(crate) port: u16,
    pub(crate) mac: [u8; 6],
}

/// The outer UDP checksum is on. Without one (the older default, and flannel's) some kernels and network cards filled in a wrong one as soon
/// as address translation or segmentation touched the packet, and the receiver dropped it (flannel#1279). With one the sum over the
/// inner packet is derived from the inner checksum (local checksum offload), so it costs next to nothing, the receiver can
/// check both at once, and large segments stay whole up to the link; switching the link's own checksums off would give that up.
pub(crate) fn new_vxlan(name: &str, vxlan: &Vxlan, mtu: u32) -> Message {
    let message = link(RTM_NEWLINK, CREATE | EXCLUSIVE, 0, false);
    let local = match vxlan.local {
        IpAddr::V4(_) => VXLAN_LOCAL,
        IpAddr::V6(_) => VXLAN_LOCAL6,
    };
    message.text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu).attr(IFLA_ADDRESS, &vxlan.mac).nest(IFLA_LINKINFO, |info| {
        info.attr(IFLA_INFO_KIND, b"vxlan").nest(IFLA_INFO_DATA, |data| {
            data.u32(VXLAN_ID, vxlan.vni)
                .attr(local, &octets(vxlan.local))
                .attr(VXLAN_LEARNING, &[0])
                .attr(VXLAN_PORT, &vxlan.port.to_be_bytes())
                .attr(VXLAN_UDP_CSUM, &[1])
        })
    })
}

/// None if the link is of another kind.
pub(crate) fn read_vxlan(received: &Received) -> Option<Vxlan> {
    let info = received.find(LINK_HEADER, IFLA_LINKINFO)?;
    let of = |attributes, wanted| Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let kind: &[u8] = of(info, IFLA_INFO_KIND)?;
    if !kind.starts_with(b"vxlan") {
        return None;
    }
    let data = of(info, IFLA_INFO_DATA)?;
    Some(Vxlan {
        vni: i32_at(of(data, VXLAN_ID)?, 0)? as u32,
        local: of(data, VXLAN_LOCAL).or_else(|| of(data, VXLAN_LOCAL6)).and_then(read_ip)?,
        port: u16::from_be_bytes(of(data, VXLAN_PORT)?.try_into().ok()?),
        mac: received.find(LINK_HEADER, IFLA_ADDRESS)?.try_into().ok()?,
    })
}

/// An address and a hardware address. As a neighbour: this address has this hardware. As a forwarding entry: this hardware is at this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pairing {
    pub(crate) address: IpAddr,
    pub(crate) mac: [u8; 6],
}

/// Which of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Neighbours(Family),
    Forwarding,
}

impl Table {
    fn fixed(self, index: u32) -> [u8; NEIGHBOUR_HEADER] {
        let (family, flags) = match self {
            Table::Neighbours(family) => (family.number(), 0),
            Table::Forwarding => (BRIDGE, SELF),
        };
        let mut fixed = [0; NEIGHBOUR_HEADER];
        fixed[0] = family;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
        fixed[10] = flags;
        fixed
    }

    fn entry(self, kind: u16, flags: u16, index: u32, pairing: &Pairing) -> Message {
        let message = Message::new(kind, flags, &self.fixed(index));
        message.attr(NDA_DST, &octets(pairing.address)).attr(NDA_LLADDR, &pairing.mac)
    }

    /// Makes or replaces an entry.
    pub(crate) fn put(self, index: u32, pairing: &Pairing) -> Message {
        self.entry(RTM_NEWNEIGH, CREATE | REPLACE, index, pairing)
    }

    pub(crate) fn delete(self, index: u32, pairing: &Pairing) -> Message {
        self.entry(RTM_DELNEIGH, 0, index, pairing)
    }

    /// All entries, of other links too where the kernel does not look at the number.
    pub(crate) fn all(self) -> Message {
        let mut fixed = self.fixed(0);
        fixed[8..11].fill(0);
        Message::new(RTM_GETNEIGH, 0, &fixed)
    }

    /// A lasting entry of this link.
    pub(crate) fn read(self, received: &Received, index: u32) -> Option<Pairing> {
        let state = u16::from_ne_bytes(received.body.get(8..10)?.try_into().ok()?);
        let is_of_link = i32_at(&received.body, 4)? as u32 == index;
        if !is_of_link || state & PERMANENT == 0 {
            return None;
        }
        Some(Pairing {
            address: received.find(NEIGHBOUR_HEADER, NDA_DST).and_then(read_ip)?,
            mac: received.find(NEIGHBOUR_HEADER, NDA_LLADDR)?.try_into().ok()?,
        })
    }
}

//! Messages about links, addresses, neighbours and routes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::message::{APPEND, Attributes, CREATE, EXCLUSIVE, Message, REPLACE, Received, i32_at};
use crate::family::{Family, address as read_ip, octets};

/// Length of the fixed part of a link message.
pub(crate) const LINK_HEADER: usize = 16;
/// Of an address message.
pub(crate) const ADDRESS_HEADER: usize = 8;
/// Of a route message.
pub(crate) const ROUTE_HEADER: usize = 12;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWNEIGH: u16 = 28;

const INET: u8 = libc::AF_INET as u8;
const INET6: u8 = libc::AF_INET6 as u8;
const MAIN_TABLE: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
/// What the kernel makes of a router's advertisement.
const PROTOCOL_ADVERTISED: u8 = 9;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const UNREACHABLE: u8 = 7;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
pub(super) const PERMANENT: u16 = 0x80;
const UP: u32 = 1;

/// Per-link settings of IPv4, by the kernel's numbers.
#[derive(Clone, Copy)]
#[repr(u16)]
pub(crate) enum Setting {
    Forwarding = 1,
    ProxyArp = 3,
    SendRedirects = 6,
    RpFilter = 8,
    RouteLocalnet = 26,
}

pub(super) fn link(kind: u16, flags: u16, index: u32, up: bool) -> Message {
    let state = if up { UP } else { 0 };
    Message::new(kind, flags, &link_header(index, state))
}

fn link_header(index: u32, state: u32) -> [u8; LINK_HEADER] {
    let mut fixed = [0; LINK_HEADER];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&state.to_ne_bytes());
    fixed[12..16].copy_from_slice(&state.to_ne_bytes());
    fixed
}

/// One end of a pair to be made.
pub(crate) struct End<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
}

/// A pair of links, the second of which is born in the namespace behind `netns`: moving it there later costs two grace periods under the
/// kernel's one lock.
pub(crate) fn new_pair(outer: &End<'_>, inner: &End<'_>, netns: i32, mtu: u32) -> Message {
    let describe = |message: Message, end: &End<'_>| {
        message.text(IFLA_IFNAME, end.name).u32(IFLA_MTU, mtu).attr(IFLA_ADDRESS, &end.mac)
    };
    describe(link(RTM_NEWLINK, CREATE | EXCLUSIVE, 0, false), outer).nest(IFLA_LINKINFO, |info| {
        info.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                describe(peer.raw(&link_header(0, 0)), inner).u32(IFLA_NET_NS_FD, netns as u32)
            })
        })
    })
}

/// What joins links as a switch does.
pub(crate) fn new_bridge(name: &str) -> Message {
    link(RTM_NEWLINK, CREATE | EXCLUSIVE, 0, false)
        .text(IFLA_IFNAME, name)
        .nest(IFLA_LINKINFO, |info| info.attr(IFLA_INFO_KIND, b"bridge"))
}

/// Makes a link a port of a bridge.
pub(crate) fn set_master(index: u32, bridge: u32) -> Message {
    link(RTM_NEWLINK, 0, index, false).u32(IFLA_MASTER, bridge)
}

pub(crate) fn link_up(index: u32) -> Message {
    link(RTM_NEWLINK, 0, index, true)
}

pub(crate) fn set_mtu(index: u32, mtu: u32) -> Message {
    link(RTM_NEWLINK, 0, index, false).u32(IFLA_MTU, mtu)
}

pub(crate) fn delete_link(index: u32) -> Message {
    link(RTM_DELLINK, 0, index, false)
}

/// IPv4 settings of a link, and no IPv6 address made up by the kernel.
pub(crate) fn configure(index: u32, settings: &[(Setting, u32)]) -> Message {
    link(RTM_NEWLINK, 0, index, false).nest(IFLA_AF_SPEC, |families| {
        families.nest(u16::from(INET), |inet| {
            inet.nest(IFLA_INET_CONF, |conf| {
                settings.iter().fold(conf, |conf, (key, value)| conf.u32(*key as u16, *value))
            })
        })
    })
}

/// No IPv6 address made up by the kernel: it would be probed for duplicates for a second, and nobody would use it.
pub(crate) fn without_link_local(index: u32) -> Message {
    link(RTM_NEWLINK, 0, index, false).nest(IFLA_AF_SPEC, |families| {
        families.nest(u16::from(INET6), |inet6| inet6.attr(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]))
    })
}

pub(crate) fn link_named(name: &str) -> Message {
    link(RTM_GETLINK, 0, 0, false).text(IFLA_IFNAME, name)
}

pub(crate) fn link_numbered(index: u32) -> Message {
    link(RTM_GETLINK, 0, index, false)
}

pub(crate) fn all_links() -> Message {
    link(RTM_GETLINK, 0, 0, false)
}

/// The number of the link that a link message is about.
pub(crate) fn link_index(received: &Received) -> u32 {
    i32_at(&received.body, 4).unwrap_or(0) as u32
}

/// What made the link, as `veth`.
pub(crate) fn link_kind(received: &Received) -> Option<String> {
    let info = received.find(LINK_HEADER, IFLA_LINKINFO)?;
    let (_, kind) = Attributes(info).find(|(kind, _)| *kind == IFLA_INFO_KIND)?;
    Some(String::from_utf8_lossy(kind).trim_end_matches('\0').to_owned())
}

pub(crate) const IFA_LOCAL: u16 = 2;
const IFA_ADDRESS: u16 = 1;

/// An address without a subnet.
pub(crate) fn new_address(index: u32, address: IpAddr, is_global: bool) -> Message {
    let scope = if is_global { SCOPE_UNIVERSE } else { SCOPE_LINK };
    about_address(RTM_NEWADDR, CREATE | REPLACE, index, address.into(), scope)
}

/// An address with its subnet, which the kernel routes to the link.
pub(crate) fn new_subnet_address(index: u32, address: IpNet) -> Message {
    about_address(RTM_NEWADDR, CREATE | REPLACE, index, address, SCOPE_UNIVERSE)
}

pub(crate) fn delete_address(index: u32, address: IpAddr) -> Message {
    about_address(RTM_DELADDR, 0, index, address.into(), SCOPE_UNIVERSE)
}

/// Nobody else can have it, so no second is lost with asking whether somebody does.
const NO_DUPLICATE_DETECTION: u8 = 2;

fn about_address(kind: u16, flags: u16, index: u32, net: IpNet, scope: u8) -> Message {
    let family = Family::of_net(&net);
    let state = if family == Family::V6 { NO_DUPLICATE_DETECTION } else { 0 };
    let mut fixed = [family.number(), net.prefix_len(), state, scope, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let address = octets(net.addr());
    Message::new(kind, flags, &fixed).attr(IFA_LOCAL, &address).attr(IFA_ADDRESS, &address)
}

pub(crate) fn all_addresses(family: Family) -> Message {
    Message::new(RTM_GETADDR, 0, &[family.number(), 0, 0, 0, 0, 0, 0, 0])
}

/// An address of a link.
pub(crate) struct LinkAddress {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    /// Whether others may use it: not of the link or the machine only, and neither about to go nor made up for a while.
    pub(crate) is_global: bool,
}

pub(crate) fn read_address(received: &Received) -> Option<LinkAddress> {
    /// Temporary, failed, deprecated, tentative.
    const PASSING: u8 = 0x01 | 0x08 | 0x20 | 0x40;
    let family = Family::numbered(*received.body.first()?)?;
    let local = received.find(ADDRESS_HEADER, IFA_LOCAL).or_else(|| received.find(ADDRESS_HEADER, IFA_ADDRESS))?;
    // For IPv4 the first bit says that the address is a further one of its subnet.
    let is_passing = family == Family::V6 && received.body.get(2)? & PASSING != 0;
    Some(LinkAddress {
        link: i32_at(&received.body, 4)? as u32,
        address: read_ip(local)?,
        prefix: *received.body.get(1)?,
        is_global: received.body.get(3) == Some(&SCOPE_UNIVERSE) && !is_passing,
    })
}

/// A neighbour known for good, so that nobody ever asks for it.
pub(crate) fn new_neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Message {
    let mut fixed = [0; 12];
    fixed[0] = Family::of(address).number();
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    Message::new(RTM_NEWNEIGH, CREATE | REPLACE, &fixed).attr(1, &octets(address)).attr(2, &mac)
}

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;

/// The fixed part of a message about a route of the main table.
fn route_header(to: &IpNet, protocol: u8, scope: u8, kind: u8, flags: u8) -> [u8; ROUTE_HEADER] {
    [Family::of_net(to).number(), to.prefix_len(), 0, 0, MAIN_TABLE, protocol, scope, kind, flags, 0, 0, 0]
}

/// To one address, straight out of a link.
pub(crate) fn direct_route(index: u32, address: IpAddr, source: Option<IpAddr>) -> Message {
    let fixed = route_header(&address.into(), PROTOCOL_BOOT, SCOPE_LINK, UNICAST, 0);
    let message = Message::new(RTM_NEWROUTE, CREATE | REPLACE, &fixed);
    let message = message.attr(RTA_DST, &octets(address)).u32(RTA_OIF, index);
    match source {
        Some(source) => message.attr(RTA_PREFSRC, &octets(source)),
        None => message,
    }
}

pub(crate) fn default_route(index: u32, gateway: IpAddr) -> Message {
    let everywhere = [Family::of(gateway).number(), 0, 0, 0, MAIN_TABLE, PROTOCOL_BOOT, SCOPE_UNIVERSE, UNICAST];
    let mut fixed = [0; ROUTE_HEADER];
    fixed[..8].copy_from_slice(&everywhere);
    let message = Message::new(RTM_NEWROUTE, CREATE | APPEND, &fixed);
    message.attr(RTA_GATEWAY, &octets(gateway)).u32(RTA_OIF, index)
}

pub(crate) fn all_routes(family: Family) -> Message {
    Message::new(RTM_GETROUTE, 0, &[family.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// A route of the main table.
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) link: u32,
    pub(crate) source: Option<IpAddr>,
    pub(crate) priority: u32,
    /// Whether a router has said so.
    pub(crate) is_advertised: bool,
}

/// None for routes of other tables and of other types than unicast.
pub(crate) fn read_route(received: &Received) -> Option<Route> {
    let (table, kind) = (*received.body.get(4)?, *received.body.get(7)?);
    if table != MAIN_TABLE || kind != UNICAST {
        return None;
    }
    Some(Route {
        destination: destination(received)?,
        link: received.find_u32(ROUTE_HEADER, RTA_OIF)?,
        source: received.find(ROUTE_HEADER, RTA_PREFSRC).and_then(read_ip),
        priority: received.find_u32(ROUTE_HEADER, RTA_PRIORITY).unwrap_or(0),
        is_advertised: received.body.get(5) == Some(&PROTOCOL_ADVERTISED),
    })
}

/// Where a route leads to; nothing said is everywhere.
fn destination(received: &Received) -> Option<IpNet> {
    let everywhere = match Family::numbered(*received.body.first()?)? {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    let network = received.find(ROUTE_HEADER, RTA_DST).and_then(read_ip).unwrap_or(everywhere);
    IpNet::new(network, *received.body.get(1)?).ok()
}

/// Who wrote a route is a number of eight bits; nobody in iproute2's list has this one.
const PROTOCOL_OURS: u8 = 112;
const ONLINK: u8 = 4;
const RTA_METRICS: u16 = 8;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;

/// Where the addresses of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Behind this machine on this link.
    Next {
        link: u32,
        via: IpAddr,
        is_onlink: bool,
        /// The largest packet, where it is less than what the link takes.
        mtu: Option<u32>,
    },
    /// Nowhere: who asks is told so.
    Nowhere,
}

/// One of ours, to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRoute {
    pub(crate) block: IpNet,
    pub(crate) target: Target,
}

impl BlockRoute {
    /// Refused where anybody has a route to the very block already.
    pub(crate) fn create(&self) -> Message {
        self.message(RTM_NEWROUTE, CREATE | EXCLUSIVE)
    }

    /// In one step, so that no packet is lost in between.
    pub(crate) fn replace(&self) -> Message {
        self.message(RTM_NEWROUTE, CREATE | REPLACE)
    }

    pub(crate) fn delete(&self) -> Message {
        self.message(RTM_DELROUTE, 0)
    }

    fn message(&self, kind: u16, flags: u16) -> Message {
        let (route_kind, route_flags) = match self.target {
            Target::Next { is_onlink, .. } => (UNICAST, if is_onlink { ONLINK } else { 0 }),
            Target::Nowhere => (UNREACHABLE, 0),
        };
        let fixed = route_header(&self.block, PROTOCOL_OURS, SCOPE_UNIVERSE, route_kind, route_flags);
        let message = Message::new(kind, flags, &fixed).attr(RTA_DST, &octets(self.block.network()));
        match self.target {
            Target::Next { link, via, mtu, .. } => {
                let message = message.attr(RTA_GATEWAY, &octets(via)).u32(RTA_OIF, link);
                match mtu {
                    Some(mtu) => message.nest(RTA_METRICS, |metrics| metrics.u32(RTAX_MTU, mtu)),
                    None => message,
                }
            }
            Target::Nowhere => message,
        }
    }

    /// None if it is not one of ours.
    pub(crate) fn read(received: &Received) -> Option<BlockRoute> {
        let byte = |at: usize| received.body.get(at).copied();
        if byte(4)? != MAIN_TABLE || byte(5)? != PROTOCOL_OURS {
            return None;
        }
        let target = if byte(7)? == UNREACHABLE {
            Target::Nowhere
        } else {
            Target::Next {
                link: received.find_u32(ROUTE_HEADER, RTA_OIF)?,
                via: received.find(ROUTE_HEADER, RTA_GATEWAY).and_then(read_ip)?,
                is_onlink: byte(8)? & ONLINK != 0,
                mtu: metric_mtu(received),
            }
        };
        Some(BlockRoute { block: destination(received)?, target })
    }
}

/// What a notification says of a link.
pub(crate) struct LinkChange {
    pub(crate) name: String,
    pub(crate) is_up: bool,
    /// Whether it is another than before, and not only told again.
    pub(crate) is_news: bool,
}

/// None if it is about something else.
pub(crate) fn link_change(received: &Received) -> Option<LinkChange> {
    if ![RTM_NEWLINK, RTM_DELLINK].contains(&received.kind) {
        return None;
    }
    let is_there = received.kind == RTM_NEWLINK;
    Some(LinkChange {
        name: received.find_text(LINK_HEADER, IFLA_IFNAME).unwrap_or_default(),
        is_up: is_there && i32_at(&received.body, 8)? as u32 & UP != 0,
        is_news: !is_there || i32_at(&received.body, 12)? != 0,
    })
}

/// What a notification says of an address that came or went.
pub(crate) struct AddressChange {
    /// Usually the name of its link; only addresses of IPv4 have one.
    pub(crate) label: Option<String>,
    pub(crate) address: Option<IpAddr>,
}

/// None if it is about something else.
pub(crate) fn address_change(received: &Received) -> Option<AddressChange> {
    const IFA_LABEL: u16 = 3;
    let is_address = [RTM_NEWADDR, RTM_DELADDR].contains(&received.kind);
    is_address.then(|| AddressChange {
        label: received.find_text(ADDRESS_HEADER, IFA_LABEL),
        address: read_address(received).map(|found| found.address),
    })
}

pub(crate) fn is_removed_route(received: &Received) -> bool {
    received.kind == RTM_DELROUTE
}

/// How the kernel would reach an address.
pub(crate) fn lookup(address: IpAddr) -> Message {
    let family = Family::of(address);
    let fixed = [family.number(), family.bits(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Message::new(RTM_GETROUTE, 0, &fixed).attr(RTA_DST, &octets(address))
}

/// What a lookup found.
pub(crate) struct Found {
    pub(crate) link: u32,
    pub(crate) is_local: bool,
    pub(crate) has_gateway: bool,
    /// Of the path, where the kernel knows more than the link does.
    pub(crate) mtu: Option<u32>,
}

/// None where it leads nowhere.
pub(crate) fn read_lookup(received: &Received) -> Option<Found> {
    let kind = *received.body.get(7)?;
    if kind != UNICAST && kind != LOCAL {
        return None;
    }
    let has = |attribute| received.find(ROUTE_HEADER, attribute).is_some();
    Some(Found {
        link: received.find_u32(ROUTE_HEADER, RTA_OIF)?,
        is_local: kind == LOCAL,
        has_gateway: has(RTA_GATEWAY) || has(RTA_VIA),
        mtu: metric_mtu(received),
    })
}

fn metric_mtu(received: &Received) -> Option<u32> {
    let metrics = received.find(ROUTE_HEADER, RTA_METRICS)?;
    let (_, value) = Attributes(metrics).find(|(kind, _)| *kind == RTAX_MTU)?;
    i32_at(value, 0).filter(|mtu| *mtu > 0).map(|mtu| mtu as u32)
}

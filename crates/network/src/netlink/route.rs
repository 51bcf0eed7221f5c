//! Messages about links, addresses, neighbours and routes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::message::{APPEND, Attributes, CREATE, EXCLUSIVE, Message, REPLACE, Received, i32_at};

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

pub(super) const INET: u8 = libc::AF_INET as u8;
const INET6: u8 = libc::AF_INET6 as u8;
const MAIN_TABLE: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
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
pub(crate) fn new_address(index: u32, address: Ipv4Addr, is_global: bool) -> Message {
    let scope = if is_global { SCOPE_UNIVERSE } else { SCOPE_LINK };
    about_address(RTM_NEWADDR, CREATE | REPLACE, index, alone(address), scope)
}

/// An address with its subnet, which the kernel routes to the link.
pub(crate) fn new_subnet_address(index: u32, address: Ipv4Net) -> Message {
    about_address(RTM_NEWADDR, CREATE | REPLACE, index, address, SCOPE_UNIVERSE)
}

pub(crate) fn delete_address(index: u32, address: Ipv4Addr) -> Message {
    about_address(RTM_DELADDR, 0, index, alone(address), SCOPE_UNIVERSE)
}

fn alone(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

fn about_address(kind: u16, flags: u16, index: u32, net: Ipv4Net, scope: u8) -> Message {
    let (address, mut fixed) = (net.addr(), [INET, net.prefix_len(), 0, scope, 0, 0, 0, 0]);
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let message = Message::new(kind, flags, &fixed);
    message.attr(IFA_LOCAL, &address.octets()).attr(IFA_ADDRESS, &address.octets())
}

pub(crate) fn all_addresses() -> Message {
    Message::new(RTM_GETADDR, 0, &[INET, 0, 0, 0, 0, 0, 0, 0])
}

/// (link, address, prefix length, whether others may use it)
pub(crate) fn read_address(received: &Received) -> Option<(u32, Ipv4Addr, u8, bool)> {
    let local = received.find(ADDRESS_HEADER, IFA_LOCAL).or_else(|| received.find(ADDRESS_HEADER, IFA_ADDRESS))?;
    let is_global = received.body.get(3) == Some(&SCOPE_UNIVERSE);
    Some((i32_at(&received.body, 4)? as u32, ipv4(local)?, *received.body.get(1)?, is_global))
}

/// A neighbour known for good, so that nobody ever asks for it.
pub(crate) fn new_neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Message {
    let mut fixed = [0; 12];
    fixed[0] = INET;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    Message::new(RTM_NEWNEIGH, CREATE | REPLACE, &fixed).attr(1, &address.octets()).attr(2, &mac)
}

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;

/// To one address, straight out of a link.
pub(crate) fn direct_route(index: u32, address: Ipv4Addr, source: Option<Ipv4Addr>) -> Message {
    let fixed = [INET, 32, 0, 0, MAIN_TABLE, PROTOCOL_BOOT, SCOPE_LINK, UNICAST, 0, 0, 0, 0];
    let message =
        Message::new(RTM_NEWROUTE, CREATE | REPLACE, &fixed).attr(RTA_DST, &address.octets()).u32(RTA_OIF, index);
    match source {
        Some(source) => message.attr(RTA_PREFSRC, &source.octets()),
        None => message,
    }
}

pub(crate) fn default_route(index: u32, gateway: Ipv4Addr) -> Message {
    let fixed = [INET, 0, 0, 0, MAIN_TABLE, PROTOCOL_BOOT, SCOPE_UNIVERSE, UNICAST, 0, 0, 0, 0];
    let message = Message::new(RTM_NEWROUTE, CREATE | APPEND, &fixed);
    message.attr(RTA_GATEWAY, &gateway.octets()).u32(RTA_OIF, index)
}

pub(crate) fn all_routes() -> Message {
    Message::new(RTM_GETROUTE, 0, &[INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// A route of the main table.
pub(crate) struct Route {
    pub(crate) destination: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) link: u32,
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) priority: u32,
}

/// None for routes of other tables and of other types than unicast.
pub(crate) fn read_route(received: &Received) -> Option<Route> {
    let (prefix, table, kind) = (*received.body.get(1)?, *received.body.get(4)?, *received.body.get(7)?);
    if table != MAIN_TABLE || kind != UNICAST {
        return None;
    }
    Some(Route {
        destination: received.find(ROUTE_HEADER, RTA_DST).and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED),
        prefix,
        link: received.find_u32(ROUTE_HEADER, RTA_OIF)?,
        source: received.find(ROUTE_HEADER, RTA_PREFSRC).and_then(ipv4),
        priority: received.find_u32(ROUTE_HEADER, RTA_PRIORITY).unwrap_or(0),
    })
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
        via: Ipv4Addr,
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
    pub(crate) block: Ipv4Net,
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
        let bits = self.block.prefix_len();
        let fixed = [INET, bits, 0, 0, MAIN_TABLE, PROTOCOL_OURS, SCOPE_UNIVERSE, route_kind, route_flags, 0, 0, 0];
        let message = Message::new(kind, flags, &fixed).attr(RTA_DST, &self.block.network().octets());
        match self.target {
            Target::Next { link, via, mtu, .. } => {
                let message = message.attr(RTA_GATEWAY, &via.octets()).u32(RTA_OIF, link);
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
        let network = received.find(ROUTE_HEADER, RTA_DST).and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED);
        let target = if byte(7)? == UNREACHABLE {
            Target::Nowhere
        } else {
            Target::Next {
                link: received.find_u32(ROUTE_HEADER, RTA_OIF)?,
                via: received.find(ROUTE_HEADER, RTA_GATEWAY).and_then(ipv4)?,
                is_onlink: byte(8)? & ONLINK != 0,
                mtu: metric_mtu(received),
            }
        };
        Some(BlockRoute { block: Ipv4Net::new(network, byte(1)?).ok()?, target })
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

/// The name that an address which came or went has, usually that of its link; None if it is about something else.
pub(crate) fn address_change(received: &Received) -> Option<String> {
    const IFA_LABEL: u16 = 3;
    let is_address = [RTM_NEWADDR, RTM_DELADDR].contains(&received.kind);
    is_address.then(|| received.find_text(ADDRESS_HEADER, IFA_LABEL).unwrap_or_default())
}

pub(crate) fn is_removed_route(received: &Received) -> bool {
    received.kind == RTM_DELROUTE
}

/// How the kernel would reach an address.
pub(crate) fn lookup(address: Ipv4Addr) -> Message {
    let fixed = [INET, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Message::new(RTM_GETROUTE, 0, &fixed).attr(RTA_DST, &address.octets())
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

pub(super) fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

//! Messages about links, addresses, neighbours and routes.

use std::net::Ipv4Addr;

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
pub(crate) const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;

const INET: u8 = libc::AF_INET as u8;
const INET6: u8 = libc::AF_INET6 as u8;
const MAIN_TABLE: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const PERMANENT: u16 = 0x80;
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

fn link(kind: u16, flags: u16, index: u32, up: bool) -> Message {
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

pub(crate) fn link_up(index: u32) -> Message {
    link(RTM_NEWLINK, 0, index, true)
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
    let mut fixed = [INET, 32, 0, scope, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let message = Message::new(RTM_NEWADDR, CREATE | REPLACE, &fixed);
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

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

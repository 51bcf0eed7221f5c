//! One pair of links: how a network namespace is joined to the machine's routing.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};
use crate::family::{Family, digest};
use crate::netlink::Socket;
use crate::netlink::route::{self, End, Setting};

/// What the inner end uses as its next hop; no machine has this address, every outer end answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same for IPv6: every outer end has it.
pub const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// How to join a network namespace to the host's: carried out by whoever is about to make that namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name inside, as `eth0`.
    pub link: String,
    /// Name of the outer end: the prefix of the host's configuration and something unique, at most 15 bytes.
    pub host_link: String,
    /// One of each family.
    pub addresses: Vec<Address>,
    /// Of both ends.
    pub mtu: u32,
}

/// An address of the inner end, alone in its subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Next hop inside; see [`GATEWAY`].
    pub gateway: IpAddr,
    /// What the host says when it speaks to this address. None: the machine has no other address, so the outer end gets the gateway's.
    pub host_address: Option<IpAddr>,
}

impl Address {
    /// With what everybody has as next hop.
    pub fn new(address: IpAddr, host_address: Option<IpAddr>) -> Self {
        let gateway = match Family::of(address) {
            Family::V4 => GATEWAY.into(),
            Family::V6 => GATEWAY_6.into(),
        };
        Self { address, gateway, host_address }
    }
}

/// All outer ends have this one: nobody ever sees two of them on one link.
const OUTER_MAC: [u8; 6] = [0xee; 6];

impl Attachment {
    /// Locally administered, and unique as the first address is.
    fn inner_mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.addresses.first().map_or([0; 4], |first| digest(first.address));
        [0x0a, 0x58, a, b, c, d]
    }
}

/// Joins the caller's network namespace to the one in which `host` was opened. Leave the host's namespace between opening and calling.
///
/// Everything happens here in a few round trips, because done by one agent for all it would queue behind the kernel's one lock.
pub fn perform(host: &Socket, attachment: &Attachment) -> Result<()> {
    let own = File::open("/proc/thread-self/ns/net").doing(|| "open the own network namespace".into())?;
    let outer = make_pair(host, attachment, &own)?;
    let inside = Socket::route().doing(|| "open a netlink socket".into())?;
    let inner = set_up_inside(&inside, attachment)?;
    set_up_outside(host, attachment, outer)?;
    notice(host, outer)?;
    notice(&inside, inner)
}

/// Brings loopback up in the caller's network namespace, all that an isolated one needs.
pub fn loopback() -> Result<()> {
    let inside = Socket::route().doing(|| "open a netlink socket".into())?;
    inside.request(vec![route::link_up(1)]).doing(|| "bring up loopback".into())
}

fn make_pair(host: &Socket, attachment: &Attachment, netns: &File) -> Result<u32> {
    let outer = End { name: &attachment.host_link, mac: OUTER_MAC };
    let inner = End { name: &attachment.link, mac: attachment.inner_mac() };
    let pair = || route::new_pair(&outer, &inner, netns.as_raw_fd(), attachment.mtu);
    let made = match host.request(vec![pair()]) {
        // One of the same name whose namespace is still dying: it has nothing to say any more.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            let stale = number(host, &attachment.host_link)?;
            host.request(vec![route::delete_link(stale)]).and_then(|()| host.request(vec![pair()]))
        }
        other => other,
    };
    made.doing(|| format!("create link {}", attachment.host_link))?;
    number(host, &attachment.host_link)
}

pub(crate) fn number(socket: &Socket, name: &str) -> Result<u32> {
    let found = socket.query(route::link_named(name)).doing(|| format!("find link {name}"))?;
    Ok(route::link_index(&found))
}

fn set_up_inside(inside: &Socket, attachment: &Attachment) -> Result<u32> {
    let index = number(inside, &attachment.link)?;
    // Without IPv6 in the kernel the family is refused; then there is nothing to keep quiet.
    inside
        .request(vec![route::without_link_local(index)])
        .or_else(ignore_unsupported)
        .doing(|| "configure the inner link".into())?;
    if attachment.addresses.iter().any(|it| it.address.is_ipv6()) {
        let path = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", attachment.link);
        fs::write(&path, "0").doing(|| format!("write {path}"))?;
    }
    let mut steps = vec![route::link_up(1), route::link_up(index)];
    for Address { address, gateway, .. } in &attachment.addresses {
        steps.push(route::new_address(index, *address, true));
        steps.push(route::new_neighbour(index, *gateway, OUTER_MAC));
        if gateway.is_ipv4() {
            steps.push(route::direct_route(index, *gateway, None));
        }
        steps.push(route::default_route(index, *gateway));
    }
    inside.request(steps).doing(|| format!("set up {} inside", attachment.link))?;
    Ok(index)
}

fn set_up_outside(host: &Socket, attachment: &Attachment, index: u32) -> Result<()> {
    host.request(vec![route::without_link_local(index)])
        .or_else(ignore_unsupported)
        .doing(|| "configure the outer link".into())?;
    let settings = [
        (Setting::ProxyArp, 1),
        (Setting::Forwarding, 1),
        (Setting::SendRedirects, 0),
        (Setting::RpFilter, 2),
        (Setting::RouteLocalnet, 1),
    ];
    let mut steps = vec![route::configure(index, &settings), route::link_up(index)];
    for Address { address, gateway, host_address } in &attachment.addresses {
        if host_address.is_none() || gateway.is_ipv6() {
            steps.push(route::new_address(index, *gateway, false));
        }
        steps.push(route::new_neighbour(index, *address, attachment.inner_mac()));
    }
    host.request(steps).doing(|| format!("set up {}", attachment.host_link))?;
    for Address { address, gateway, host_address } in &attachment.addresses {
        lead(host, index, *address, Some(host_address.unwrap_or(*gateway)))
            .doing(|| format!("route {address} to {}", attachment.host_link))?;
    }
    Ok(())
}

/// Leads to what is attached to an outer end.
pub(crate) fn lead(host: &Socket, outer: u32, address: IpAddr, source: Option<IpAddr>) -> io::Result<()> {
    let request = |source| host.request(vec![route::direct_route(outer, address, source)]);
    // The machine may have changed its address since; any source is better than no route.
    request(source).or_else(|_| request(None))
}

/// Asking makes the kernel notice at once that both ends are up; otherwise a worker does so up to a second later, and what that end sends
/// until then is lost. Either end needs it: one answers the other.
pub(crate) fn notice(socket: &Socket, index: u32) -> Result<()> {
    socket.query(route::link_numbered(index)).doing(|| format!("look at link {index}"))?;
    Ok(())
}

pub(crate) fn ignore_unsupported(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL) => Ok(()),
        _ => Err(error),
    }
}

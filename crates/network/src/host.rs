//! What a machine needs once: forwarding, one table of rules, and knowledge of the links that carry our prefix.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attach::{Address, Attachment};
use crate::error::{Doing, Result};
use crate::family::{Family, Ranges};
use crate::filter;
use crate::hash;
use crate::netlink::message::Received;
use crate::netlink::route::{self, LinkAddress, Route};
use crate::netlink::{Socket, expr};
use crate::offload::Short;

/// One cluster's part of a machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Unique per cluster on this machine, at most 6 bytes of `a-z0-9`; starts the name of each outer link.
    pub prefix: String,
    /// Name of the nft tables, of which each family has one.
    pub table: String,
    /// All addresses of the cluster: never masqueraded among themselves.
    pub ranges: Ranges,
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
    pub host_address: Option<IpAddr>,
    /// On the machine.
    pub host_port: u16,
    /// Of the attachment.
    pub address: IpAddr,
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

/// One cluster's hold on a machine: the network namespace of the thread that calls.
#[derive(Debug)]
pub struct Host {
    config: Config,
    table: Mutex<Table>,
    pub(crate) short: Mutex<Short>,
}

/// What the table was made of.
#[derive(Debug, Default)]
struct Table {
    /// None before it is written for the first time.
    ports: Option<Vec<HostPort>>,
    /// Machines on a shared link.
    neighbours: Vec<IpAddr>,
    /// How many chains and rules it had when it was written.
    size: (usize, usize),
}

impl Host {
    /// Changes nothing yet.
    pub fn open(config: Config) -> Result<Host> {
        let is_sound =
            (1..=6).contains(&config.prefix.len()) && config.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_sound {
            return Err(io::Error::from(io::ErrorKind::InvalidInput))
                .doing(|| format!("use {:?} as prefix of links", config.prefix));
        }
        Ok(Host { config, table: Mutex::default(), short: Mutex::default() })
    }

    /// Forwarding, and the whole table with these host ports, in one atomic step. Call it again whenever they change.
    pub fn apply(&self, ports: &[HostPort]) -> Result<()> {
        self.forward()?;
        let mut table = self.table();
        table.size = self.write(ports, &table.neighbours)?;
        table.ports = Some(ports.to_vec());
        Ok(())
    }

    /// Writes the table anew if somebody has taken away something of it; whether that was so.
    pub fn repair(&self) -> Result<bool> {
        let mut table = self.table();
        let Some(ports) = table.ports.clone() else { return Ok(false) };
        if self.size()? == table.size {
            return Ok(false);
        }
        self.forward()?;
        table.size = self.write(&ports, &table.neighbours)?;
        Ok(true)
    }

    fn forward(&self) -> Result<()> {
        self.config.ranges.families().try_for_each(forward)
    }

    /// How many chains and rules the table has.
    fn size(&self) -> Result<(usize, usize)> {
        let (socket, tables) = (netfilter()?, filter::tables(&self.config).collect::<Vec<_>>());
        let is_ours = |found: &&Received| tables.iter().any(|table| expr::is_in(found, *table));
        let count = |all: Vec<Received>| all.iter().filter(is_ours).count();
        let chains = socket.dump(expr::all_chains()).doing(|| "list chains".into())?;
        let rules = socket.dump(expr::all_rules()).doing(|| "list rules".into())?;
        Ok((count(chains), count(rules)))
    }

    /// Does not translate what attachments say to these machines. Before the table is there, it is noted only.
    pub(crate) fn know_neighbours(&self, neighbours: Vec<IpAddr>) -> Result<()> {
        let mut table = self.table();
        if table.neighbours == neighbours {
            return Ok(());
        }
        if let Some(ports) = &table.ports {
            let size = self.write(ports, &neighbours)?;
            table.size = size;
        }
        table.neighbours = neighbours;
        Ok(())
    }

    /// Says how many chains and rules it has now.
    fn write(&self, ports: &[HostPort], neighbours: &[IpAddr]) -> Result<(usize, usize)> {
        let batch = filter::replacement(&self.config, ports, neighbours);
        let size = expr::size(&batch);
        netfilter()?.commit(batch).doing(|| format!("replace nft table {}", self.config.table))?;
        Ok(size)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // What is noted is changed only after the kernel agreed, in one step.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// How the sandbox of this name (any string unique in the cluster) gets these addresses, one of each family.
    pub fn attachment(&self, sandbox: &str, addresses: &[IpAddr]) -> Result<Attachment> {
        let uplinks: Vec<Uplink> =
            addresses.iter().map(|address| uplink(Family::of(*address))).collect::<Result<_>>()?;
        let mtu = uplinks.iter().map(|uplink| uplink.mtu).min().unwrap_or(DEFAULT_MTU);
        let tunnel = self.tunnel_link(&route()?)?;
        let tunnel_mtu = tunnel.and_then(|link| link.find_u32(route::LINK_HEADER, route::IFLA_MTU));
        let least = addresses.iter().map(|address| Family::of(*address).least_mtu()).max().unwrap_or(0);
        Ok(Attachment {
            link: "eth0".into(),
            host_link: self.link_name(sandbox),
            addresses: addresses
                .iter()
                .zip(&uplinks)
                .map(|(address, uplink)| Address::new(*address, uplink.address))
                .collect(),
            // What fits everywhere; those attached before there was a tunnel are told by the machine.
            mtu: tunnel_mtu.map_or(mtu, |tunnel| tunnel.min(mtu)).max(least),
        })
    }

    /// Leads to the addresses of these sandboxes again where the machine does not any more: with an address of the machine the kernel removes
    /// all routes that named it as their source. Links that are gone are left out. How many ways were missing.
    pub fn reconnect(&self, sandboxes: &[(String, Vec<IpAddr>)]) -> Result<usize> {
        let (socket, mut led) = (route()?, 0);
        for family in self.config.ranges.families() {
            let known: HashSet<IpAddr> = routes(&socket, family)?
                .iter()
                .filter(|route| route.destination.prefix_len() == family.bits())
                .map(|route| route.destination.addr())
                .collect();
            let addresses = sandboxes.iter().filter_map(|(sandbox, all)| Some((sandbox, family.first(all)?)));
            let lost: Vec<_> = addresses.filter(|(_, address)| !known.contains(address)).collect();
            if lost.is_empty() {
                continue;
            }
            let (source, links) = (uplink(family)?.address, self.links()?);
            for (sandbox, address) in lost {
                let name = self.link_name(sandbox);
                if let Some(link) = links.iter().find(|link| link.name == name) {
                    crate::attach::lead(&socket, link.index, address, source)
                        .doing(|| format!("route {address} to {name}"))?;
                    led += 1;
                }
            }
        }
        Ok(led)
    }

    /// The outer link of the sandbox of this name.
    pub fn link_name(&self, sandbox: &str) -> String {
        let hash = hash::in_64_bits(sandbox.bytes());
        let mut name = format!("{}{hash:016x}", self.config.prefix);
        name.truncate(15);
        name
    }

    /// All outer links with our prefix.
    pub fn links(&self) -> Result<Vec<Link>> {
        let all = route()?.dump(route::all_links()).doing(|| "list links".into())?;
        let is_ours = |link: &&Received| route::link_kind(link).as_deref() == Some("veth");
        let named = all.iter().filter(is_ours).filter_map(|link| {
            let name = link.find_text(route::LINK_HEADER, route::IFLA_IFNAME)?;
            Some(Link { name, index: route::link_index(link) })
        });
        Ok(named.filter(|link| link.name.starts_with(&self.config.prefix)).collect())
    }

    /// Deletes the outer links that are not among `keep`; says which.
    pub fn collect_garbage(&self, keep: &[String]) -> Result<Vec<String>> {
        let socket = route()?;
        let mut gone = Vec::new();
        for link in self.links()?.into_iter().filter(|link| !keep.contains(&link.name)) {
            match socket.request(vec![route::delete_link(link.index)]) {
                Ok(()) => gone.push(link.name),
                // Its namespace died in the meantime, and it with that.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error).doing(|| format!("delete link {}", link.name)),
            }
        }
        Ok(gone)
    }

    /// Takes the table, all links with our prefix and all our routes away.
    pub fn remove(&self) -> Result<()> {
        let links = self.collect_garbage(&[]);
        let (mesh, offload) = (self.remove_mesh(), self.remove_offload());
        netfilter()?
            .commit(filter::removal(&self.config))
            .doing(|| format!("remove nft table {}", self.config.table))?;
        *self.table() = Table::default();
        links.and(mesh).and(offload)
    }
}

pub(crate) fn route() -> Result<Socket> {
    Socket::route().doing(|| "open a netlink socket".into())
}

pub(crate) fn netfilter() -> Result<Socket> {
    Socket::netfilter().doing(|| "open a netfilter socket".into())
}

/// Off by default; others may rely on it once it is on, so nobody turns it off again.
pub(crate) fn forward(family: Family) -> Result<()> {
    let path = match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    let is_on = fs::read_to_string(path).doing(|| format!("read {path}"))?.trim() == "1";
    if is_on {
        return Ok(());
    }
    if family == Family::V6 {
        keep_listening_to_routers()?;
    }
    fs::write(path, "1").doing(|| format!("write {path}"))
}

/// Who forwards takes no router's word any more, and even forgets what routers have said, unless told otherwise: so that the machine keeps its
/// way out, links of hardware, and others by which a router was heard, are told otherwise.
fn keep_listening_to_routers() -> Result<()> {
    let socket = route()?;
    let taught: Vec<u32> =
        routes(&socket, Family::V6)?.iter().filter(|route| route.is_advertised).map(|route| route.link).collect();
    let links = socket.dump(route::all_links()).doing(|| "list links".into())?;
    let listens = |link: &&Received| route::link_kind(link).is_none() || taught.contains(&route::link_index(link));
    for name in links.iter().filter(listens).filter_map(|link| link.find_text(route::LINK_HEADER, route::IFLA_IFNAME)) {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        if fs::read_to_string(&path).is_ok_and(|setting| setting.trim() == "1") {
            fs::write(&path, "2").doing(|| format!("write {path}"))?;
        }
    }
    Ok(())
}

/// Whether two ranges have addresses in common.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The ranges that the machine's addresses and routes use, the default route aside: what a new cluster must keep away from.
pub fn used_ranges() -> Result<Vec<IpNet>> {
    let socket = route()?;
    let mut ranges = Vec::new();
    for family in Family::ALL {
        let of_address = |found: LinkAddress| IpNet::new(found.address, found.prefix).ok();
        ranges.extend(link_addresses(&socket, family)?.into_iter().filter_map(of_address));
        ranges.extend(routes(&socket, family)?.into_iter().map(|route| route.destination));
    }
    let is_own = |range: &IpNet| match range.addr() {
        IpAddr::V4(_) => true,
        // Every link has these.
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_multicast(),
    };
    let mut ranges: Vec<IpNet> =
        ranges.iter().map(IpNet::trunc).filter(|range| range.prefix_len() > 0).filter(is_own).collect();
    ranges.sort_unstable();
    ranges.dedup();
    Ok(ranges)
}

/// All addresses of this machine, but of IPv6 those only that others can use for long.
pub fn addresses() -> Result<Vec<IpAddr>> {
    let socket = route()?;
    let mut all = Vec::new();
    for family in Family::ALL {
        all.extend(link_addresses(&socket, family)?);
    }
    let is_lasting = |found: &LinkAddress| found.address.is_ipv4() || found.is_global || found.address.is_loopback();
    Ok(all.into_iter().filter(is_lasting).map(|found| found.address).collect())
}

/// The address of a family that others know this machine by: of the default route's link, else the first global one.
pub fn node_address_of(family: Family) -> Result<Option<IpAddr>> {
    Ok(uplink(family)?.address)
}

/// Without IPv6 in the kernel there is none of it.
fn link_addresses(socket: &Socket, family: Family) -> Result<Vec<LinkAddress>> {
    let all = socket.dump(route::all_addresses(family)).doing(|| "list addresses".into())?;
    let of_family = |found: &LinkAddress| Family::of(found.address) == family;
    Ok(all.iter().filter_map(route::read_address).filter(of_family).collect())
}

fn routes(socket: &Socket, family: Family) -> Result<Vec<Route>> {
    let all = socket.dump(route::all_routes(family)).doing(|| "list routes".into())?;
    let of_family = |found: &Route| Family::of_net(&found.destination) == family;
    Ok(all.iter().filter_map(route::read_route).filter(of_family).collect())
}

/// Where the machine's traffic leaves.
struct Uplink {
    address: Option<IpAddr>,
    mtu: u32,
}

const DEFAULT_MTU: u32 = 1500;

fn uplink(family: Family) -> Result<Uplink> {
    let socket = route()?;
    let defaults = routes(&socket, family)?.into_iter().filter(|route| route.destination.prefix_len() == 0);
    let best = defaults.min_by_key(|route| route.priority);
    let global: Vec<LinkAddress> = link_addresses(&socket, family)?
        .into_iter()
        .filter(|found| found.is_global && !found.address.is_loopback())
        .collect();
    let of_link = |index: u32| global.iter().find(|found| found.link == index).map(|found| found.address);
    let address = best
        .as_ref()
        .and_then(|best| best.source.or_else(|| of_link(best.link)))
        .or_else(|| global.first().map(|found| found.address));
    let link = best
        .map(|best| best.link)
        .or_else(|| global.iter().find(|found| Some(found.address) == address).map(|found| found.link));
    Ok(Uplink { address, mtu: link.map_or(Ok(DEFAULT_MTU), |index| mtu(&socket, index))? })
}

pub(crate) fn mtu(socket: &Socket, index: u32) -> Result<u32> {
    let link = socket.query(route::link_numbered(index)).doing(|| format!("look at link {index}"))?;
    let mtu = link.find_u32(route::LINK_HEADER, route::IFLA_MTU).unwrap_or(DEFAULT_MTU);
    // Loopback's would be too large for what lies behind.
    Ok(mtu.min(9000))
}

//! Makes the kernel know what was planned, and forget what was planned before. Only the difference is written.

use std::io;
use std::net::IpAddr;

use super::plan::{End, Mesh, Next, Route, Tunnel, Way, Ways, plan};
use super::{Backend, Carrier, Own, Peer, PeerState, tunnel_name};
use crate::attach::number;
use crate::error::{Doing, Result};
use crate::family::Family;
use crate::host::{Host, route as open};
use crate::netlink::Socket;
use crate::netlink::message::Received;
use crate::netlink::route::{self, BlockRoute, Setting, Target};
use crate::netlink::tunnel::{self, Pairing, Table, Vxlan};
use crate::wireguard;

impl Host {
    /// Leads to the blocks of these peers and to no others any more. Call it again whenever they change.
    ///
    /// Routes and links of others are left alone; where one of them is in the way, the state of the peer says so.
    pub fn mesh(&self, own: &Own, peers: &[Peer], backend: Backend) -> Result<Vec<PeerState>> {
        let socket = open()?;
        let mut ways = Ways::new();
        for address in peers.iter().flat_map(|peer| &peer.addresses) {
            if let Some(way) = look_up(&socket, *address)? {
                ways.insert(*address, way);
            }
        }
        let mut mesh = plan(own, &self.config().ranges, peers, &ways, backend);
        let link = match &mesh.tunnel {
            Some(tunnel) => Some(self.make_tunnel(&socket, own, tunnel, &mesh.ends)?),
            None => None,
        };
        self.route_blocks(&socket, &mut mesh, link)?;
        self.remove_tunnels(&socket, mesh.tunnel.as_ref().map(|tunnel| tunnel.carrier))?;
        self.know_neighbours(mesh.neighbours())?;
        Ok(mesh.states)
    }

    /// Takes the routes and the tunnel away.
    pub(crate) fn remove_mesh(&self) -> Result<()> {
        let socket = open()?;
        for stale in self.own_routes(&socket)? {
            delete_route(&socket, &stale)?;
        }
        self.remove_tunnels(&socket, None)
    }

    fn tunnel_name(&self, carrier: Carrier) -> String {
        tunnel_name(&self.config().prefix, carrier)
    }

    /// The tunnel's link, if there is one.
    pub(crate) fn tunnel_link(&self, socket: &Socket) -> Result<Option<Received>> {
        let mut found = Carrier::ALL.iter().map(|carrier| self.link_of(socket, *carrier));
        found.find_map(Result::transpose).transpose()
    }

    pub(crate) fn link_of(&self, socket: &Socket, carrier: Carrier) -> Result<Option<Received>> {
        let name = self.tunnel_name(carrier);
        match socket.query(route::link_named(&name)) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error).doing(|| format!("find link {name}")),
        }
    }

    /// With all far ends.
    fn make_tunnel(&self, socket: &Socket, own: &Own, tunnel: &Tunnel, ends: &[End]) -> Result<u32> {
        match (tunnel.carrier, &own.secret) {
            (Carrier::Vxlan, _) => {
                let index = self.make_vxlan(socket, tunnel)?;
                self.meet(socket, index, ends).map(|()| index)
            }
            (Carrier::WireGuard, Some(secret)) => {
                let (generic, index) = self.make_wireguard(socket, secret)?;
                wireguard::meet(&generic, index, ends)?;
                let name = self.tunnel_name(Carrier::WireGuard);
                self.set_up(socket, index, tunnel).doing(|| format!("set up the WireGuard link {name}"))?;
                Ok(index)
            }
            (Carrier::WireGuard, None) => {
                Err(io::Error::from(io::ErrorKind::InvalidInput)).doing(|| "use WireGuard without a key".into())
            }
        }
    }

    fn make_vxlan(&self, socket: &Socket, tunnel: &Tunnel) -> Result<u32> {
        let name = self.tunnel_name(Carrier::Vxlan);
        let wanted = Vxlan { vni: tunnel.vni, local: tunnel.local, port: tunnel.port, mac: tunnel.mac };
        let found = self.link_of(socket, Carrier::Vxlan)?;
        let index = match found.filter(|link| tunnel::read_vxlan(link) == Some(wanted)) {
            Some(link) => route::link_index(&link),
            None => {
                self.remove_tunnel(socket, Carrier::Vxlan)?;
                let message = tunnel::new_vxlan(&name, &wanted, tunnel.mtu);
                socket.request(vec![message]).doing(|| format!("create the VXLAN link {name}"))?;
                number(socket, &name)?
            }
        };
        self.set_up(socket, index, tunnel).doing(|| format!("set up the VXLAN link {name}"))?;
        Ok(index)
    }

    /// All but this one.
    fn remove_tunnels(&self, socket: &Socket, keep: Option<Carrier>) -> Result<()> {
        let mut stale = Carrier::ALL.iter().filter(|carrier| Some(**carrier) != keep);
        stale.try_for_each(|carrier| self.remove_tunnel(socket, *carrier))
    }

    fn remove_tunnel(&self, socket: &Socket, carrier: Carrier) -> Result<()> {
        let Some(link) = self.link_of(socket, carrier)? else {
            return Ok(());
        };
        let request = socket.request(vec![route::delete_link(route::link_index(&link))]);
        request.or_else(ignore_gone).doing(|| format!("delete link {}", self.tunnel_name(carrier)))
    }

    /// Settles the link's own state.
    fn set_up(&self, socket: &Socket, index: u32, tunnel: &Tunnel) -> io::Result<()> {
        let without_link_local = socket.request(vec![route::without_link_local(index)]);
        without_link_local.or_else(crate::attach::ignore_unsupported)?;
        let settings = [(Setting::Forwarding, 1), (Setting::SendRedirects, 0), (Setting::RpFilter, 2)];
        let mut steps = Vec::new();
        for family in self.config().ranges.families() {
            let stale = addresses(socket, index, family)?.into_iter().filter(|it| !tunnel.addresses.contains(it));
            steps.extend(stale.map(|address| route::delete_address(index, address)));
        }
        steps.extend([route::configure(index, &settings), route::set_mtu(index, tunnel.mtu)]);
        steps.extend(tunnel.addresses.iter().map(|address| route::new_address(index, *address, true)));
        steps.push(route::link_up(index));
        socket.request(steps)
    }

    /// The far ends, in all of the tunnel's tables.
    fn meet(&self, socket: &Socket, index: u32, ends: &[End]) -> Result<()> {
        let pair = |address: IpAddr, end: &End| Pairing { address, mac: end.mac };
        let machines: Vec<Pairing> = ends.iter().map(|end| pair(end.machine, end)).collect();
        let mut tables = vec![(Table::Forwarding, machines)];
        for family in self.config().ranges.families() {
            let of_family = |end: &End| Some(pair(family.first(&end.addresses)?, end));
            tables.push((Table::Neighbours(family), ends.iter().filter_map(of_family).collect()));
        }
        for (table, wanted) in tables {
            make_equal(socket, index, table, &wanted).doing(|| "tell the tunnel who is at its far ends".into())?;
        }
        Ok(())
    }

    /// Routes that bear our number and lie in our range: another cluster on this machine has the same number and another range.
    fn own_routes(&self, socket: &Socket) -> Result<Vec<BlockRoute>> {
        let (ranges, mut own) = (&self.config().ranges, Vec::new());
        for family in ranges.families() {
            let all = socket.dump(route::all_routes(family)).doing(|| "list routes".into())?;
            own.extend(all.iter().filter_map(BlockRoute::read).filter(|route| ranges.contains(&route.block)));
        }
        Ok(own)
    }

    fn route_blocks(&self, socket: &Socket, mesh: &mut Mesh, tunnel: Option<u32>) -> Result<()> {
        let present = self.own_routes(socket)?;
        let wanted: Vec<BlockRoute> = mesh.routes.iter().filter_map(|route| target(route, tunnel)).collect();
        // Stale ones first: a block that was split or merged must not be found by its former, narrower route.
        for stale in present.iter().filter(|route| !wanted.iter().any(|it| it.block == route.block)) {
            delete_route(socket, stale)?;
        }
        for route in wanted.iter().filter(|route| !present.contains(route)) {
            let is_known = present.iter().any(|it| it.block == route.block);
            let message = if is_known { route.replace() } else { route.create() };
            match socket.request(vec![message]) {
                Ok(()) => {}
                Err(error) => complain(mesh, route, &error)?,
            }
        }
        Ok(())
    }
}

fn target(route: &Route, tunnel: Option<u32>) -> Option<BlockRoute> {
    let target = match route.next {
        Next::Link { link, via } => Target::Next { link, via, is_onlink: false, mtu: route.mtu },
        Next::Tunnel { via } => Target::Next { link: tunnel?, via, is_onlink: via.is_ipv4(), mtu: route.mtu },
        Next::Own => Target::Nowhere,
    };
    Some(BlockRoute { block: route.block, target })
}

/// A route that the kernel refuses is one peer's trouble and not that of all; for the own block there is no peer to tell.
fn complain(mesh: &mut Mesh, route: &BlockRoute, error: &io::Error) -> Result<()> {
    let problem = match error.raw_os_error() {
        Some(libc::EEXIST) => format!("another program has a route to {} already", route.block),
        _ => format!("the kernel refuses a route to {}: {error}", route.block),
    };
    let owner = mesh.states.iter_mut().find(|state| state.peer.blocks.iter().any(|it| it.trunc() == route.block));
    match owner {
        Some(state) => state.problems.push(problem),
        None => {
            let source = io::Error::from(error.kind());
            return Err(source).doing(|| format!("route the own block {}: {problem}", route.block));
        }
    }
    Ok(())
}

pub(crate) fn look_up(socket: &Socket, address: IpAddr) -> Result<Option<Way>> {
    let Ok(answer) = socket.query(route::lookup(address)) else {
        return Ok(None);
    };
    let Some(found) = route::read_lookup(&answer) else {
        return Ok(None);
    };
    let link = socket.query(route::link_numbered(found.link)).doing(|| format!("look at link {}", found.link))?;
    let link_mtu = link.find_u32(route::LINK_HEADER, route::IFLA_MTU).unwrap_or(1500);
    Ok(Some(Way {
        link: found.link,
        link_name: link.find_text(route::LINK_HEADER, route::IFLA_IFNAME).unwrap_or_default(),
        has_gateway: found.has_gateway,
        is_local: found.is_local,
        mtu: found.mtu.map_or(link_mtu, |mtu| mtu.min(link_mtu)),
    }))
}

fn addresses(socket: &Socket, index: u32, family: Family) -> io::Result<Vec<IpAddr>> {
    let all = socket.dump(route::all_addresses(family))?;
    let of_link = all.iter().filter_map(route::read_address).filter(|found| found.link == index);
    Ok(of_link.map(|found| found.address).collect())
}

fn make_equal(socket: &Socket, index: u32, table: Table, wanted: &[Pairing]) -> io::Result<()> {
    let all = socket.dump(table.all())?;
    let present: Vec<Pairing> = all.iter().filter_map(|entry| table.read(entry, index)).collect();
    for stale in present.iter().filter(|entry| !wanted.contains(entry)) {
        socket.request(vec![table.delete(index, stale)]).or_else(ignore_gone)?;
    }
    for entry in wanted.iter().filter(|entry| !present.contains(entry)) {
        socket.request(vec![table.put(index, entry)])?;
    }
    Ok(())
}

fn delete_route(socket: &Socket, stale: &BlockRoute) -> Result<()> {
    let gone = socket.request(vec![stale.delete()]).or_else(ignore_gone);
    gone.doing(|| format!("delete the route to {}", stale.block))
}

fn ignore_gone(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENODEV | libc::ENOENT) => Ok(()),
        _ => Err(error),
    }
}

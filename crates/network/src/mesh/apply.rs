//! Makes the kernel know what was planned, and forget what was planned before. Only the difference is written.

use std::io;
use std::net::Ipv4Addr;

use super::plan::{End, Mesh, Next, Route, Tunnel, Way, plan};
use super::{Backend, Own, Peer, PeerState};
use crate::error::{Doing, Result};
use crate::host::{Host, route as open};
use crate::netlink::Socket;
use crate::netlink::message::Received;
use crate::netlink::route::{self, BlockRoute, Setting, Target};
use crate::netlink::tunnel::{self, Pairing, Table, Vxlan};

impl Host {
    /// Leads to the blocks of these peers and to no others any more. Call it again whenever they change.
    ///
    /// Routes and links of others are left alone; where one of them is in the way, the state of the peer says so.
    pub fn mesh(&self, own: &Own, peers: &[Peer], backend: Backend) -> Result<Vec<PeerState>> {
        let socket = open()?;
        let ways: Vec<Option<Way>> = peers.iter().map(|peer| look_up(&socket, peer.address)).collect::<Result<_>>()?;
        let mut mesh = plan(own, self.config().range, peers, &ways, backend);
        let link = match &mesh.tunnel {
            Some(tunnel) => Some(self.make_tunnel(&socket, tunnel)?),
            None => None,
        };
        if let Some(index) = link {
            meet(&socket, index, &mesh.ends)?;
        }
        self.route_blocks(&socket, &mut mesh, link)?;
        if link.is_none() {
            self.remove_tunnel(&socket)?;
        }
        self.know_neighbours(mesh.neighbours())?;
        Ok(mesh.states)
    }

    /// Takes the routes and the tunnel away.
    pub(crate) fn remove_mesh(&self) -> Result<()> {
        let socket = open()?;
        for stale in self.own_routes(&socket)? {
            delete_route(&socket, &stale)?;
        }
        self.remove_tunnel(&socket)
    }

    fn tunnel_name(&self) -> String {
        format!("{}vx", self.config().prefix)
    }

    /// The tunnel's link, if there is one.
    pub(crate) fn tunnel_link(&self, socket: &Socket) -> Result<Option<Received>> {
        let name = self.tunnel_name();
        match socket.query(route::link_named(&name)) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error).doing(|| format!("find link {name}")),
        }
    }

    fn make_tunnel(&self, socket: &Socket, tunnel: &Tunnel) -> Result<u32> {
        let name = self.tunnel_name();
        let wanted = Vxlan { vni: tunnel.vni, local: tunnel.local, port: tunnel.port, mac: tunnel.mac };
        let found = self.tunnel_link(socket)?;
        let index = match found.filter(|link| tunnel::read_vxlan(link) == Some(wanted)) {
            Some(link) => route::link_index(&link),
            None => {
                self.remove_tunnel(socket)?;
                let message = tunnel::new_vxlan(&name, &wanted, tunnel.mtu);
                socket.request(vec![message]).doing(|| format!("create the VXLAN link {name}"))?;
                let made = socket.query(route::link_named(&name)).doing(|| format!("find link {name}"))?;
                route::link_index(&made)
            }
        };
        set_up(socket, index, tunnel).doing(|| format!("set up the VXLAN link {name}"))?;
        Ok(index)
    }

    fn remove_tunnel(&self, socket: &Socket) -> Result<()> {
        let Some(link) = self.tunnel_link(socket)? else {
            return Ok(());
        };
        let request = socket.request(vec![route::delete_link(route::link_index(&link))]);
        request.or_else(ignore_gone).doing(|| format!("delete link {}", self.tunnel_name()))
    }

    /// Routes that bear our number and lie in our range: another cluster on this machine has the same number and another range.
    fn own_routes(&self, socket: &Socket) -> Result<Vec<BlockRoute>> {
        let all = socket.dump(route::all_routes()).doing(|| "list routes".into())?;
        let range = self.config().range;
        Ok(all.iter().filter_map(BlockRoute::read).filter(|route| range.contains(&route.block)).collect())
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
        Next::Tunnel { via } => Target::Next { link: tunnel?, via, is_onlink: true, mtu: route.mtu },
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

pub(crate) fn look_up(socket: &Socket, address: Ipv4Addr) -> Result<Option<Way>> {
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

fn set_up(socket: &Socket, index: u32, tunnel: &Tunnel) -> io::Result<()> {
    let without_link_local = socket.request(vec![route::without_link_local(index)]);
    without_link_local.or_else(crate::attach::ignore_unsupported)?;
    let settings = [(Setting::Forwarding, 1), (Setting::SendRedirects, 0), (Setting::RpFilter, 2)];
    let stale = addresses(socket, index)?.into_iter().filter(|address| *address != tunnel.address);
    let mut steps: Vec<_> = stale.map(|address| route::delete_address(index, address)).collect();
    steps.extend([
        route::configure(index, &settings),
        route::set_mtu(index, tunnel.mtu),
        route::new_address(index, tunnel.address, true),
        route::link_up(index),
    ]);
    socket.request(steps)
}

fn addresses(socket: &Socket, index: u32) -> io::Result<Vec<Ipv4Addr>> {
    let all = socket.dump(route::all_addresses())?;
    let of_link = all.iter().filter_map(route::read_address).filter(|(link, ..)| *link == index);
    Ok(of_link.map(|(_, address, ..)| address).collect())
}

/// The far ends, in both of the tunnel's tables.
fn meet(socket: &Socket, index: u32, ends: &[End]) -> Result<()> {
    let neighbours: Vec<Pairing> = ends.iter().map(|end| Pairing { address: end.address, mac: end.mac }).collect();
    let machines: Vec<Pairing> = ends.iter().map(|end| Pairing { address: end.machine, mac: end.mac }).collect();
    for (table, wanted) in [(Table::Forwarding, machines), (Table::Neighbours, neighbours)] {
        make_equal(socket, index, table, &wanted).doing(|| "tell the tunnel who is at its far ends".into())?;
    }
    Ok(())
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

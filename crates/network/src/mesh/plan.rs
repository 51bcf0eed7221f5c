//! Which routes and entries lead to all peers. Pure: what the kernel says about the ways is told by the caller.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Backend, Own, Peer, PeerState, Reach, VXLAN_OVERHEAD, VXLAN_PORT, tunnel_mac};
use crate::host::overlap;

/// How the kernel would reach a peer's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Kernel's number of the link it leaves by.
    pub link: u32,
    /// That link's name.
    pub link_name: String,
    /// Whether there is a router in between.
    pub has_gateway: bool,
    /// Whether the address is this machine's own.
    pub is_local: bool,
    /// The largest packet that gets there.
    pub mtu: u32,
}

/// Where a block's addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At the machine of this address on this link.
    Link {
        /// Kernel's number.
        link: u32,
        /// The machine.
        via: Ipv4Addr,
    },
    /// At the tunnel's end of this address.
    Tunnel {
        /// The end.
        via: Ipv4Addr,
    },
    /// Here, or nowhere: whoever asks for an address of it that no attachment has is told at once, and no packet goes round in circles.
    Own,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// To these addresses.
    pub block: Ipv4Net,
    /// They are here.
    pub next: Next,
    /// The largest packet, where it is less than what the link takes.
    pub mtu: Option<u32>,
}

/// A far end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Inside.
    pub address: Ipv4Addr,
    /// Its hardware.
    pub mac: [u8; 6],
    /// The machine that has it.
    pub machine: Ipv4Addr,
}

/// The near end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Number.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Outside.
    pub local: Ipv4Addr,
    /// Inside: the machine speaks to far attachments by this address, so that answers come through the tunnel too.
    pub address: Ipv4Addr,
    /// Hardware.
    pub mac: [u8; 6],
    /// Of the inner packets.
    pub mtu: u32,
}

/// All that the kernel shall know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// To each block, the own ones first.
    pub routes: Vec<Route>,
    /// If any peer needs it.
    pub tunnel: Option<Tunnel>,
    /// Of the tunnel.
    pub ends: Vec<End>,
    /// One for each peer, in their order.
    pub states: Vec<PeerState>,
}

impl Mesh {
    /// The machines that share a link with this one: their attachments' addresses need no translation, as they know the way back.
    pub fn neighbours(&self) -> Vec<Ipv4Addr> {
        let is_routed = |state: &&PeerState| matches!(state.reach, Reach::Route { .. });
        self.states.iter().filter(is_routed).map(|state| state.peer.address).collect()
    }
}

/// Decides. `ways` has one for each peer, None where the kernel knows none. Only blocks inside of `range` are believed: a peer must not be
/// able to draw other traffic to itself.
pub fn plan(own: &Own, range: Ipv4Net, peers: &[Peer], ways: &[Option<Way>], backend: Backend) -> Mesh {
    let mut mesh = Mesh { routes: Vec::new(), tunnel: None, ends: Vec::new(), states: Vec::new() };
    for block in own.blocks.iter().map(Ipv4Net::trunc) {
        mesh.routes.push(Route { block, next: Next::Own, mtu: None });
    }
    let mut tunnel_mtu = None;
    for (number, peer) in peers.iter().enumerate() {
        let way = ways.get(number).and_then(Option::as_ref);
        let (blocks, problems) = believable(peer, range, &mesh.routes);
        let state = PeerState { peer: peer.clone(), reach: Reach::Nowhere, mtu: 0, problems };
        let state = match choose(own, peer, way, backend) {
            Ok((way, true)) => {
                let mtu = path_mtu(peer, way).saturating_sub(VXLAN_OVERHEAD);
                tunnel_mtu = tunnel_mtu.max(Some(mtu));
                through_tunnel(&mut mesh, peer, &blocks, mtu);
                PeerState { reach: Reach::Vxlan { link: way.link_name.clone() }, mtu, ..state }
            }
            Ok((way, false)) => {
                let next = Next::Link { link: way.link, via: peer.address };
                let mtu = path_mtu(peer, way);
                let narrower = (mtu < way.mtu).then_some(mtu);
                mesh.routes.extend(blocks.iter().map(|block| Route { block: *block, next, mtu: narrower }));
                PeerState { reach: Reach::Route { link: way.link_name.clone() }, mtu, ..state }
            }
            Err(problem) => {
                let mut state = state;
                state.problems.push(problem);
                state
            }
        };
        mesh.states.push(state);
    }
    // The tunnel takes what the widest of its paths takes; the routes say where it is less.
    for route in mesh.routes.iter_mut().filter(|route| matches!(route.next, Next::Tunnel { .. })) {
        route.mtu = route.mtu.filter(|mtu| Some(*mtu) < tunnel_mtu);
    }
    mesh.tunnel = tunnel_mtu.and_then(|mtu| near_end(own, mtu));
    mesh
}

/// What was seen to get there counts for more than what the kernel believes, which may be larger and is forgotten after minutes.
fn path_mtu(peer: &Peer, way: &Way) -> u32 {
    peer.path_mtu.map_or(way.mtu, |seen| seen.min(way.mtu))
}

/// The way to take, and whether through the tunnel.
fn choose<'a>(own: &Own, peer: &Peer, way: Option<&'a Way>, backend: Backend) -> Result<(&'a Way, bool), String> {
    let (name, address) = (&peer.name, peer.address);
    let way = way.ok_or_else(|| format!("this machine knows no way to {address} ({name})"))?;
    if way.is_local || address == own.address {
        return Err(format!("{name} has the address {address} of this very machine"));
    }
    let needs_tunnel = backend == Backend::Vxlan || way.has_gateway;
    match (needs_tunnel, backend) {
        (true, Backend::Route) => {
            Err(format!("{address} ({name}) is behind a router, and plain routes need a shared link"))
        }
        (true, _) if own.blocks.is_empty() => {
            Err(format!("the tunnel to {name} needs a block of this machine, and it has none yet"))
        }
        _ => Ok((way, needs_tunnel)),
    }
}

/// The blocks of a peer that nobody else has, and what is wrong with the others.
fn believable(peer: &Peer, range: Ipv4Net, known: &[Route]) -> (Vec<Ipv4Net>, Vec<String>) {
    let (mut blocks, mut problems) = (Vec::<Ipv4Net>::new(), Vec::new());
    for block in peer.blocks.iter().map(Ipv4Net::trunc) {
        let rival = known.iter().map(|route| route.block).chain(blocks.iter().copied()).find(|it| overlap(it, &block));
        match rival {
            _ if !range.contains(&block) => {
                problems.push(format!("{block} of {} is not within the cluster's range {range}", peer.name));
            }
            Some(rival) => {
                problems.push(format!("{block} of {} overlaps {rival}, which another machine has", peer.name))
            }
            None => blocks.push(block),
        }
    }
    (blocks, problems)
}

fn through_tunnel(mesh: &mut Mesh, peer: &Peer, blocks: &[Ipv4Net], mtu: u32) {
    // Its first block names its end there as well, whatever is thought of the block here.
    let (Some(first), false) = (peer.blocks.first(), blocks.is_empty()) else {
        return;
    };
    let address = first.network();
    mesh.ends.push(End { address, mac: tunnel_mac(peer.address), machine: peer.address });
    let next = Next::Tunnel { via: address };
    mesh.routes.extend(blocks.iter().map(|block| Route { block: *block, next, mtu: Some(mtu) }));
}

fn near_end(own: &Own, mtu: u32) -> Option<Tunnel> {
    let address = own.blocks.first()?.network();
    let mac = tunnel_mac(own.address);
    Some(Tunnel { vni: own.vni, port: VXLAN_PORT, local: own.address, address, mac, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::vni;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a block")
    }

    fn own() -> Own {
        Own { address: Ipv4Addr::new(192, 0, 2, 1), blocks: vec![net("10.42.0.0/26")], vni: vni("a") }
    }

    fn peer(number: u8, blocks: &[&str]) -> Peer {
        let address = Ipv4Addr::new(192, 0, 2, number);
        Peer {
            name: format!("n{number}"),
            address,
            blocks: blocks.iter().map(|block| net(block)).collect(),
            path_mtu: None,
        }
    }

    fn way(has_gateway: bool) -> Option<Way> {
        Some(Way { link: 7, link_name: "eth0".into(), has_gateway, is_local: false, mtu: 1500 })
    }

    fn planned(peers: &[Peer], ways: &[Option<Way>], backend: Backend) -> Mesh {
        plan(&own(), net("10.42.0.0/16"), peers, ways, backend)
    }

    #[test]
    fn both_kinds_at_once() {
        let peers = [peer(2, &["10.42.0.64/26", "10.42.1.0/26"]), peer(3, &["10.42.0.128/26"])];
        let mesh = planned(&peers, &[way(false), way(true)], Backend::Auto);
        let routes: Vec<(String, Next)> =
            mesh.routes.iter().map(|route| (route.block.to_string(), route.next)).collect();
        let (direct, end) = (Next::Link { link: 7, via: peers[0].address }, Ipv4Addr::new(10, 42, 0, 128));
        assert_eq!(
            routes,
            [
                ("10.42.0.0/26".into(), Next::Own),
                ("10.42.0.64/26".into(), direct),
                ("10.42.1.0/26".into(), direct),
                ("10.42.0.128/26".into(), Next::Tunnel { via: end }),
            ]
        );
        let tunnel = mesh.tunnel.expect("a tunnel");
        assert_eq!((tunnel.address, tunnel.mtu, tunnel.local), (Ipv4Addr::new(10, 42, 0, 0), 1450, own().address));
        assert_eq!(mesh.ends, [End { address: end, mac: [0x0a, 0x59, 192, 0, 2, 3], machine: peers[1].address }]);
        assert_eq!(mesh.neighbours(), [peers[0].address]);
        assert_eq!((mesh.states[0].mtu, mesh.states[1].mtu), (1500, 1450));
    }

    #[test]
    fn what_a_path_takes_is_on_its_routes() {
        let narrow = |number, blocks: &[&str], mtu| Peer { path_mtu: Some(mtu), ..peer(number, blocks) };
        let peers = [
            narrow(2, &["10.42.1.0/26"], 1400),
            narrow(3, &["10.42.2.0/26"], 1400),
            narrow(4, &["10.42.3.0/26"], 1500),
            narrow(5, &["10.42.4.0/26"], 9000),
        ];
        let mesh = planned(&peers, &[way(false), way(true), way(true), way(false)], Backend::Auto);
        let mtus: Vec<Option<u32>> = mesh.routes.iter().skip(1).map(|route| route.mtu).collect();
        assert_eq!(mtus, [Some(1400), Some(1350), None, None]);
        let told: Vec<u32> = mesh.states.iter().map(|state| state.mtu).collect();
        assert_eq!((told.as_slice(), mesh.tunnel.expect("a tunnel").mtu), ([1400, 1350, 1450, 1500].as_slice(), 1450));
    }

    #[test]
    fn a_backend_can_be_forced() {
        let peers = [peer(2, &["10.42.0.64/26"])];
        let tunnelled = planned(&peers, &[way(false)], Backend::Vxlan);
        assert_eq!(tunnelled.states[0].reach, Reach::Vxlan { link: "eth0".into() });
        let refused = planned(&peers, &[way(true)], Backend::Route);
        assert_eq!((&refused.states[0].reach, refused.routes.len()), (&Reach::Nowhere, 1));
        assert!(refused.states[0].problems[0].contains("behind a router"));
        assert!(planned(&peers, &[way(false)], Backend::Auto).tunnel.is_none());
    }

    #[test]
    fn nobody_draws_what_is_not_theirs() {
        let peers = [
            peer(2, &["192.168.0.0/24", "10.42.0.0/27", "10.42.0.64/26"]),
            peer(3, &["10.42.0.64/27"]),
            peer(1, &["10.42.2.0/26"]),
            peer(4, &["10.42.3.0/26"]),
        ];
        let mesh = planned(&peers, &[way(false), way(true), way(false), None], Backend::Auto);
        let blocks: Vec<String> = mesh.routes.iter().map(|route| route.block.to_string()).collect();
        assert_eq!(blocks, ["10.42.0.0/26", "10.42.0.64/26"]);
        let problems: Vec<usize> = mesh.states.iter().map(|state| state.problems.len()).collect();
        assert_eq!(problems, [2, 1, 1, 1]);
        assert!(mesh.ends.is_empty());
    }

    #[test]
    fn numbers_of_tunnels_have_24_bits_and_differ() {
        let numbers: Vec<u32> = ["", "a", "b", "00000000", "ffffffff"].map(vni).to_vec();
        assert!(numbers.iter().all(|number| (0x000f_0000..0x0100_0000).contains(number)), "{numbers:?}");
        let distinct: std::collections::BTreeSet<&u32> = numbers.iter().collect();
        assert_eq!(distinct.len(), numbers.len());
    }
}

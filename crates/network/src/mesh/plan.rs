//! Which routes and entries lead to all peers. Pure: what the kernel says about the ways is told by the caller.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::{Backend, Carrier, Led, Own, Peer, PeerState, Reach, VXLAN_PORT, tunnel_mac, underlay};
use crate::family::{Family, Ranges};
use crate::host::overlap;
use crate::wireguard::PublicKey;

/// How the kernel would reach each of the peers' addresses, where it knows a way.
pub type Ways = BTreeMap<IpAddr, Way>;

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
        via: IpAddr,
    },
    /// At the tunnel's end of this address.
    Tunnel {
        /// The end.
        via: IpAddr,
    },
    /// Here, or nowhere: whoever asks for an address of it that no attachment has is told at once, and no packet goes round in circles.
    Own,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// To these addresses.
    pub block: IpNet,
    /// They are here.
    pub next: Next,
    /// The largest packet, where it is less than what the link takes.
    pub mtu: Option<u32>,
}

/// A far end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Inside, one of each family that is led through it.
    pub addresses: Vec<IpAddr>,
    /// Its hardware.
    pub mac: [u8; 6],
    /// The machine that has it.
    pub machine: IpAddr,
    /// What lies behind it.
    pub blocks: Vec<IpNet>,
    /// By which WireGuard knows it.
    pub key: Option<PublicKey>,
}

/// The near end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its kind.
    pub carrier: Carrier,
    /// Number.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Outside.
    pub local: IpAddr,
    /// Inside: the machine speaks to far attachments by this address, so that answers come through the tunnel too.
    /// One of each family.
    pub addresses: Vec<IpAddr>,
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
    pub fn neighbours(&self) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for state in &self.states {
            let routed = state.ways.iter().filter(|way| matches!(way.reach, Reach::Route { .. }));
            all.extend(routed.filter_map(|way| way.family.first(&state.peer.addresses)));
        }
        all
    }
}

/// Decides. Only blocks inside of `ranges` are believed: a peer must not be able to draw other traffic to itself.
pub fn plan(own: &Own, ranges: &Ranges, peers: &[Peer], ways: &Ways, backend: Backend) -> Mesh {
    let mut mesh = Mesh { routes: Vec::new(), tunnel: None, ends: Vec::new(), states: Vec::new() };
    for block in own.blocks.iter().map(IpNet::trunc) {
        mesh.routes.push(Route { block, next: Next::Own, mtu: None });
    }
    let mut tunnel_mtu = None;
    for peer in peers {
        let (blocks, problems) = believable(peer, ranges, &mesh.routes);
        let mut state = PeerState { peer: peer.clone(), ways: Vec::new(), problems };
        for family in ranges.families() {
            let blocks: Vec<IpNet> = blocks.iter().copied().filter(|block| Family::of_net(block) == family).collect();
            let hop = known(&mesh, peer, backend).and_then(|()| choose(own, peer, family, ways, backend));
            let hop = hop.and_then(|hop| hop.wide_enough(peer, family).map(|()| hop));
            let led = match hop {
                Ok(hop) => lead(&mut mesh, peer, &blocks, &hop, &mut tunnel_mtu),
                Err(problem) => {
                    if !state.problems.contains(&problem) {
                        state.problems.push(problem);
                    }
                    (Reach::Nowhere, 0)
                }
            };
            state.ways.push(Led { family, reach: led.0, mtu: led.1 });
        }
        mesh.states.push(state);
    }
    // The tunnel takes what the widest of its paths takes; the routes say where it is less.
    for route in mesh.routes.iter_mut().filter(|route| matches!(route.next, Next::Tunnel { .. })) {
        route.mtu = route.mtu.filter(|mtu| Some(*mtu) < tunnel_mtu);
    }
    mesh.tunnel = tunnel_mtu.and_then(|mtu| near_end(own, ranges, backend.carrier(), mtu));
    mesh
}

/// The way to take, and the machine's address to which it leads.
enum Hop<'a> {
    Link(&'a Way, IpAddr),
    Tunnel(Carrier, &'a Way, IpAddr),
}

impl Hop<'_> {
    /// The largest packet between attachments.
    fn mtu(&self, peer: &Peer) -> u32 {
        match self {
            Hop::Link(way, _) => path_mtu(peer, way),
            Hop::Tunnel(carrier, way, machine) => {
                path_mtu(peer, way).saturating_sub(carrier.overhead(Family::of(*machine)))
            }
        }
    }

    fn wide_enough(&self, peer: &Peer, family: Family) -> Result<(), String> {
        let (mtu, least) = (self.mtu(peer), family.least_mtu());
        if mtu >= least {
            return Ok(());
        }
        Err(format!("the way to {} takes packets up to {mtu}, and {family} needs {least}", peer.name))
    }
}

/// Routes to these blocks; how that is called, and the largest packet.
fn lead(mesh: &mut Mesh, peer: &Peer, blocks: &[IpNet], hop: &Hop<'_>, tunnel_mtu: &mut Option<u32>) -> (Reach, u32) {
    let mtu = hop.mtu(peer);
    match *hop {
        Hop::Tunnel(carrier, way, machine) => {
            *tunnel_mtu = (*tunnel_mtu).max(Some(mtu));
            through_tunnel(mesh, peer, machine, blocks, mtu);
            (carrier.reach(&way.link_name), mtu)
        }
        Hop::Link(way, via) => {
            let next = Next::Link { link: way.link, via };
            let narrower = (mtu < way.mtu).then_some(mtu);
            mesh.routes.extend(blocks.iter().map(|block| Route { block: *block, next, mtu: narrower }));
            (Reach::Route { link: way.link_name.clone() }, mtu)
        }
    }
}

/// What was seen to get there counts for more than what the kernel believes, which may be larger and is forgotten after minutes.
fn path_mtu(peer: &Peer, way: &Way) -> u32 {
    peer.path_mtu.map_or(way.mtu, |seen| seen.min(way.mtu))
}

/// By a plain route where both machines have an address of the family on a shared link, else through the tunnel.
fn choose<'a>(own: &Own, peer: &Peer, family: Family, ways: &'a Ways, backend: Backend) -> Result<Hop<'a>, String> {
    let name = &peer.name;
    let look_up = |address: IpAddr| {
        let way = ways.get(&address).ok_or_else(|| format!("this machine knows no way to {address} ({name})"))?;
        if way.is_local || own.addresses.contains(&address) {
            return Err(format!("{name} has the address {address} of this very machine"));
        }
        Ok(way)
    };
    let plain = family.first(&peer.addresses).map(|address| look_up(address).map(|way| (way, address)));
    if let (Some(Ok((way, address))), true) = (&plain, !backend.is_tunnel_only())
        && !way.has_gateway
    {
        return Ok(Hop::Link(way, *address));
    }
    if backend == Backend::Route {
        let (_, address) = plain.unwrap_or_else(|| Err(format!("{name} has no {family} address")))?;
        return Err(format!("{address} ({name}) is behind a router, and plain routes need a shared link"));
    }
    let local = underlay(&own.addresses).ok_or("this machine has no address")?;
    let outer = Family::of(local);
    let machine =
        outer.first(&peer.addresses).ok_or_else(|| format!("{name} has no {outer} address, as this machine"))?;
    let way = look_up(machine)?;
    if !own.blocks.iter().any(|block| Family::of_net(block) == family) {
        return Err(format!("the tunnel to {name} needs a block of this machine, and it has none yet"));
    }
    Ok(Hop::Tunnel(backend.carrier(), way, machine))
}

/// Whether the tunnel can tell a peer from all others.
fn known(mesh: &Mesh, peer: &Peer, backend: Backend) -> Result<(), String> {
    if backend.carrier() != Carrier::WireGuard {
        return Ok(());
    }
    let name = &peer.name;
    let key =
        peer.key.ok_or_else(|| format!("{name} has not said its WireGuard key: it runs with another --backend"))?;
    // Whoever says the key of another would draw what is meant for that one.
    let rival = mesh.states.iter().find(|state| state.peer.key == Some(key));
    rival.map_or(Ok(()), |rival| Err(format!("{name} says the WireGuard key of {}", rival.peer.name)))
}

/// The blocks of a peer that nobody else has, and what is wrong with the others.
fn believable(peer: &Peer, ranges: &Ranges, known: &[Route]) -> (Vec<IpNet>, Vec<String>) {
    let (mut blocks, mut problems) = (Vec::<IpNet>::new(), Vec::new());
    for block in peer.blocks.iter().map(IpNet::trunc) {
        let rival = known.iter().map(|route| route.block).chain(blocks.iter().copied()).find(|it| overlap(it, &block));
        match rival {
            _ if !ranges.contains(&block) => {
                problems.push(format!("{block} of {} is not within the cluster's range {ranges}", peer.name));
            }
            Some(rival) => {
                problems.push(format!("{block} of {} overlaps {rival}, which another machine has", peer.name))
            }
            None => blocks.push(block),
        }
    }
    (blocks, problems)
}

fn through_tunnel(mesh: &mut Mesh, peer: &Peer, machine: IpAddr, blocks: &[IpNet], mtu: u32) {
    let Some(family) = blocks.first().map(Family::of_net) else {
        return;
    };
    // Its first block names its end there as well, whatever is thought of the block here.
    let Some(via) = end_address(family, &peer.blocks, machine) else {
        return;
    };
    match mesh.ends.iter_mut().find(|end| end.machine == machine) {
        Some(end) => {
            end.addresses.push(via);
            end.blocks.extend(blocks);
        }
        None => {
            let (addresses, mac, blocks) = (vec![via], tunnel_mac(machine), blocks.to_vec());
            mesh.ends.push(End { addresses, mac, machine, blocks, key: peer.key });
        }
    }
    let next = Next::Tunnel { via };
    mesh.routes.extend(blocks.iter().map(|block| Route { block: *block, next, mtu: Some(mtu) }));
}

/// What a far end is called in routes. For IPv6 that is an address of the link: of others the kernel would look up whether they are there,
/// and what it finds is the very route that is to be replaced.
fn end_address(family: Family, blocks: &[IpNet], machine: IpAddr) -> Option<IpAddr> {
    match family {
        Family::V4 => first_of(family, blocks),
        Family::V6 => {
            let [a, b, c, d, e, f] = tunnel_mac(machine).map(u16::from);
            let [high, middle, low] = [a << 8 | b, c << 8 | d, e << 8 | f];
            Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, high, middle, low).into())
        }
    }
}

/// The first address of the first block of a family, which no pool gives away.
fn first_of(family: Family, blocks: &[IpNet]) -> Option<IpAddr> {
    blocks.iter().find(|block| Family::of_net(block) == family).map(IpNet::network)
}

fn near_end(own: &Own, ranges: &Ranges, carrier: Carrier, mtu: u32) -> Option<Tunnel> {
    let local = underlay(&own.addresses)?;
    // On a narrower link the kernel refuses an address.
    let families = ranges.families().filter(|family| mtu >= family.least_mtu());
    let addresses = families.filter_map(|family| first_of(family, &own.blocks)).collect();
    Some(Tunnel { carrier, vni: own.vni, port: VXLAN_PORT, local, addresses, mac: tunnel_mac(local), mtu })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::vni;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a block")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn own() -> Own {
        Own { addresses: vec![ip("192.0.2.1")], blocks: vec![net("10.42.0.0/26")], vni: vni("a"), secret: None }
    }

    fn peer(number: u8, blocks: &[&str]) -> Peer {
        Peer {
            name: format!("n{number}"),
            addresses: vec![[192, 0, 2, number].into()],
            blocks: blocks.iter().map(|block| net(block)).collect(),
            path_mtu: None,
            key: None,
        }
    }

    fn way(has_gateway: bool) -> Option<Way> {
        Some(Way { link: 7, link_name: "eth0".into(), has_gateway, is_local: false, mtu: 1500 })
    }

    fn planned(peers: &[Peer], ways: &[Option<Way>], backend: Backend) -> Mesh {
        let ways = peers.iter().zip(ways).filter_map(|(peer, way)| Some((peer.addresses[0], way.clone()?))).collect();
        plan(&own(), &net("10.42.0.0/16").into(), peers, &ways, backend)
    }

    #[test]
    fn both_kinds_at_once() {
        let peers = [peer(2, &["10.42.0.64/26", "10.42.1.0/26"]), peer(3, &["10.42.0.128/26"])];
        let mesh = planned(&peers, &[way(false), way(true)], Backend::Auto);
        let routes: Vec<(String, Next)> =
            mesh.routes.iter().map(|route| (route.block.to_string(), route.next)).collect();
        let (direct, end) = (Next::Link { link: 7, via: peers[0].addresses[0] }, ip("10.42.0.128"));
        assert_eq!(
            routes,
            [
                ("10.42.0.0/26".into(), Next::Own),
                ("10.42.0.64/26".into(), direct),
                ("10.42.1.0/26".into(), direct),
                ("10.42.0.128/26".into(), Next::Tunnel { via: end }),
            ]
        );
        let tunnel = mesh.tunnel.clone().expect("a tunnel");
        assert_eq!((tunnel.addresses, tunnel.mtu, tunnel.local), (vec![ip("10.42.0.0")], 1450, own().addresses[0]));
        let (mac, blocks, machine) = ([0x0a, 0x59, 192, 0, 2, 3], peers[1].blocks.clone(), peers[1].addresses[0]);
        assert_eq!(mesh.ends, [End { addresses: vec![end], mac, machine, blocks, key: None }]);
        assert_eq!(mesh.neighbours(), peers[0].addresses);
        assert_eq!((mesh.states[0].ways[0].mtu, mesh.states[1].ways[0].mtu), (1500, 1450));
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
        let told: Vec<u32> = mesh.states.iter().map(|state| state.ways[0].mtu).collect();
        assert_eq!((told.as_slice(), mesh.tunnel.expect("a tunnel").mtu), ([1400, 1350, 1450, 1500].as_slice(), 1450));
    }

    #[test]
    fn a_backend_can_be_forced() {
        let peers = [peer(2, &["10.42.0.64/26"])];
        let tunnelled = planned(&peers, &[way(false)], Backend::Vxlan);
        assert_eq!(tunnelled.states[0].ways[0].reach, Reach::Vxlan { link: "eth0".into() });
        let refused = planned(&peers, &[way(true)], Backend::Route);
        assert_eq!((&refused.states[0].ways[0].reach, refused.routes.len()), (&Reach::Nowhere, 1));
        assert!(refused.states[0].problems[0].contains("behind a router"));
        assert!(planned(&peers, &[way(false)], Backend::Auto).tunnel.is_none());
    }

    #[test]
    fn by_wireguard_everybody_is_known_by_an_own_key() {
        let keyed = |number: u8, key: u8, blocks: &[&str]| {
            // 43 characters and the padding are 32 bytes.
            let text = format!("{}=", char::from(key).to_string().repeat(43));
            Peer { key: Some(text.parse().expect("a key")), ..peer(number, blocks) }
        };
        let peers = [
            keyed(2, b'A', &["10.42.0.64/26", "10.43.0.0/26"]),
            keyed(3, b'E', &["10.42.0.128/26"]),
            peer(4, &["10.42.0.192/26"]),
            keyed(5, b'E', &["10.42.1.0/26"]),
        ];
        let mesh = planned(&peers, &[way(false), way(true), way(false), way(false)], Backend::WireGuard);
        let reached: Vec<&Reach> = mesh.states.iter().map(|state| &state.ways[0].reach).collect();
        let wireguard = Reach::WireGuard { link: "eth0".into() };
        assert_eq!(reached, [&wireguard, &wireguard, &Reach::Nowhere, &Reach::Nowhere]);
        assert!(mesh.states[2].problems[0].contains("n4 has not said its WireGuard key"));
        assert!(mesh.states[3].problems[0].contains("n5 says the WireGuard key of n3"));
        // What is not believed is not accepted from there, either.
        assert_eq!(mesh.ends[0].blocks, [net("10.42.0.64/26")]);
        assert_eq!((mesh.ends.len(), mesh.ends[1].key), (2, peers[1].key));
        let tunnel = mesh.tunnel.expect("a tunnel");
        assert_eq!((tunnel.carrier, tunnel.mtu), (Carrier::WireGuard, 1440));
        assert!(mesh.routes.iter().skip(1).all(|route| matches!(route.next, Next::Tunnel { .. })));
    }

    #[test]
    fn wireguard_leads_both_families_to_one_end() {
        let own = Own {
            addresses: vec![ip("2001:db8::1")],
            blocks: vec![net("10.42.0.0/26"), net("fd42::/122")],
            vni: vni("a"),
            secret: None,
        };
        let key = Some(format!("{}=", "A".repeat(43)).parse().expect("a key"));
        let addresses = vec![ip("2001:db8::2")];
        let peer = Peer { addresses, key, ..peer(2, &["10.42.0.64/26", "fd42::40/122"]) };
        let ways = [(ip("2001:db8::2"), way(false).expect("a way"))].into();
        let ranges: Ranges = "10.42.0.0/16,fd42::/112".parse().expect("ranges");
        let mesh = plan(&own, &ranges, std::slice::from_ref(&peer), &ways, Backend::WireGuard);
        let mtus: Vec<u32> = mesh.states[0].ways.iter().map(|way| way.mtu).collect();
        assert_eq!(mtus, [1420, 1420]);
        assert_eq!((mesh.ends.len(), &mesh.ends[0].blocks), (1, &peer.blocks));
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
    fn each_family_takes_its_own_way() {
        let both = |number: u8, blocks: &[&str]| {
            let mut peer = peer(number, blocks);
            peer.addresses.push(ip(&format!("fd00:1::{number}")));
            peer
        };
        let own = Own {
            addresses: vec![ip("192.0.2.1"), ip("fd00:1::1")],
            blocks: vec![net("10.42.0.0/26"), net("fd42::/122")],
            ..own()
        };
        let ranges: Ranges = "10.42.0.0/16,fd42::/56".parse().expect("ranges");
        let peers = [
            both(2, &["10.42.0.64/26", "fd42::40/122"]),
            both(3, &["10.42.0.128/26", "fd42::80/122"]),
            // Only IPv4: what is of IPv6 goes through the tunnel, though the link is shared.
            peer(4, &["10.42.0.192/26", "fd42::c0/122"]),
        ];
        let ways: Ways = [("192.0.2.2", false), ("fd00:1::2", false), ("192.0.2.3", true), ("fd00:1::3", true)]
            .into_iter()
            .chain([("192.0.2.4", false)])
            .filter_map(|(address, has_gateway)| Some((ip(address), way(has_gateway)?)))
            .collect();
        let mesh = plan(&own, &ranges, &peers, &ways, Backend::Auto);
        let nexts: Vec<(String, Next)> =
            mesh.routes[2..].iter().map(|route| (route.block.to_string(), route.next)).collect();
        let link = |via| Next::Link { link: 7, via: ip(via) };
        let tunnel = |via| Next::Tunnel { via: ip(via) };
        assert_eq!(
            nexts,
            [
                ("10.42.0.64/26".into(), link("192.0.2.2")),
                ("fd42::40/122".into(), link("fd00:1::2")),
                ("10.42.0.128/26".into(), tunnel("10.42.0.128")),
                ("fd42::80/122".into(), tunnel("fe80::a59:c000:203")),
                ("10.42.0.192/26".into(), link("192.0.2.4")),
                ("fd42::c0/122".into(), tunnel("fe80::a59:c000:204")),
            ]
        );
        assert_eq!(mesh.ends[0].addresses, [ip("10.42.0.128"), ip("fe80::a59:c000:203")]);
        assert_eq!(mesh.neighbours(), ["192.0.2.2", "fd00:1::2", "192.0.2.4"].map(ip));
        let told = mesh.tunnel.clone().expect("a tunnel");
        assert_eq!((told.local, told.addresses), (ip("192.0.2.1"), vec![ip("10.42.0.0"), ip("fd42::")]));
        assert!(mesh.states.iter().all(|state| state.problems.is_empty()));
    }

    #[test]
    fn a_path_too_narrow_for_one_family_serves_the_other() {
        let own = Own { blocks: vec![net("10.42.0.0/26"), net("fd42::/122")], ..own() };
        let narrow = Peer { path_mtu: Some(1300), ..peer(2, &["10.42.0.64/26", "fd42::40/122"]) };
        let ranges: Ranges = "10.42.0.0/16,fd42::/56".parse().expect("ranges");
        let ways: Ways = [(ip("192.0.2.2"), way(true).expect("a way"))].into();
        let mesh = plan(&own, &ranges, &[narrow], &ways, Backend::Auto);
        let mtus: Vec<u32> = mesh.states[0].ways.iter().map(|way| way.mtu).collect();
        assert_eq!((mtus, mesh.tunnel.map(|tunnel| tunnel.addresses)), (vec![1250, 0], Some(vec![ip("10.42.0.0")])));
        assert_eq!(mesh.states[0].problems, ["the way to n2 takes packets up to 1250, and IPv6 needs 1280"]);
    }

    #[test]
    fn without_the_older_family_the_tunnel_costs_more() {
        let own =
            Own { addresses: vec![ip("fd00:1::1")], blocks: vec![net("fd42::/122")], vni: vni("a"), secret: None };
        let far = Peer { addresses: vec![ip("fd00:2::2")], ..peer(2, &["fd42::40/122"]) };
        let old = peer(3, &["fd42::80/122"]);
        let ways = [(ip("fd00:2::2"), way(true).expect("a way"))].into();
        let mesh = plan(&own, &net("fd42::/56").into(), &[far, old], &ways, Backend::Auto);
        assert_eq!(mesh.tunnel.map(|tunnel| (tunnel.local, tunnel.mtu)), Some((ip("fd00:1::1"), 1430)));
        assert!(mesh.states[1].is_lost());
        assert_eq!(mesh.states[1].problems, ["n3 has no IPv6 address, as this machine"]);
    }

    #[test]
    fn numbers_of_tunnels_have_24_bits_and_differ() {
        let numbers: Vec<u32> = ["", "a", "b", "00000000", "ffffffff"].map(vni).to_vec();
        assert!(numbers.iter().all(|number| (0x000f_0000..0x0100_0000).contains(number)), "{numbers:?}");
        let distinct: std::collections::BTreeSet<&u32> = numbers.iter().collect();
        assert_eq!(distinct.len(), numbers.len());
    }
}

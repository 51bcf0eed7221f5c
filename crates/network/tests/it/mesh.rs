//! Three machines on one link and two behind a router, each with a block and an attachment: everybody reaches everybody.

use std::net::{IpAddr, TcpListener};

use ipnet::IpNet;
use network::mesh::vni;
use network::wireguard::{self, PublicKey, SecretKey};
use network::{Backend, Config, Host, Own, Peer, PeerState, Reach, Socket};
use testkit::lab::{self, Lab, Namespace, Wire};

use crate::lab as sockets;

/// A machine with one attachment.
pub(crate) struct Node {
    pub(crate) machine: lab::Machine,
    pub(crate) host: Host,
    pub(crate) own: Own,
    key: Option<PublicKey>,
    name: String,
    pub(crate) pod: Namespace,
    pub(crate) pod_address: IpAddr,
}

struct Cluster {
    nodes: Vec<Node>,
    lab: Lab,
}

impl Node {
    pub(crate) fn new(wire: &Wire, number: u8) -> Node {
        let machine = wire.machine().expect("a machine");
        Node::on(machine, "plt", "10.42", number)
    }

    pub(crate) fn on(machine: lab::Machine, prefix: &str, range: &str, number: u8) -> Node {
        let config = Config {
            prefix: prefix.into(),
            table: format!("podling-{prefix}"),
            ranges: format!("{range}.0.0/16").parse().expect("a range"),
        };
        let host = Host::open(config).expect("open");
        let block: IpNet = format!("{range}.{number}.64/26").parse().expect("a block");
        let (addresses, blocks) = (vec![machine.address().into()], vec![block]);
        let own = Own { addresses, blocks, vni: vni(prefix), secret: None };
        let pod_address = nth(&block, 1);
        let pod = Namespace::new().expect("a namespace");
        let node = Node { machine, host, own, key: None, name: format!("n{number}"), pod, pod_address };
        node.inside(|| node.host.apply(&[]).expect("apply"));
        node
    }

    /// A new identity.
    fn draw_key(&mut self) {
        let secret = SecretKey::random().expect("a key");
        self.key = Some(self.inside(|| self.host.wireguard_key(&secret)).expect("WireGuard"));
        self.own.secret = Some(secret);
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.machine.namespace().inside(work)
    }

    /// The attachment's MTU follows the ways there are, so this comes after them.
    pub(crate) fn attach(&self) {
        let (outer, attachment) = self.inside(|| {
            let attachment = self.host.attachment(&self.name, &[self.pod_address]).expect("attachment");
            (Socket::route().expect("socket"), attachment)
        });
        self.pod.inside(|| network::attach::perform(&outer, &attachment).expect("attach"));
        let listener = self.pod.inside(|| TcpListener::bind("0.0.0.0:80").expect("bind"));
        sockets::answer(listener);
        let listener = self.inside(|| TcpListener::bind("0.0.0.0:81").expect("bind"));
        sockets::answer(listener);
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer {
            name: self.name.clone(),
            addresses: self.own.addresses.clone(),
            blocks: self.own.blocks.clone(),
            path_mtu: None,
            key: self.key,
        }
    }

    pub(crate) fn mesh(&self, peers: &[Peer], backend: Backend) -> Vec<PeerState> {
        self.inside(|| self.host.mesh(&self.own, peers, backend).expect("mesh"))
    }

    pub(crate) fn run(&self, line: &str) -> String {
        self.machine.namespace().run(line).expect("it runs")
    }

    pub(crate) fn ask(&self, address: IpAddr, port: u16) -> String {
        self.pod.inside(|| sockets::ask(&format!("{address}:{port}"))).expect("an answer")
    }
}

impl Cluster {
    fn new(backend: Backend) -> Cluster {
        let mut lab = Lab::new().expect("a lab");
        let (here, there) = (lab.wire().expect("a wire"), lab.wire().expect("a wire"));
        let nodes = (0..5).map(|number| Node::new(if number < 3 { &here } else { &there }, number)).collect();
        let mut cluster = Cluster { nodes, lab };
        if backend == Backend::WireGuard {
            cluster.nodes.iter_mut().for_each(Node::draw_key);
        }
        cluster.mesh(backend);
        cluster.nodes.iter().for_each(Node::attach);
        cluster
    }

    fn peers_of(&self, node: &Node) -> Vec<Peer> {
        self.nodes.iter().filter(|other| other.name != node.name).map(Node::peer).collect()
    }

    fn mesh(&self, backend: Backend) {
        for node in &self.nodes {
            for state in node.mesh(&self.peers_of(node), backend) {
                assert!(state.problems.is_empty(), "{state:?}");
            }
        }
    }

    fn everyone_reaches_everyone(&self) {
        for from in &self.nodes {
            for to in &self.nodes {
                assert_eq!(from.ask(to.pod_address, 80), from.pod_address.to_string(), "{} to {}", from.name, to.name);
                from.inside(|| sockets::ask(&format!("{}:80", to.pod_address))).expect("machine to attachment");
            }
        }
    }
}

/// The address of this number in a block.
fn nth(block: &IpNet, number: usize) -> IpAddr {
    let mut hosts = match block {
        IpNet::V4(block) => block.hosts().map(IpAddr::from).take(100).collect::<Vec<_>>(),
        IpNet::V6(block) => block.hosts().map(IpAddr::from).skip(1).take(100).collect(),
    };
    hosts.swap_remove(number - 1)
}

/// Whether to go on.
pub(crate) fn is_possible() -> bool {
    let obstacle = lab::obstacle();
    if let Some(reason) = &obstacle {
        eprintln!("SKIPPED: {reason}");
    }
    obstacle.is_none()
}

#[test]
fn routes_on_a_link_and_a_tunnel_across_a_router() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::new(Backend::Auto);
    cluster.everyone_reaches_everyone();
    let [first, second, .., last] = cluster.nodes.as_slice() else { panic!("five nodes") };
    // Machines on the link see who speaks; across a router the machine speaks for its own, since routers may know its address only.
    assert_eq!(first.ask(second.own.addresses[0], 81), first.pod_address.to_string());
    assert_eq!(first.ask(last.own.addresses[0], 81), first.own.addresses[0].to_string());
    let routes = first.run("ip route");
    let direct = format!("{} via {} dev eth0", second.own.blocks[0], second.own.addresses[0]);
    assert!(routes.contains(&direct), "{direct} is not in\n{routes}");
    let tunnelled = format!("{} via {} dev pltvx", last.own.blocks[0], last.own.blocks[0].network());
    assert!(routes.contains(&tunnelled), "{tunnelled} is not in\n{routes}");
    assert!(routes.contains(&format!("unreachable {}", first.own.blocks[0])), "{routes}");
    let nobody = nth(&first.own.blocks[0], 9);
    let refused = second.pod.inside(|| sockets::ask(&format!("{nobody}:80"))).expect_err("nobody has that address");
    assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable);
}

#[test]
fn a_tunnel_to_everybody() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::new(Backend::Vxlan);
    cluster.everyone_reaches_everyone();
    let routes = cluster.nodes[0].run("ip route");
    assert!(!routes.contains("via 198.18.1.11"), "{routes}");
    assert_eq!(cluster.nodes[0].run("bridge fdb show dev pltvx").lines().count(), 4);
    // Another kind of way while attachments live.
    cluster.mesh(Backend::Auto);
    cluster.everyone_reaches_everyone();
    assert_eq!(cluster.nodes[0].run("bridge fdb show dev pltvx").lines().count(), 2);
}

#[test]
fn an_encrypted_tunnel_to_everybody() {
    if !is_possible() {
        return;
    }
    if !wireguard::is_there().expect("the kernel says so") {
        eprintln!("SKIPPED: the kernel has no WireGuard");
        return;
    }
    let mut cluster = Cluster::new(Backend::WireGuard);
    cluster.everyone_reaches_everyone();
    let first = &cluster.nodes[0];
    let (routes, links) = (first.run("ip route"), first.run("ip -d link show pltwg"));
    assert!(!routes.contains("via 198.18.1.11") && !routes.contains("pltvx"), "{routes}");
    assert!(links.contains("wireguard") && links.contains("mtu 1440"), "{links}");
    let inside = first.pod.run("ip link show eth0").expect("a link");
    assert!(inside.contains("mtu 1440"), "{inside}");
    // The same again changes nothing.
    let routes = first.inside(|| first.host.watch_routes().expect("a watch"));
    cluster.mesh(Backend::WireGuard);
    assert!(!routes.drain().expect("it hears"), "what is as it should be makes noise");
    // Who is told to go is not listened to any more, though he would speak.
    let without_last: Vec<Peer> = cluster.peers_of(&cluster.nodes[0]).into_iter().take(3).collect();
    cluster.nodes[0].mesh(&without_last, Backend::WireGuard);
    let (first, last) = (&cluster.nodes[0], &cluster.nodes[4]);
    assert_eq!(first.ask(cluster.nodes[1].pod_address, 80), first.pod_address.to_string());
    let asked = last.pod.inside(|| {
        let address = (first.pod_address, 80).into();
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(1)).is_ok()
    });
    assert!(!asked);
    // Another identity.
    let former = cluster.nodes[4].key;
    cluster.nodes[4].draw_key();
    assert_ne!(cluster.nodes[4].key, former);
    cluster.mesh(Backend::WireGuard);
    cluster.everyone_reaches_everyone();
    // Another kind of way while attachments live, and back.
    for (backend, link, other) in [(Backend::Auto, "pltvx", "pltwg"), (Backend::WireGuard, "pltwg", "pltvx")] {
        cluster.mesh(backend);
        cluster.everyone_reaches_everyone();
        let links = cluster.nodes[0].run("ip -br link");
        assert!(links.contains(link) && !links.contains(other), "{links}");
    }
    let first = &cluster.nodes[0];
    first.inside(|| first.host.remove().expect("remove"));
    assert!(!first.run("ip -br link").contains("plt"));
}

#[test]
fn who_vanishes_leaves_no_route_and_the_last_leaves_nothing() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::new().expect("a lab");
    let (here, there) = (lab.wire().expect("a wire"), lab.wire().expect("a wire"));
    let (a, b, c) = (Node::new(&here, 0), Node::new(&here, 1), Node::new(&there, 2));
    a.inside(|| a.host.remove().expect("remove"));
    let look = || (a.run("ip -o link"), a.run("ip route show table all"), a.run("nft list ruleset"));
    let before = look();
    a.run("ip route add 10.42.9.0/26 via 198.18.1.1");
    a.inside(|| a.host.apply(&[]).expect("apply"));
    a.mesh(&[b.peer(), c.peer()], Backend::Auto);
    let full = look();
    a.mesh(&[c.peer(), b.peer()], Backend::Auto);
    assert_eq!(look(), full, "the same again changes something");
    a.mesh(&[b.peer()], Backend::Auto);
    let routes = a.run("ip route");
    assert!(
        !routes.contains("pltvx") && routes.contains("10.42.1.64/26") && routes.contains("10.42.9.0/26"),
        "{routes}"
    );
    // A second block, and another address.
    let moved = Peer { addresses: vec![[198, 18, 1, 77].into()], ..b.peer() };
    let grown = Peer { blocks: vec![moved.blocks[0], "10.42.7.0/26".parse().expect("a block")], ..moved };
    a.mesh(std::slice::from_ref(&grown), Backend::Auto);
    let routes = a.run("ip route");
    assert!(
        routes.contains("10.42.1.64/26 via 198.18.1.77") && routes.contains("10.42.7.0/26 via 198.18.1.77"),
        "{routes}"
    );
    // A route that is another's.
    let rival = Peer { blocks: vec!["10.42.9.0/26".parse().expect("a block")], ..grown };
    let states = a.mesh(&[rival], Backend::Auto);
    assert!(states[0].problems[0].contains("another program has a route to 10.42.9.0/26"), "{states:?}");
    a.inside(|| a.host.remove().expect("remove"));
    a.run("ip route del 10.42.9.0/26");
    assert_eq!(look(), before);
}

#[test]
fn two_clusters_on_the_same_machines() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::new().expect("a lab");
    let (here, there) = (lab.wire().expect("a wire"), lab.wire().expect("a wire"));
    let (a, b) = (Node::new(&here, 0), Node::new(&there, 1));
    let twin = |of: &Node, number| Node::on(of.machine.clone(), "qlt", "10.43", number);
    let (c, d) = (twin(&a, 0), twin(&b, 1));
    for (one, other) in [(&a, &b), (&b, &a), (&c, &d), (&d, &c)] {
        assert!(matches!(one.mesh(&[other.peer()], Backend::Auto)[0].ways[0].reach, Reach::Vxlan { .. }));
    }
    a.attach();
    b.attach();
    // Port 81 of the machine is taken by the first cluster's test.
    for node in [&c, &d] {
        let (outer, attachment) = node.inside(|| {
            (Socket::route().expect("socket"), node.host.attachment("x", &[node.pod_address]).expect("attachment"))
        });
        node.pod.inside(|| network::attach::perform(&outer, &attachment).expect("attach"));
        sockets::answer(node.pod.inside(|| TcpListener::bind("0.0.0.0:80").expect("bind")));
    }
    let check = |from: &Node, to: &Node| assert_eq!(from.ask(to.pod_address, 80), from.pod_address.to_string());
    check(&a, &b);
    check(&c, &d);
    a.inside(|| a.host.remove().expect("remove"));
    check(&d, &c);
    assert!(!a.run("ip route").contains("10.42."));
}

#[test]
fn a_narrow_backbone_swallows_no_large_packets() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::new(Backend::Auto);
    cluster.lab.set_backbone_mtu(1400).expect("narrow");
    let (first, last) = (&cluster.nodes[0], &cluster.nodes[4]);
    let listener = last.pod.inside(|| TcpListener::bind("0.0.0.0:90").expect("bind"));
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("time-out");
        std::io::copy(&mut stream, &mut std::io::sink()).expect("all of it")
    });
    let goal = format!("{}:90", last.pod_address).parse().expect("an address");
    first.pod.inside(|| {
        let patience = std::time::Duration::from_secs(10);
        let mut stream = std::net::TcpStream::connect_timeout(&goal, patience).expect("connect");
        stream.set_write_timeout(Some(patience)).expect("time-out");
        std::io::Write::write_all(&mut stream, &vec![7; 8 << 20]).expect("write");
    });
    assert_eq!(receiver.join().expect("received"), 8 << 20);
}

#[test]
fn what_a_path_takes_is_found_and_told() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::new(Backend::Auto);
    cluster.lab.set_backbone_mtu(1400).expect("narrow");
    let [first, second, third, fourth, last] = cluster.nodes.as_slice() else { panic!("five nodes") };
    let nobody = IpAddr::from([198, 18, 1, 200]);
    let all = [second, last].map(|node| node.own.addresses[0]);
    let look = || first.inside(|| network::probe::largest(&[all[0], all[1], nobody]).expect("look"));
    assert_eq!(look(), [Some(1500), Some(1400), None]);
    // Also where nobody tells who sends too much.
    first.machine.wire().router().run("nft add table ip quiet").expect("a table");
    let chain = "nft add chain ip quiet out { type filter hook output priority 0 ; }";
    first.machine.wire().router().run(chain).expect("a chain");
    let rule = "nft add rule ip quiet out icmp type destination-unreachable drop";
    first.machine.wire().router().run(rule).expect("a rule");
    first.run("ip route flush cache");
    assert_eq!(look()[1], Some(1400));
    let quality = first.inside(|| network::probe::quality(&[all[0], nobody]).expect("look"));
    assert!(quality[0].latency_us.is_some() && quality[0].lost == 0, "{quality:?}");
    assert!(quality[1].latency_us.is_none() && quality[1].lost == quality[1].sent, "{quality:?}");

    // What was found is on the routes, and a sender is told by its own machine.
    let mut peers = cluster.peers_of(first);
    for peer in peers.iter_mut().filter(|peer| peer.name != second.name && peer.name != third.name) {
        peer.path_mtu = Some(1400);
    }
    let states = first.mesh(&peers, Backend::Auto);
    assert_eq!(states.iter().map(|state| state.ways[0].mtu).collect::<Vec<_>>(), [1500, 1500, 1350, 1350]);
    let full = first.run("ip route");
    assert_eq!(first.mesh(&peers, Backend::Auto).len(), 4);
    assert_eq!(first.run("ip route"), full, "the same again changes something");
    peers.iter_mut().filter(|peer| peer.name == fourth.name).for_each(|peer| peer.path_mtu = Some(1450));
    first.mesh(&peers, Backend::Auto);
    let routes = first.run("ip route");
    let narrow = |node: &Node| {
        routes.lines().any(|line| line.contains(&node.own.blocks[0].to_string()) && line.contains("mtu 1350"))
    };
    assert!(narrow(last) && !narrow(fourth), "{routes}");
    let largest = first.pod.inside(|| network::probe::largest(&[last.pod_address]).expect("look"));
    assert_eq!(largest, [Some(1350)]);
}

#[test]
fn who_else_drops_what_is_forwarded_is_found() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::new().expect("a lab");
    let node = Node::new(&lab.wire().expect("a wire"), 0);
    let look = || node.inside(|| node.host.obstacles().expect("look"));
    assert!(look().is_empty());
    node.run("nft add table ip filter");
    node.run("nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
    let found = look();
    assert_eq!((found.len(), found[0].table.as_str(), found[0].chain.as_str()), (1, "filter", "FORWARD"));
    // The cure cures.
    for rule in &found[0].cure {
        node.run(rule);
    }
    assert!(look().is_empty());
}

#[test]
fn what_others_take_away_is_heard_and_put_back() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::new().expect("a lab");
    let (here, there) = (lab.wire().expect("a wire"), lab.wire().expect("a wire"));
    let (a, b, c) = (Node::new(&here, 0), Node::new(&here, 1), Node::new(&there, 2));
    let peers = [b.peer(), c.peer()];
    let lead = || a.mesh(&peers, Backend::Auto);
    lead();
    let (rules, routes) =
        a.inside(|| (a.host.watch_rules().expect("a watch"), a.host.watch_routes().expect("a watch")));
    let heard = |monitor: &network::Monitor| monitor.drain().expect("it hears");
    let look = || (a.run("ip route"), a.run("nft list table ip podling-plt"), a.run("ip -o link show pltvx"));
    let full = look();

    // What we do ourselves needs no putting right, and does not go on for ever.
    a.inside(|| a.host.apply(&[]).expect("apply"));
    assert!(heard(&rules) && !a.inside(|| a.host.repair().expect("repair")) && !heard(&rules));
    lead();
    assert!(!heard(&routes), "what is as it should be makes noise");
    a.attach();
    assert!(!heard(&routes), "attachments make noise");

    for flush in ["nft flush ruleset", "nft delete table ip podling-plt", "nft flush chain ip podling-plt postrouting"]
    {
        a.run(flush);
        assert!(heard(&rules), "{flush}");
        assert!(a.inside(|| a.host.repair().expect("repair")), "{flush}");
        assert_eq!(look().1, full.1, "{flush}");
        assert!(heard(&rules) && !a.inside(|| a.host.repair().expect("repair")), "{flush}");
    }
    a.run("nft add table ip another");
    a.run("nft delete table ip another");
    assert!(!heard(&rules));

    let route = format!("ip route del {}", b.own.blocks[0]);
    for harm in [route.as_str(), "ip link del pltvx", "ip link set pltvx down"] {
        a.run(harm);
        assert!(heard(&routes), "{harm}");
        lead();
        assert_eq!(look().0.lines().filter(|line| line.starts_with("10.42")).count(), 3, "{harm}: {}", look().0);
        assert!(look().2.contains("UP"), "{harm}");
        routes.drain().expect("it hears");
        lead();
        assert!(!heard(&routes), "{harm}: it goes on for ever");
    }
    // A cable that is pulled takes the routes with it without a word about them.
    a.run("ip link set eth0 down");
    assert!(heard(&routes));
    a.run("ip link set eth0 up");
    a.run("ip route replace default via 198.18.1.1");
    assert!(heard(&routes));
    lead();
    b.mesh(&[a.peer()], Backend::Auto);
    assert!(a.run("ip route").contains(&format!("{} via {} dev eth0", b.own.blocks[0], b.own.addresses[0])));
}

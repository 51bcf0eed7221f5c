//! Attachments with addresses of both families, on one machine and between machines; and of IPv6 alone.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use network::mesh::vni;
use network::{Backend, Config, Host, HostPort, Own, Peer, PeerState, Protocol, Ranges, Reach, Socket};
use testkit::lab::{self, Families, Lab, Namespace, Wire};

use crate::lab::{Machine, answer, ask, isolated, run};
use crate::mesh::is_possible;

pub(crate) const BOTH: &str = "10.77.0.0/16,fd77::/56";

fn host() -> Host {
    let ranges = BOTH.parse().expect("ranges");
    Host::open(Config { prefix: "plt".into(), table: "podling-test".into(), ranges }).expect("open")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// This machine with an uplink, and one outside of it that knows no way to the attachments.
fn with_outside() -> Machine {
    let outside = Machine::new();
    run("ip link set lo up");
    run(&format!("ip link add up0 type veth peer name far0 netns /proc/{}/ns/net", outside.pid()));
    run("ip addr add 192.0.2.1/24 dev up0 && ip addr add fd00::1/64 dev up0 nodad && ip link set up0 up");
    run("ip route add default via 192.0.2.2");
    outside.run("ip addr add 192.0.2.2/24 dev far0");
    outside.run("ip addr add fd00::2/64 dev far0 nodad");
    outside.run("ip link set far0 up");
    run("ip -6 route add default via fd00::2 && ip link show up0");
    outside
}

fn attach(host: &Host, number: u8) -> Machine {
    let addresses = [ip(&format!("10.77.0.{number}")), ip(&format!("fd77::{number}"))];
    Machine::attached(&host.attachment(&number.to_string(), &addresses).expect("attachment"))
}

/// Answers at each of its addresses.
fn serve(machine: &Machine, port: u16) {
    answer(machine.inside(move || TcpListener::bind(("::", port)).expect("bind")));
}

#[test]
fn everyone_reaches_everyone_by_both_families() {
    isolated("dual::everyone_reaches_everyone_by_both_families", || {
        let outside = with_outside();
        let host = host();
        host.apply(&[]).expect("apply");
        let (a, b) = (attach(&host, 5), attach(&host, 6));
        serve(&a, 80);
        serve(&outside, 80);
        answer(TcpListener::bind("[::]:81").expect("bind"));
        assert_eq!(b.ask("[fd77::5]:80").expect("pod to pod"), "fd77::6");
        assert_eq!(b.ask("10.77.0.5:80").expect("pod to pod"), "::ffff:10.77.0.6");
        assert_eq!(ask("[fd77::5]:80").expect("node to pod"), "fd00::1");
        assert_eq!(b.ask("[fd00::1]:81").expect("pod to node"), "fd77::6");
        assert_eq!(b.ask("[fd00::2]:80").expect("pod to outside"), "fd00::1");
        assert_eq!(a.ask("[fd77::5]:80").expect("pod to itself"), "fd77::5");
        assert_eq!(a.ask("[::1]:80").expect("its loopback"), "::1");
        assert!(a.run("ip -6 addr show eth0").contains("inet6 fd77::5/128 scope global"));
        assert_eq!(a.run("ip -6 -o addr show eth0").lines().count(), 1, "an address that nobody asked for");
        assert_eq!(a.run("cat /proc/sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");

        run("ip -6 route del fd77::5");
        let pods = [("5".to_owned(), vec![ip("10.77.0.5"), ip("fd77::5")])];
        assert_eq!(host.reconnect(&pods).expect("reconnect"), 1);
        assert_eq!(b.ask("[fd77::5]:80").expect("pod to pod again"), "fd77::6");
        assert!(network::used_ranges().expect("ranges").contains(&"fd77::5/128".parse().expect("a range")));
        host.remove().expect("remove");
        assert_eq!(run("nft list ruleset"), "");
    });
}

#[test]
fn nobody_speaks_for_others_in_the_newer_family() {
    isolated("dual::nobody_speaks_for_others_in_the_newer_family", || {
        let outside = with_outside();
        let host = host();
        host.apply(&[]).expect("apply");
        let (a, b) = (attach(&host, 5), attach(&host, 6));
        a.run("ip addr add fd77::9/128 dev eth0 nodad");
        a.run("ip route add fd00::2/128 via fe80::1 dev eth0 src fd77::9");
        // Who was just plugged in can ask for neighbours by the address of its own only.
        serve(&outside, 80);
        ask("[fd00::2]:80").expect("node to outside");
        let socket = outside.inside(|| UdpSocket::bind("[::]:99").expect("bind"));
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("time-out");
        let send = |machine: &Machine| {
            machine.inside(|| {
                let socket = UdpSocket::bind("[::]:0").expect("bind");
                socket.send_to(b"?", "[fd00::2]:99").expect("send");
            });
        };
        send(&a);
        let mut buffer = [0; 10];
        assert!(socket.recv(&mut buffer).is_err(), "a forged packet came through");
        send(&b);
        assert_eq!(socket.recv(&mut buffer).expect("an honest packet"), 1);
        // What others take away of either table is put back.
        for family in ["ip", "ip6"] {
            let before = run(&format!("nft list table {family} podling-test"));
            run(&format!("nft delete table {family} podling-test"));
            assert!(host.repair().expect("repair") && !host.repair().expect("repair"));
            assert_eq!(run(&format!("nft list table {family} podling-test")), before);
        }
        run("nft add table ip6 filter");
        run("nft add chain ip6 filter FORWARD '{ type filter hook forward priority 0 ; policy drop ; }'");
        let found = host.obstacles().expect("look");
        assert_eq!((found.len(), found[0].family.as_str()), (1, "ip6"));
        found[0].cure.iter().for_each(|cure| drop(run(&cure.replace('"', "\\\""))));
        assert!(host.obstacles().expect("look").is_empty());
    });
}

#[test]
fn ports_of_the_machine_lead_inside_by_both_families() {
    isolated("dual::ports_of_the_machine_lead_inside_by_both_families", || {
        let outside = with_outside();
        let host = host();
        let port = |host_address: Option<&str>, host_port, address| HostPort {
            protocol: Protocol::Tcp,
            host_address: host_address.map(ip),
            host_port,
            address: ip(address),
            port: 80,
        };
        let ports = [
            port(None, 8080, "10.77.0.5"),
            port(None, 8080, "fd77::5"),
            port(Some("fd00::1"), 9090, "fd77::5"),
            port(Some("127.0.0.1"), 9091, "10.77.0.5"),
        ];
        host.apply(&ports).expect("apply");
        let (a, b) = (attach(&host, 5), attach(&host, 6));
        serve(&a, 80);
        assert_eq!(outside.ask("[fd00::1]:8080").expect("from outside"), "fd00::2");
        assert_eq!(outside.ask("192.0.2.1:8080").expect("from outside"), "::ffff:192.0.2.2");
        assert_eq!(outside.ask("[fd00::1]:9090").expect("at one address"), "fd00::2");
        assert!(outside.ask("192.0.2.1:9090").is_err(), "that port is of the other family");
        assert_eq!(b.ask("[fd00::1]:8080").expect("from another pod"), "fd77::6");
        assert_eq!(a.ask("[fd00::1]:8080").expect("from itself"), "fd00::1");
        ask("[fd00::1]:8080").expect("from the machine");
        ask("127.0.0.1:8080").expect("from the machine's loopback");
        let refused = ask("[::1]:8080").expect_err("no packet leaves that loopback");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let text = run("nft list table ip6 podling-test");
        for expected in [
            "tcp . 8080 : fd77::5 . 80",
            "fd77::5 . fd77::5",
            "ip6 saddr fd77::/56 ip6 daddr != fd77::/56 masquerade fully-random",
            "fib saddr . iif oif 0 drop",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    });
}

#[test]
fn who_forwards_still_hears_its_router() {
    isolated("dual::who_forwards_still_hears_its_router", || {
        let _outside = with_outside();
        let setting = |link: &str| run(&format!("cat /proc/sys/net/ipv6/conf/{link}/accept_ra")).trim().to_owned();
        run("ip link add own0 type veth peer name own1 && ip link add taught0 type veth peer name taught1");
        run("ip link set taught0 up");
        run("ip -6 route add fd55::/64 dev taught0 proto ra");
        host().apply(&[]).expect("apply");
        assert_eq!(run("cat /proc/sys/net/ipv6/conf/all/forwarding").trim(), "1");
        assert_eq!((setting("taught0").as_str(), setting("own0").as_str()), ("2", "1"));
    });
}

/// A machine with one attachment.
pub(crate) struct Node {
    pub(crate) machine: lab::Machine,
    pub(crate) host: Host,
    own: Own,
    pub(crate) pod: Namespace,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Node {
    pub(crate) fn new(wire: &Wire, number: u8, ranges: &str) -> Node {
        let machine = wire.machine().expect("a machine");
        let ranges: Ranges = ranges.parse().expect("ranges");
        let all = [
            (format!("10.77.{number}.64/26"), format!("10.77.{number}.65")),
            (format!("fd77::{number}:40/122"), format!("fd77::{number}:41")),
        ];
        let has = |(block, _): &&(String, String)| ranges.contains(&block.parse().expect("a block"));
        let blocks = all.iter().filter(has).map(|(block, _)| block.parse().expect("a block")).collect();
        let addresses = all.iter().filter(has).map(|(_, address)| ip(address)).collect();
        let own = Own { addresses: machine.addresses(), blocks, vni: vni("dual"), secret: None };
        let host = Host::open(Config { prefix: "plt".into(), table: "podling-plt".into(), ranges }).expect("open");
        let node = Node { machine, host, own, pod: Namespace::new().expect("a namespace"), addresses };
        node.inside(|| node.host.apply(&[]).expect("apply"));
        node
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.machine.namespace().inside(work)
    }

    pub(crate) fn peer(&self) -> Peer {
        let (addresses, blocks) = (self.own.addresses.clone(), self.own.blocks.clone());
        Peer { name: self.addresses[0].to_string(), addresses, blocks, path_mtu: None, key: None }
    }

    pub(crate) fn mesh(&self, peers: &[Peer], backend: Backend) -> Vec<PeerState> {
        self.inside(|| self.host.mesh(&self.own, peers, backend).expect("mesh"))
    }

    pub(crate) fn attach(&self) {
        let (outer, attachment) = self.inside(|| {
            let attachment = self.host.attachment("pod", &self.addresses).expect("attachment");
            (Socket::route().expect("socket"), attachment)
        });
        self.pod.inside(|| network::attach::perform(&outer, &attachment).expect("attach"));
        for address in &self.addresses {
            answer(self.pod.inside(|| TcpListener::bind((*address, 80)).expect("bind")));
        }
    }
}

/// What each says of its ways to the others, in their order.
fn lead(nodes: &[Node], backend: Backend) -> Vec<Vec<Reach>> {
    let ways = |node: &Node| {
        let others = nodes.iter().filter(|other| other.addresses != node.addresses);
        let peers: Vec<Peer> = others.map(Node::peer).collect();
        let states = node.mesh(&peers, backend);
        let again = node.mesh(&peers, backend);
        assert_eq!(states, again);
        assert!(states.iter().all(|state| state.problems.is_empty()), "{states:?}");
        states.into_iter().flat_map(|state| state.ways).map(|way| way.reach).collect()
    };
    nodes.iter().map(ways).collect()
}

fn all_reach_all(nodes: &[Node]) {
    for from in nodes {
        for to in nodes {
            for (seen, goal) in from.addresses.iter().zip(&to.addresses) {
                let goal = SocketAddr::new(*goal, 80).to_string();
                let answer = from.pod.inside(|| ask(&goal));
                assert_eq!(answer.unwrap_or_else(|error| format!("{goal}: {error}")), seen.to_string());
                from.inside(|| ask(&goal)).expect("machine to attachment");
            }
        }
    }
}

#[test]
fn machines_of_both_families_lead_to_each_other_by_both() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::of(Families::Both).expect("a lab");
    let (here, there) = (lab.wire().expect("a wire"), lab.wire().expect("a wire"));
    let nodes = [Node::new(&here, 0, BOTH), Node::new(&here, 1, BOTH), Node::new(&there, 2, BOTH)];
    let (route, vxlan) = (Reach::Route { link: "eth0".into() }, Reach::Vxlan { link: "eth0".into() });
    assert_eq!(lead(&nodes, Backend::Auto)[0], [route.clone(), route, vxlan.clone(), vxlan.clone()]);
    nodes.iter().for_each(Node::attach);
    all_reach_all(&nodes);
    // Another kind of way while attachments live, and back.
    assert!(lead(&nodes, Backend::Vxlan).iter().flatten().all(|reach| *reach == vxlan));
    all_reach_all(&nodes);
    lead(&nodes, Backend::Auto);
    all_reach_all(&nodes);
    let look = |line: &str| nodes[0].machine.namespace().run(line).expect("it runs");
    let routes = look("ip -6 route");
    assert!(routes.contains(&format!("fd77::1:40/122 via {} dev eth0", nodes[1].own.addresses[1])), "{routes}");
    assert!(routes.contains("fd77::2:40/122 via fe80::") && routes.contains("unreachable fd77::"), "{routes}");
    // What is lost is heard.
    let monitor = nodes[0].inside(|| nodes[0].host.watch_routes().expect("a watch"));
    lead(&nodes, Backend::Auto);
    assert!(!monitor.drain().expect("it hears"), "what is as it should be makes noise");
    look("ip -6 route del fd77::1:40/122");
    assert!(monitor.drain().expect("it hears"));
    lead(&nodes, Backend::Auto);
    all_reach_all(&nodes);
    let found = nodes[0].inside(|| network::probe::largest(&[nodes[1].own.addresses[1], nodes[2].own.addresses[1]]));
    assert_eq!(found.expect("look"), [Some(1500), Some(1500)]);
    nodes[0].inside(|| nodes[0].host.remove().expect("remove"));
    let routes = look("ip -6 route");
    assert!(!routes.contains("fd77") && !look("ip link").contains("pltvx"), "{routes}");
}

#[test]
fn machines_of_the_newer_family_alone_lead_to_each_other() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::of(Families::V6).expect("a lab");
    let (here, there) = (lab.wire().expect("a wire"), lab.wire().expect("a wire"));
    for ranges in ["fd77::/56", BOTH] {
        let nodes = [Node::new(&here, 0, ranges), Node::new(&here, 1, ranges), Node::new(&there, 2, ranges)];
        let ways = lead(&nodes, Backend::Auto);
        let last = ways[0].last().expect("a way");
        assert!(matches!(last, Reach::Vxlan { .. }), "{last:?}");
        nodes.iter().for_each(Node::attach);
        all_reach_all(&nodes);
        let tunnel = nodes[0].machine.namespace().run("ip -d link show pltvx").expect("it runs");
        assert!(tunnel.contains("mtu 1430") && tunnel.contains("local fd12:1::"), "{tunnel}");
    }
}

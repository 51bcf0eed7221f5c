//! Flows that are known go the short way, and no others: seen by counters in the rules of the machines in between.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use network::{Backend, HostPort, Peer, Protocol};
use testkit::lab::{Families, Lab, Namespace, Wire};

use crate::dual::{self, BOTH};
use crate::mesh::{Node, is_possible};

const PATIENCE: Duration = Duration::from_secs(10);
const MEGABYTE: u64 = 1 << 20;

/// Two machines on a link with one attachment each, whose flows are offloaded.
struct Pair {
    from: Node,
    to: Node,
    lab: Lab,
}

impl Pair {
    fn new(backend: Backend) -> Pair {
        let mut lab = Lab::new().expect("a lab");
        let wire: Wire = lab.wire().expect("a wire");
        let pair = Pair { from: Node::new(&wire, 0), to: Node::new(&wire, 1), lab };
        for (node, other) in [(&pair.from, &pair.to), (&pair.to, &pair.from)] {
            let states = node.mesh(&[other.peer()], backend);
            node.attach();
            node.inside(|| node.host.offload(&states)).expect("offload");
            count_forwarded(node.machine.namespace());
        }
        pair
    }

    fn flows(&self) -> [usize; 2] {
        [&self.from, &self.to].map(|node| node.host.offloaded().expect("a count"))
    }

    /// What the rules of both machines saw.
    fn forwarded(&self) -> u64 {
        [&self.from, &self.to].iter().map(|node| forwarded(node.machine.namespace())).sum()
    }
}

fn count_forwarded(namespace: &Namespace) {
    namespace.run("nft add table inet count").expect("a table");
    namespace.run("nft add chain inet count forward { type filter hook forward priority 0 ; }").expect("a chain");
    namespace.run("nft add rule inet count forward counter").expect("a rule");
}

/// In bytes.
fn forwarded(namespace: &Namespace) -> u64 {
    let listed = namespace.run("nft list chain inet count forward").expect("the chain");
    let (_, rest) = listed.split_once("bytes ").expect("a counter");
    rest.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// Sends as much and waits until all of it was read; by whom, the listener says.
fn send(from: &Namespace, goal: (IpAddr, u16), listener: TcpListener, bytes: u64) -> IpAddr {
    let receiver = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        let count = std::io::copy(&mut stream, &mut std::io::sink()).expect("all of it");
        stream.write_all(&count.to_be_bytes()).expect("answer");
        peer.ip()
    });
    let stream = from.inside(|| TcpStream::connect_timeout(&goal.into(), PATIENCE)).expect("connect");
    let mut stream = stream;
    stream.set_write_timeout(Some(PATIENCE)).expect("time-out");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    let part = vec![7; MEGABYTE as usize];
    (0..bytes / MEGABYTE).for_each(|_| stream.write_all(&part).expect("write"));
    stream.shutdown(std::net::Shutdown::Write).expect("end");
    let mut count = [0; 8];
    stream.read_exact(&mut count).expect("an answer");
    assert_eq!(u64::from_be_bytes(count), bytes);
    receiver.join().expect("received")
}

fn listen(namespace: &Namespace, port: u16) -> TcpListener {
    namespace.inside(|| TcpListener::bind(("0.0.0.0", port))).expect("bind")
}

#[test]
fn known_flows_pass_the_rules_by() {
    if !is_possible() {
        return;
    }
    for backend in [Backend::Route, Backend::Vxlan] {
        let pair = Pair::new(backend);
        let listener = listen(&pair.to.pod, 90);
        let peer = send(&pair.from.pod, (pair.to.pod_address, 90), listener, 64 * MEGABYTE);
        assert_eq!(peer, pair.from.pod_address);
        let seen = pair.forwarded();
        assert!((1..MEGABYTE).contains(&seen), "{backend:?}: {seen} bytes of 64 MB went the long way");
        assert!(pair.flows().iter().all(|count| *count > 0), "{:?}", pair.flows());
        // What is over is not kept: both ends of each connection passed connection tracking.
        let tracked = pair.from.run("cat /proc/net/nf_conntrack");
        assert!(tracked.contains("dport=90") && !tracked.contains("ESTABLISHED"), "{tracked}");
    }
}

#[test]
fn known_flows_of_both_families_pass_the_rules_by() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::of(Families::Both).expect("a lab");
    let wire = lab.wire().expect("a wire");
    let nodes = [dual::Node::new(&wire, 0, BOTH), dual::Node::new(&wire, 1, BOTH)];
    let [from, to] = &nodes;
    nodes.iter().for_each(|node| count_forwarded(node.machine.namespace()));
    let long = |nodes: &[dual::Node]| nodes.iter().map(|node| forwarded(node.machine.namespace())).sum::<u64>();
    for (round, backend) in [Backend::Route, Backend::Vxlan].into_iter().enumerate() {
        for (node, other) in [(from, to), (to, from)] {
            let states = node.mesh(&[other.peer()], backend);
            if round == 0 {
                node.attach();
            }
            node.inside(|| node.host.offload(&states)).expect("offload");
        }
        for (seen, goal) in from.addresses.iter().zip(&to.addresses) {
            let before = long(&nodes);
            let listener = to.pod.inside(|| TcpListener::bind((*goal, 90))).expect("bind");
            assert_eq!(send(&from.pod, (*goal, 90), listener, 64 * MEGABYTE), *seen);
            let seen = long(&nodes) - before;
            assert!((1..MEGABYTE).contains(&seen), "{goal} by {backend:?}: {seen} bytes of 64 MB went the long way");
        }
    }
}

#[test]
fn what_is_translated_goes_the_long_way() {
    if !is_possible() {
        return;
    }
    let pair = Pair::new(Backend::Route);
    let port = HostPort {
        protocol: Protocol::Tcp,
        host_address: None,
        host_port: 9090,
        address: pair.to.pod_address,
        port: 90,
    };
    pair.to.inside(|| pair.to.host.apply(&[port])).expect("apply");
    let goal = (pair.to.own.addresses[0], 9090);
    let peer = send(&pair.from.pod, goal, listen(&pair.to.pod, 90), 8 * MEGABYTE);
    assert_eq!(peer, pair.from.pod_address, "a machine on the link sees who speaks");
    assert!(pair.forwarded() > 16 * MEGABYTE, "{}", pair.forwarded());
    assert_eq!(pair.flows(), [0, 0]);
    // A connection of the same ports that is not translated, and once more one that is: neither takes the other for itself.
    let from_port = |goal: (IpAddr, u16)| {
        let line = format!("nc -w 5 -p 4321 {} {}", goal.0, goal.1);
        pair.from.pod.run(&format!("busybox {line}"))
    };
    for goal in [(pair.to.pod_address, 80), (pair.to.own.addresses[0], 9080), (pair.to.pod_address, 80)] {
        let port = HostPort {
            protocol: Protocol::Tcp,
            host_address: None,
            host_port: 9080,
            address: pair.to.pod_address,
            port: 80,
        };
        pair.to.inside(|| pair.to.host.apply(&[port])).expect("apply");
        assert_eq!(from_port(goal).expect("an answer"), pair.from.pod_address.to_string(), "{goal:?}");
    }
}

#[test]
fn rules_of_others_see_each_beginning_and_the_way_may_change() {
    if !is_possible() {
        return;
    }
    let pair = Pair::new(Backend::Route);
    let (goal, listener) = ((pair.to.pod_address, 90), listen(&pair.to.pod, 90));
    let mut stream = pair.from.pod.inside(|| TcpStream::connect_timeout(&goal.into(), PATIENCE)).expect("connect");
    let (mut there, _) = listener.accept().expect("accept");
    let mut ask = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        there.set_read_timeout(Some(PATIENCE)).expect("time-out");
        let mut word = [0; 4];
        stream.write_all(b"ping").expect("write");
        there.read_exact(&mut word).expect("a question");
        there.write_all(&word).expect("write");
        stream.read_exact(&mut word).expect("an answer");
    };
    (0..3).for_each(|_| ask(&mut stream));
    assert!(pair.flows().iter().all(|count| *count > 0), "{:?}", pair.flows());
    // To the tunnel, and back: the connection lives on.
    for backend in [Backend::Vxlan, Backend::Route] {
        for (node, other) in [(&pair.from, &pair.to), (&pair.to, &pair.from)] {
            let states = node.mesh(&[other.peer()], backend);
            node.inside(|| node.host.offload(&states)).expect("offload");
        }
        (0..3).for_each(|_| ask(&mut stream));
    }
    pair.to.run("nft add table ip wall");
    pair.to.run("nft add chain ip wall forward { type filter hook forward priority 0 ; policy drop ; }");
    ask(&mut stream);
    let refused = pair.from.pod.inside(|| TcpStream::connect_timeout(&goal.into(), Duration::from_millis(500)));
    assert!(refused.is_err(), "a wall lets nobody begin");
}

#[test]
fn nothing_is_left_on_the_links() {
    if !is_possible() {
        return;
    }
    let pair = Pair::new(Backend::Route);
    let node = &pair.from;
    let look = || node.run("tc qdisc show dev eth0");
    assert!(look().contains("clsact"), "{}", look());
    // A way that is no longer taken.
    let states = node.mesh(&[pair.to.peer()], Backend::Vxlan);
    node.inside(|| node.host.offload(&states)).expect("offload");
    assert!(!look().contains("clsact"), "{}", look());
    let states = node.mesh(&[pair.to.peer()], Backend::Route);
    node.inside(|| node.host.offload(&states)).expect("offload");
    // Another cluster's programs stay where they are.
    let programs = || node.run("tc filter show dev eth0 ingress") + &node.run("tc filter show dev eth0 egress");
    let [here, there] = [&pair.from, &pair.to].map(|node| Node::on(node.machine.clone(), "qlt", "10.43", 0));
    let other = Peer { blocks: vec!["10.43.1.64/26".parse().expect("a block")], ..there.peer() };
    let states = here.mesh(&[other], Backend::Route);
    here.inside(|| here.host.offload(&states)).expect("offload");
    assert_eq!(programs().matches("podling").count(), 4, "{}", programs());
    here.inside(|| here.host.remove()).expect("remove");
    assert_eq!(programs().matches("podling").count(), 2, "{}", programs());
    // Another's program keeps its classifier.
    node.run("tc filter add dev eth0 ingress protocol ip pref 9 u32 match u32 0 0 flowid 1:1");
    node.inside(|| node.host.remove()).expect("remove");
    assert!(look().contains("clsact"), "{}", look());
    assert!(programs().contains("u32") && !programs().contains("podling"), "{}", programs());
    drop(pair.lab);
}

//! Real links, routes and rules between namespaces, compared with what `ip` and `nft` see.

mod dual;
mod lab;
mod mesh;
mod offload;

use std::net::{TcpListener, UdpSocket};

use lab::{Machine, answer, ask, ask_udp, echo_udp, isolated, run};
use network::{Config, Family, Host, HostPort, Protocol};

fn host() -> Host {
    let ranges = "10.77.0.0/16".parse().expect("a range");
    Host::open(Config { prefix: "plt".into(), table: "podling-test".into(), ranges }).expect("open")
}

/// This machine with an uplink 192.0.2.1, and one outside of it with 192.0.2.2 that knows no way to the pods.
fn with_outside() -> Machine {
    let outside = Machine::new();
    let pid = outside.pid();
    run("ip link set lo up");
    run(&format!("ip link add up0 type veth peer name far0 netns /proc/{pid}/ns/net"));
    run("ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up && ip route add default via 192.0.2.2");
    outside.run("ip addr add 192.0.2.2/24 dev far0");
    outside.run("ip link set far0 up");
    run("ip -j link show up0");
    outside
}

fn attach(host: &Host, name: &str, address: &str) -> Machine {
    Machine::attached(&host.attachment(name, &[address.parse().expect("address")]).expect("attachment"))
}

#[test]
fn everyone_reaches_everyone_without_translation() {
    isolated("everyone_reaches_everyone_without_translation", || {
        let outside = with_outside();
        let host = host();
        host.apply(&[]).expect("apply");
        let (a, b) = (attach(&host, "a", "10.77.0.5"), attach(&host, "b", "10.77.0.6"));
        a.serve(80);
        outside.serve(80);
        answer(TcpListener::bind("0.0.0.0:81").expect("bind"));
        assert_eq!(b.ask("10.77.0.5:80").expect("pod to pod"), "10.77.0.6");
        assert_eq!(ask("10.77.0.5:80").expect("node to pod"), "192.0.2.1");
        assert_eq!(b.ask("192.0.2.1:81").expect("pod to node"), "10.77.0.6");
        assert_eq!(b.ask("192.0.2.2:80").expect("pod to outside"), "192.0.2.1");
        assert_eq!(a.ask("10.77.0.5:80").expect("pod to itself"), "10.77.0.5");
        assert!(a.run("ip -4 addr show eth0").contains("inet 10.77.0.5/32"));
        assert!(a.run("ip -6 addr show eth0").is_empty(), "an address that nobody asked for");
    });
}

#[test]
fn pods_outlive_the_address_of_their_machine() {
    isolated("pods_outlive_the_address_of_their_machine", || {
        let outside = with_outside();
        let host = host();
        host.apply(&[]).expect("apply");
        let a = attach(&host, "a", "10.77.0.5");
        a.serve(80);
        let pods = [("a", 5), ("gone", 6)].map(|(name, number)| (name.to_owned(), vec![[10, 77, 0, number].into()]));
        assert_eq!(host.reconnect(&pods).expect("nothing to do"), 0);
        run("ip addr flush dev up0 && ip addr add 192.0.2.9/24 dev up0 && ip route replace default via 192.0.2.2");
        assert!(ask("10.77.0.5:80").is_err(), "the kernel has taken the route away");
        assert_eq!(host.reconnect(&pods).expect("reconnect"), 1);
        assert_eq!(ask("10.77.0.5:80").expect("node to pod"), "192.0.2.9");
        drop(outside);
    });
}

#[test]
fn a_machine_without_addresses_works_too() {
    isolated("a_machine_without_addresses_works_too", || {
        run("ip link set lo up");
        let host = host();
        host.apply(&[]).expect("apply");
        assert_eq!(network::node_address_of(Family::V4).expect("look"), None);
        let (a, b) = (attach(&host, "a", "10.77.0.5"), attach(&host, "b", "10.77.0.6"));
        a.serve(80);
        assert_eq!(b.ask("10.77.0.5:80").expect("pod to pod"), "10.77.0.6");
        assert_eq!(ask("10.77.0.5:80").expect("node to pod"), "169.254.1.1");
    });
}

#[test]
fn ports_of_the_machine_lead_inside() {
    isolated("ports_of_the_machine_lead_inside", || {
        let outside = with_outside();
        let host = host();
        let port = |protocol, host_address, host_port, port| HostPort {
            protocol,
            host_address,
            host_port,
            address: [10, 77, 0, 5].into(),
            port,
        };
        let ports = [
            port(Protocol::Tcp, None, 8080, 80),
            port(Protocol::Udp, None, 8080, 53),
            port(Protocol::Tcp, Some([127, 0, 0, 1].into()), 9090, 80),
        ];
        host.apply(&ports).expect("apply");
        let a = attach(&host, "a", "10.77.0.5");
        let b = attach(&host, "b", "10.77.0.6");
        a.serve(80);
        echo_udp(a.inside(|| UdpSocket::bind("0.0.0.0:53").expect("bind")));
        assert_eq!(outside.ask("192.0.2.1:8080").expect("from outside"), "192.0.2.2");
        assert_eq!(b.ask("192.0.2.1:8080").expect("from another pod"), "10.77.0.6");
        assert_eq!(a.ask("192.0.2.1:8080").expect("from itself"), "192.0.2.1");
        ask("192.0.2.1:8080").expect("from the machine");
        ask("127.0.0.1:8080").expect("from the machine's loopback");
        ask("127.0.0.1:9090").expect("from the machine's loopback");
        assert!(outside.ask("192.0.2.1:9090").is_err(), "that port is on loopback only");
        assert_eq!(outside.inside(|| ask_udp("192.0.2.1:8080")).expect("UDP"), "192.0.2.2");
        ask_udp("127.0.0.1:8080").expect("UDP from the machine's loopback");
        host.apply(&ports[1..]).expect("apply again");
        assert!(outside.ask("192.0.2.1:8080").is_err(), "the port is closed again");
    });
}

#[test]
fn what_nft_sees_is_what_we_meant() {
    isolated("what_nft_sees_is_what_we_meant", || {
        let host = host();
        let port = HostPort {
            protocol: Protocol::Tcp,
            host_address: None,
            host_port: 8080,
            address: [10, 77, 0, 5].into(),
            port: 80,
        };
        host.apply(std::slice::from_ref(&port)).expect("apply");
        let text = run("nft list table ip podling-test");
        for expected in [
            "tcp . 8080 : 10.77.0.5 . 80",
            "10.77.0.5 . 10.77.0.5",
            "ip saddr 10.77.0.0/16 ip daddr != 10.77.0.0/16 masquerade fully-random",
            "fib saddr . iif oif 0 drop",
            "iifname \"plt*\" ip daddr 127.0.0.0/8 drop",
            "type nat hook prerouting priority dstnat",
            "type nat hook output priority -100",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        let many: Vec<HostPort> = (1..2000).map(|host_port| HostPort { host_port, ..port.clone() }).collect();
        host.apply(&many).expect("many ports, each once or twice the same target");
        assert!(run("nft list map ip podling-test ports").contains("tcp . 1999 : 10.77.0.5 . 80"));
    });
}

#[test]
fn nobody_speaks_for_others() {
    isolated("nobody_speaks_for_others", || {
        let outside = with_outside();
        let host = host();
        host.apply(&[]).expect("apply");
        let (a, b) = (attach(&host, "a", "10.77.0.5"), attach(&host, "b", "10.77.0.6"));
        outside.serve(80);
        a.run("ip addr add 10.77.0.9/32 dev eth0");

        a.run("ip route add 192.0.2.2/32 via 169.254.1.1 dev eth0 src 10.77.0.9");
        let socket = outside.inside(|| UdpSocket::bind("0.0.0.0:99").expect("bind"));
        socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("time-out");
        let send = |machine: &Machine| {
            machine.inside(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
                socket.send_to(b"?", "192.0.2.2:99").expect("send");
            });
        };
        send(&a);
        let mut buffer = [0; 10];
        assert!(socket.recv(&mut buffer).is_err(), "a forged packet came through");
        send(&b);
        assert_eq!(socket.recv(&mut buffer).expect("an honest packet"), 1);
    });
}

#[test]
fn nothing_is_left() {
    isolated("nothing_is_left", || {
        run("ip link set lo up");
        let before = (run("ip -o link"), run("ip route"), run("nft list ruleset"));
        let host = host();
        host.apply(&[]).expect("apply");
        let (a, b) = (attach(&host, "a", "10.77.0.5"), attach(&host, "b", "10.77.0.6"));
        let names: Vec<String> = host.links().expect("links").into_iter().map(|link| link.name).collect();
        assert_eq!(names.len(), 2);
        assert!(names.contains(&host.link_name("a")));
        assert!(network::used_ranges().expect("ranges").contains(&"10.77.0.5/32".parse().expect("a range")));
        assert_eq!(host.collect_garbage(&[host.link_name("a")]).expect("collect"), [host.link_name("b")]);
        host.remove().expect("remove");
        host.remove().expect("remove twice");
        assert_eq!((run("ip -o link"), run("ip route"), run("nft list ruleset")), before);
        drop((a, b));
    });
}

#[test]
fn a_name_and_an_address_can_be_used_again_at_once() {
    isolated("a_name_and_an_address_can_be_used_again_at_once", || {
        run("ip link set lo up");
        let host = host();
        host.apply(&[]).expect("apply");
        let former = attach(&host, "a", "10.77.0.5");
        let latter = attach(&host, "a", "10.77.0.5");
        latter.serve(80);
        assert_eq!(ask("10.77.0.5:80").expect("the latter answers"), "169.254.1.1");
        assert!(former.run("ip -o link").lines().all(|line| !line.contains("eth0")));
    });
}

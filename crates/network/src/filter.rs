//! The table: which rules apply to attached addresses, as one transaction that replaces whatever was there.
//!
//! A verdict "accept" ends one chain only. Where another table drops forwarded packets (Docker sets iptables' FORWARD policy to DROP),
//! theirs wins, and its owner must let ours through; we never write into a table that is not ours.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::family::{Family, octets};
use crate::host::{Config, HostPort, Protocol};
use crate::netlink::expr::{
    Expression as E, Hook, PORT, PROTOCOL, Table, Word, address_type, begin, concat, delete_table, end, new_chain,
    new_elements, new_rule, new_set, new_table, words, words_of_address,
};
use crate::netlink::message::{ACK, Message};

const RAW: Hook = Hook { kind: "filter", number: 0, priority: -300 };
const FORWARD: Hook = Hook { kind: "filter", number: 2, priority: -1 };
const PREROUTING: Hook = Hook { kind: "nat", number: 0, priority: -100 };
const OUTPUT: Hook = Hook { kind: "nat", number: 3, priority: -100 };
const POSTROUTING: Hook = Hook { kind: "nat", number: 4, priority: 100 };

const LOCAL: [u8; 4] = 2u32.to_ne_bytes();
const NONE: [u8; 4] = [0; 4];
const TCP: [u8; 1] = [6];
const SYN: [u8; 1] = [2];
const SYN_RST: [u8; 1] = [6];

/// 127.0.0.0/8, and which bits say so.
const LOOPBACK: [u8; 4] = [127, 0, 0, 0];
const LOOPBACK_MASK: [u8; 4] = [255, 0, 0, 0];
const LOOPBACK_6: [u8; 16] = Ipv6Addr::LOCALHOST.octets();

/// The tables of a configuration, one for each of its ranges.
pub(crate) fn tables(config: &Config) -> impl Iterator<Item = Table<'_>> {
    config.ranges.families().map(|family| Table { family, name: &config.table })
}

/// Removes the tables. Each is made first, since removing what is not there would be refused.
pub(crate) fn removal(config: &Config) -> Vec<Message> {
    transaction(tables(config).flat_map(|table| [new_table(table), delete_table(table)]).collect())
}

/// Replaces the tables.
pub(crate) fn replacement(config: &Config, ports: &[HostPort], neighbours: &[IpAddr]) -> Vec<Message> {
    let mut messages = Vec::new();
    for range in config.ranges.iter() {
        let family = Family::of_net(&range);
        let table = Table { family, name: &config.table };
        let is_of_family = |port: &&HostPort| Family::of(port.address) == family;
        let ports: Vec<&HostPort> = ports.iter().filter(is_of_family).collect();
        let neighbours: Vec<IpAddr> =
            neighbours.iter().copied().filter(|address| Family::of(*address) == family).collect();
        messages.extend([new_table(table), delete_table(table), new_table(table)]);
        messages.extend(sets(table, &ports, &neighbours));
        messages.extend(spoofing(table, &config.prefix));
        messages.extend(forwarding(table, &config.prefix));
        messages.extend(host_ports(table, "prerouting", &PREROUTING));
        messages.extend(host_ports(table, "output", &OUTPUT));
        messages.extend(masquerading(table, &config.prefix, &range));
    }
    transaction(messages)
}

/// All or nothing; the last one is answered.
fn transaction(mut messages: Vec<Message>) -> Vec<Message> {
    if let Some(last) = messages.pop() {
        messages.push(last.with_flags(ACK));
    }
    messages.insert(0, begin());
    messages.push(end());
    messages
}

fn sets(table: Table<'_>, ports: &[&HostPort], neighbours: &[IpAddr]) -> Vec<Message> {
    let address = address_type(table.family);
    let target = concat(&[address, PORT]);
    let mut messages = vec![
        new_set(table, "ports", 1, concat(&[PROTOCOL, PORT]), Some(target)),
        new_set(table, "address-ports", 2, concat(&[PROTOCOL, address, PORT]), Some(target)),
        new_set(table, "hairpin", 3, concat(&[address, address]), None),
        new_set(table, "neighbours", 4, address, None),
    ];
    // A key that is there twice would have the whole table refused: the first to ask keeps the port.
    let unique = |elements: Vec<Element>| {
        let mut seen = std::collections::HashSet::new();
        elements.into_iter().filter(|(key, _)| seen.insert(key.clone())).collect::<Vec<_>>()
    };
    for (name, elements) in [
        ("ports", anywhere(ports)),
        ("address-ports", addressed(ports)),
        ("hairpin", hairpins(ports)),
        ("neighbours", neighbours.iter().map(|address| (words(&[Word::Address(*address)]), None)).collect()),
    ] {
        // The length of a nested attribute has 16 bits.
        for part in unique(elements).chunks(500) {
            messages.push(new_elements(table, name, part));
        }
    }
    messages
}

type Element = (Vec<u8>, Option<Vec<u8>>);

fn target(port: &HostPort) -> Option<Vec<u8>> {
    Some(words(&[Word::Address(port.address), Word::Port(port.port)]))
}

fn anywhere(ports: &[&HostPort]) -> Vec<Element> {
    let key = |port: &HostPort| words(&[Word::Protocol(number(port.protocol)), Word::Port(port.host_port)]);
    ports.iter().filter(|port| port.host_address.is_none()).map(|port| (key(port), target(port))).collect()
}

fn addressed(ports: &[&HostPort]) -> Vec<Element> {
    let key = |port: &HostPort, address: IpAddr| {
        words(&[Word::Protocol(number(port.protocol)), Word::Address(address), Word::Port(port.host_port)])
    };
    ports.iter().filter_map(|port| port.host_address.map(|address| (key(port, address), target(port)))).collect()
}

/// Who reaches itself through the machine must not see its own address as the peer's.
fn hairpins(ports: &[&HostPort]) -> Vec<Element> {
    ports.iter().map(|port| (words(&[Word::Address(port.address), Word::Address(port.address)]), None)).collect()
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// From our links come only the addresses that are behind them, and nothing for the machine's loopback (route_localnet, which ports on
/// 127.0.0.1 need, would let it in; of IPv6 the kernel never does).
fn spoofing(table: Table<'_>, prefix: &str) -> Vec<Message> {
    let ours = || E::Equal(prefix.as_bytes());
    let to_loopback = [E::InName, ours(), E::Destination(0), E::Mask(&LOOPBACK_MASK), E::Equal(&LOOPBACK), E::Drop];
    let elsewhere = [E::InName, ours(), E::ReversePath, E::Equal(&NONE), E::Drop];
    let mut messages = vec![new_chain(table, "raw", &RAW)];
    messages.extend((table.family == Family::V4).then(|| new_rule(table, "raw", &to_loopback)));
    messages.push(new_rule(table, "raw", &elsewhere));
    messages
}

/// The first rules keep both ends of a connection from sending more at once than the way out of here takes, also where nobody would tell
/// them (a router that drops the message that says so).
fn forwarding(table: Table<'_>, prefix: &str) -> Vec<Message> {
    let ours = prefix.as_bytes();
    let clamp = |name: E<'static>| {
        let syn = [name, E::Equal(ours), E::TransportProtocol(0), E::Equal(&TCP), E::TcpFlags, E::Mask(&SYN_RST)];
        let rule: Vec<E<'_>> = syn.into_iter().chain([E::Equal(&SYN), E::ClampSegments]).collect();
        new_rule(table, "forward", &rule)
    };
    vec![
        new_chain(table, "forward", &FORWARD),
        clamp(E::InName),
        clamp(E::OutName),
        new_rule(table, "forward", &[E::InName, E::Equal(ours), E::Accept]),
        new_rule(table, "forward", &[E::OutName, E::Equal(ours), E::Accept]),
    ]
}

fn host_ports(table: Table<'_>, chain: &str, hook: &Hook) -> Vec<Message> {
    let exact = [
        E::DestinationKind,
        E::Equal(&LOCAL),
        E::TransportProtocol(0),
        E::Destination(1),
        E::DestinationPort(1 + words_of_address(table.family)),
        E::Mapped("address-ports"),
        E::DestinationNat,
    ];
    let any = [
        E::DestinationKind,
        E::Equal(&LOCAL),
        E::TransportProtocol(0),
        E::DestinationPort(1),
        E::Mapped("ports"),
        E::DestinationNat,
    ];
    // Out of ::1 no packet gets, whatever is made of its destination: who asks there is refused at once and takes 127.0.0.1.
    let from_loopback = [E::Destination(0), E::Equal(&LOOPBACK_6), E::Accept];
    let mut messages = vec![new_chain(table, chain, hook)];
    messages.extend((table.family == Family::V6).then(|| new_rule(table, chain, &from_loopback)));
    messages.extend([new_rule(table, chain, &exact), new_rule(table, chain, &any)]);
    messages
}

fn masquerading(table: Table<'_>, prefix: &str, range: &IpNet) -> Vec<Message> {
    let (network, mask) = (octets(range.network()), octets(range.netmask()));
    let from_ours = || [E::Source(0), E::Mask(&mask), E::Equal(&network)];
    let to_ours = || [E::OutName, E::Equal(prefix.as_bytes())];
    let from_loopback = [E::Source(0), E::Mask(&LOOPBACK_MASK), E::Equal(&LOOPBACK), E::Masquerade];
    let to_itself =
        [E::Source(0), E::Destination(words_of_address(table.family)), E::Contained("hairpin"), E::Masquerade];
    // A machine on a shared link knows the way back, and sees who speaks. One behind a router does so too, but what is in between may let
    // through only what bears the machine's own address; there we do as flannel does for all.
    let to_neighbour = [E::Destination(0), E::Contained("neighbours"), E::Accept];
    let outward = [E::Destination(0), E::Mask(&mask), E::Different(&network), E::Masquerade];
    let rule = |head: &mut dyn Iterator<Item = E<'_>>| new_rule(table, "postrouting", &head.collect::<Vec<_>>());
    let mut messages = vec![new_chain(table, "postrouting", &POSTROUTING)];
    if table.family == Family::V4 {
        messages.push(rule(&mut to_ours().into_iter().chain(from_loopback)));
    }
    messages.extend([
        rule(&mut to_ours().into_iter().chain(to_itself)),
        rule(&mut from_ours().into_iter().chain(to_neighbour)),
        rule(&mut from_ours().into_iter().chain(outward)),
    ]);
    messages
}

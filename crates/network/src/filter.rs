//! The table: which rules apply to attached addresses, as one transaction that replaces whatever was there.
//!
//! A verdict "accept" ends one chain only. Where another table drops forwarded packets (Docker sets iptables' FORWARD policy to DROP),
//! theirs wins, and its owner must let ours through; we never write into a table that is not ours.

use std::net::Ipv4Addr;

use crate::host::{Config, HostPort, Protocol};
use crate::netlink::expr::{
    ADDRESS, Expression as E, Hook, PORT, PROTOCOL, Word, begin, concat, delete_table, end, new_chain, new_elements,
    new_rule, new_set, new_table, words,
};
use crate::netlink::message::{ACK, Message};

const RAW: Hook = Hook { kind: "filter", number: 0, priority: -300 };
const FORWARD: Hook = Hook { kind: "filter", number: 2, priority: -1 };
const PREROUTING: Hook = Hook { kind: "nat", number: 0, priority: -100 };
const OUTPUT: Hook = Hook { kind: "nat", number: 3, priority: -100 };
const POSTROUTING: Hook = Hook { kind: "nat", number: 4, priority: 100 };

const LOCAL: [u8; 4] = 2u32.to_ne_bytes();
const NONE: [u8; 4] = [0; 4];
const LOOPBACK: [u8; 4] = [127, 0, 0, 0];
const TCP: [u8; 1] = [6];
const SYN: [u8; 1] = [2];
const SYN_RST: [u8; 1] = [6];
const LOOPBACK_MASK: [u8; 4] = [255, 0, 0, 0];

/// Removes the table. It is made first, since removing what is not there would be refused.
pub(crate) fn removal(table: &str) -> Vec<Message> {
    vec![begin(), new_table(table), delete_table(table).with_flags(ACK), end()]
}

/// Replaces the table.
pub(crate) fn replacement(config: &Config, ports: &[HostPort], neighbours: &[Ipv4Addr]) -> Vec<Message> {
    let table = config.table.as_str();
    let mut batch = vec![begin(), new_table(table), delete_table(table), new_table(table)];
    batch.extend(sets(table, ports, neighbours));
    batch.extend(spoofing(config));
    batch.extend(forwarding(config));
    batch.extend(host_ports(table, "prerouting", &PREROUTING));
    batch.extend(host_ports(table, "output", &OUTPUT));
    batch.extend(masquerading(config));
    if let Some(last) = batch.pop() {
        batch.push(last.with_flags(ACK));
    }
    batch.push(end());
    batch
}

fn sets(table: &str, ports: &[HostPort], neighbours: &[Ipv4Addr]) -> Vec<Message> {
    let target = concat(&[ADDRESS, PORT]);
    let mut messages = vec![
        new_set(table, "ports", 1, concat(&[PROTOCOL, PORT]), Some(target)),
        new_set(table, "address-ports", 2, concat(&[PROTOCOL, ADDRESS, PORT]), Some(target)),
        new_set(table, "hairpin", 3, concat(&[ADDRESS, ADDRESS]), None),
        new_set(table, "neighbours", 4, ADDRESS, None),
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

fn anywhere(ports: &[HostPort]) -> Vec<Element> {
    let key = |port: &HostPort| words(&[Word::Protocol(number(port.protocol)), Word::Port(port.host_port)]);
    ports.iter().filter(|port| port.host_address.is_none()).map(|port| (key(port), target(port))).collect()
}

fn addressed(ports: &[HostPort]) -> Vec<Element> {
    let key = |port: &HostPort, address: Ipv4Addr| {
        words(&[Word::Protocol(number(port.protocol)), Word::Address(address), Word::Port(port.host_port)])
    };
    ports.iter().filter_map(|port| port.host_address.map(|address| (key(port, address), target(port)))).collect()
}

/// Who reaches itself through the machine must not see its own address as the peer's.
fn hairpins(ports: &[HostPort]) -> Vec<Element> {
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
/// 127.0.0.1 need, would let it in).
fn spoofing(config: &Config) -> Vec<Message> {
    let (table, ours) = (config.table.as_str(), E::Equal(config.prefix.as_bytes()));
    let to_loopback = [E::InName, ours, E::Destination(0), E::Mask(&LOOPBACK_MASK), E::Equal(&LOOPBACK), E::Drop];
    let elsewhere = [E::InName, E::Equal(config.prefix.as_bytes()), E::ReversePath, E::Equal(&NONE), E::Drop];
    vec![new_chain(table, "raw", &RAW), new_rule(table, "raw", &to_loopback), new_rule(table, "raw", &elsewhere)]
}

/// The first rules keep both ends of a connection from sending more at once than the way out of here takes, also where nobody would tell
/// them (a router that drops the message that says so).
fn forwarding(config: &Config) -> Vec<Message> {
    let (table, ours) = (config.table.as_str(), config.prefix.as_bytes());
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

fn host_ports(table: &str, chain: &str, hook: &Hook) -> Vec<Message> {
    let exact = [
        E::DestinationKind,
        E::Equal(&LOCAL),
        E::TransportProtocol(0),
        E::Destination(1),
        E::DestinationPort(2),
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
    vec![new_chain(table, chain, hook), new_rule(table, chain, &exact), new_rule(table, chain, &any)]
}

fn masquerading(config: &Config) -> Vec<Message> {
    let (table, ours) = (config.table.as_str(), config.prefix.as_bytes());
    let (network, mask) = (config.range.network().octets(), config.range.netmask().octets());
    let from_loopback =
        [E::OutName, E::Equal(ours), E::Source(0), E::Mask(&LOOPBACK_MASK), E::Equal(&LOOPBACK), E::Masquerade];
    let to_itself =
        [E::OutName, E::Equal(ours), E::Source(0), E::Destination(1), E::Contained("hairpin"), E::Masquerade];
    // A machine on a shared link knows the way back, and sees who speaks. One behind a router does so too, but what is in between may let
    // through only what bears the machine's own address; there we do as flannel does for all.
    let to_neighbour =
        [E::Source(0), E::Mask(&mask), E::Equal(&network), E::Destination(0), E::Contained("neighbours"), E::Accept];
    let outward = [
        E::Source(0),
        E::Mask(&mask),
        E::Equal(&network),
        E::Destination(0),
        E::Mask(&mask),
        E::Different(&network),
        E::Masquerade,
    ];
    vec![
        new_chain(table, "postrouting", &POSTROUTING),
        new_rule(table, "postrouting", &from_loopback),
        new_rule(table, "postrouting", &to_itself),
        new_rule(table, "postrouting", &to_neighbour),
        new_rule(table, "postrouting", &outward),
    ]
}

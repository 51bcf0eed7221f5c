//! Messages about a WireGuard link: itself by rtnetlink; its keys and peers by the generic netlink family of that name
//! (`linux/wireguard.h`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Socket;
use super::message::{Attributes, CREATE, EXCLUSIVE, Message, Received};
use super::route::{IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, RTM_NEWLINK, link, link_kind};

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;

const KIND: &str = "wireguard";

/// The family that knows all others, and what is asked of it.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Command, version and two bytes of nothing.
const GENERIC_HEADER: usize = 4;

const WG_GENL_VERSION: u8 = 1;
const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;

const WGDEVICE_A_IFINDEX: u16 = 1;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_PEERS: u16 = 8;

const WGPEER_F_REMOVE_ME: u32 = 1;
const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 2;

const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_FLAGS: u16 = 3;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: u16 = 5;
const WGPEER_A_ALLOWEDIPS: u16 = 9;

const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

const INET: u16 = libc::AF_INET as u16;
const INET6: u16 = libc::AF_INET6 as u16;

/// A message is begun anew above this size: the length of what is nested in one has 16 bits.
const MESSAGE_BYTES: usize = 16 * 1024;
/// What a peer takes at most without its addresses, and what one of these takes at most.
const PEER_BYTES: usize = 104;
const ALLOWED_BYTES: usize = 40;

pub(crate) type Key = [u8; KEY_BYTES];

/// Another machine, as the link knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) key: Key,
    /// Where it is, if it was ever told or heard of.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Seconds.
    pub(crate) keepalive: u16,
    /// What it may send, and what is sent to it.
    pub(crate) allowed: Vec<IpNet>,
}

/// What the link was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) secret: Option<Key>,
    /// The kernel makes it of the secret one.
    pub(crate) public: Option<Key>,
    pub(crate) port: u16,
    pub(crate) peers: Vec<Peer>,
}

pub(crate) fn new_wireguard(name: &str, mtu: u32) -> Message {
    let message = link(RTM_NEWLINK, CREATE | EXCLUSIVE, 0, false);
    let message = message.text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu);
    message.nest(IFLA_LINKINFO, |info| info.attr(IFLA_INFO_KIND, KIND.as_bytes()))
}

pub(crate) fn is_wireguard(received: &Received) -> bool {
    link_kind(received).as_deref() == Some(KIND)
}

/// The way to the family. A kernel that has it as a module loads it now; one without it says that there is none.
pub(crate) struct Generic {
    socket: Socket,
    family: u16,
}

impl Generic {
    pub(crate) fn open() -> io::Result<Generic> {
        let socket = Socket::generic()?;
        let family = read_family(&socket.query(find_family())?).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Generic { socket, family })
    }

    pub(crate) fn device(&self, index: u32) -> io::Result<Device> {
        Ok(read_device(&self.socket.dump(get_device(self.family, index))?))
    }

    pub(crate) fn set_identity(&self, index: u32, secret: &Key, port: u16) -> io::Result<()> {
        self.socket.request(vec![set_identity(self.family, index, secret, port)])
    }

    /// Forgets `stale` and knows `peers` as they are said here; says nothing about others.
    pub(crate) fn set_peers(&self, index: u32, stale: &[Key], peers: &[Peer]) -> io::Result<()> {
        // One after the other: together they may be more than the socket holds.
        set_peers(self.family, index, stale, peers).into_iter().try_for_each(|part| self.socket.request(vec![part]))
    }
}

fn find_family() -> Message {
    Message::new(GENL_ID_CTRL, 0, &[CTRL_CMD_GETFAMILY, 1, 0, 0]).text(CTRL_ATTR_FAMILY_NAME, KIND)
}

fn read_family(received: &Received) -> Option<u16> {
    let id = received.find(GENERIC_HEADER, CTRL_ATTR_FAMILY_ID)?;
    id.try_into().ok().map(u16::from_ne_bytes)
}

fn get_device(family: u16, index: u32) -> Message {
    Message::new(family, 0, &[WG_CMD_GET_DEVICE, WG_GENL_VERSION, 0, 0]).u32(WGDEVICE_A_IFINDEX, index)
}

fn set_device(family: u16, index: u32) -> Message {
    Message::new(family, 0, &[WG_CMD_SET_DEVICE, WG_GENL_VERSION, 0, 0]).u32(WGDEVICE_A_IFINDEX, index)
}

fn set_identity(family: u16, index: u32, secret: &Key, port: u16) -> Message {
    set_device(family, index).attr(WGDEVICE_A_PRIVATE_KEY, secret).attr(WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes())
}

/// A part of what is to be said of a peer.
enum Part<'a> {
    Stale(&'a Key),
    First(&'a Peer, &'a [IpNet]),
    /// More addresses, beside those that were told before.
    More(&'a Peer, &'a [IpNet]),
}

impl Part<'_> {
    fn bytes(&self) -> usize {
        match self {
            Part::Stale(_) => PEER_BYTES,
            Part::First(_, allowed) | Part::More(_, allowed) => PEER_BYTES + allowed.len() * ALLOWED_BYTES,
        }
    }

    fn write(&self, list: Message) -> Message {
        list.nest(0, |entry| match self {
            Part::Stale(key) => entry.attr(WGPEER_A_PUBLIC_KEY, key.as_slice()).u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME),
            Part::First(peer, part) => {
                let entry = entry.attr(WGPEER_A_PUBLIC_KEY, &peer.key).u32(WGPEER_A_FLAGS, WGPEER_F_REPLACE_ALLOWEDIPS);
                let entry = match peer.endpoint {
                    Some(endpoint) => entry.attr(WGPEER_A_ENDPOINT, &socket_address(endpoint)),
                    None => entry,
                };
                let entry = entry.attr(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, &peer.keepalive.to_ne_bytes());
                allowed(entry, part)
            }
            Part::More(peer, part) => allowed(entry.attr(WGPEER_A_PUBLIC_KEY, &peer.key), part),
        })
    }
}

fn allowed(entry: Message, ranges: &[IpNet]) -> Message {
    entry.nest(WGPEER_A_ALLOWEDIPS, |list| {
        ranges.iter().fold(list, |list, range| {
            let (family, octets) = match range.network() {
                IpAddr::V4(address) => (INET, address.octets().to_vec()),
                IpAddr::V6(address) => (INET6, address.octets().to_vec()),
            };
            list.nest(0, |entry| {
                entry
                    .attr(WGALLOWEDIP_A_FAMILY, &family.to_ne_bytes())
                    .attr(WGALLOWEDIP_A_IPADDR, &octets)
                    .attr(WGALLOWEDIP_A_CIDR_MASK, &[range.prefix_len()])
            })
        })
    })
}

fn set_peers(family: u16, index: u32, stale: &[Key], peers: &[Peer]) -> Vec<Message> {
    let most = (MESSAGE_BYTES - PEER_BYTES) / ALLOWED_BYTES;
    let mut parts: Vec<Part<'_>> = stale.iter().map(Part::Stale).collect();
    for peer in peers {
        let (first, rest) = peer.allowed.split_at(peer.allowed.len().min(most));
        parts.push(Part::First(peer, first));
        parts.extend(rest.chunks(most).map(|more| Part::More(peer, more)));
    }
    let mut messages: Vec<Vec<Part<'_>>> = Vec::new();
    let mut room = 0;
    for part in parts {
        let bytes = part.bytes();
        match messages.last_mut().filter(|_| bytes <= room) {
            Some(last) => last.push(part),
            None => {
                messages.push(vec![part]);
                room = MESSAGE_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    let write = |parts: &Vec<Part<'_>>| {
        set_device(family, index).nest(WGDEVICE_A_PEERS, |list| parts.iter().fold(list, |list, part| part.write(list)))
    };
    messages.iter().map(write).collect()
}

/// Of a list of messages: what does not fit into one goes on in the next, also in the midst of a peer.
fn read_device(messages: &[Received]) -> Device {
    let mut device = Device::default();
    for message in messages {
        for (kind, value) in message.attributes(GENERIC_HEADER) {
            match kind {
                WGDEVICE_A_PRIVATE_KEY => device.secret = value.try_into().ok(),
                WGDEVICE_A_PUBLIC_KEY => device.public = value.try_into().ok(),
                WGDEVICE_A_LISTEN_PORT => device.port = number(value),
                WGDEVICE_A_PEERS => {
                    for peer in Attributes(value).filter_map(|(_, peer)| read_peer(peer)) {
                        match device.peers.last_mut().filter(|last| last.key == peer.key) {
                            Some(last) => last.allowed.extend(peer.allowed),
                            None => device.peers.push(peer),
                        }
                    }
                }
                _ => {}
            }
        }
    }
    device
}

fn read_peer(attributes: &[u8]) -> Option<Peer> {
    let find = |wanted| Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let ranges = Attributes(find(WGPEER_A_ALLOWEDIPS).unwrap_or_default());
    Some(Peer {
        key: find(WGPEER_A_PUBLIC_KEY)?.try_into().ok()?,
        endpoint: find(WGPEER_A_ENDPOINT).and_then(read_socket_address),
        keepalive: find(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL).map_or(0, number),
        allowed: ranges.filter_map(|(_, range)| read_allowed(range)).collect(),
    })
}

fn read_allowed(attributes: &[u8]) -> Option<IpNet> {
    let find = |wanted| Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let address = read_address(find(WGALLOWEDIP_A_IPADDR)?)?;
    IpNet::new(address, *find(WGALLOWEDIP_A_CIDR_MASK)?.first()?).ok()
}

fn read_address(octets: &[u8]) -> Option<IpAddr> {
    let of_version_4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    of_version_4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

fn number(value: &[u8]) -> u16 {
    value.try_into().map(u16::from_ne_bytes).unwrap_or_default()
}

/// The kernel's `sockaddr_in` or `sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    match address {
        SocketAddr::V4(address) => {
            bytes.extend(INET.to_ne_bytes());
            bytes.extend(address.port().to_be_bytes());
            bytes.extend(address.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(address) => {
            bytes.extend(INET6.to_ne_bytes());
            bytes.extend(address.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(address.ip().octets());
            bytes.extend(address.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn read_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address = match number(bytes.get(..2)?) {
        INET => read_address(bytes.get(4..8)?)?,
        INET6 => read_address(bytes.get(8..24)?)?,
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::messages;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a range")
    }

    fn peer(number: u8, endpoint: &str, allowed: Vec<IpNet>) -> Peer {
        let endpoint = Some(endpoint.parse().expect("an endpoint"));
        Peer { key: [number; KEY_BYTES], endpoint, keepalive: 25, allowed }
    }

    fn bytes(message: Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.write(1, &mut bytes);
        bytes
    }

    /// Length, type and value, as they are in a message on a little-endian machine.
    fn attribute(kind: [u8; 2], value: &[u8]) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_le_bytes().to_vec();
        bytes.extend(kind);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_peer_is_said_in_the_kernels_bytes() {
        let told = peer(7, "192.0.2.9:51820", vec![net("10.42.0.64/26")]);
        let [message] = set_peers(0x1d, 5, &[[9; 32]], &[told]).try_into().expect("one message");
        let range = [attribute([1, 0], &[2, 0]), attribute([2, 0], &[10, 42, 0, 64]), attribute([3, 0], &[26])];
        let known = [
            attribute([1, 0], &[7; 32]),
            attribute([3, 0], &[2, 0, 0, 0]),
            attribute([4, 0], &[2, 0, 0xca, 0x6c, 192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 0, 0]),
            attribute([5, 0], &[25, 0]),
            attribute([9, 0x80], &attribute([0, 0x80], &range.concat())),
        ];
        let stale = [attribute([1, 0], &[9; 32]), attribute([3, 0], &[1, 0, 0, 0])];
        let peers = [attribute([0, 0x80], &stale.concat()), attribute([0, 0x80], &known.concat())];
        let mut wanted = vec![1, 1, 0, 0];
        wanted.extend(attribute([1, 0], &[5, 0, 0, 0]));
        wanted.extend(attribute([8, 0x80], &peers.concat()));
        let written = bytes(message);
        assert_eq!(written[..4], (written.len() as u32).to_le_bytes());
        assert_eq!((&written[4..8], &written[16..]), ([0x1d, 0, 1, 0].as_slice(), wanted.as_slice()));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_family_and_the_identity_are_said_in_the_kernels_bytes() {
        let asked = bytes(find_family());
        assert_eq!(asked[4..8], [0x10, 0, 1, 0]);
        assert_eq!(asked[16..], [[3, 1, 0, 0].as_slice(), &attribute([2, 0], b"wireguard\0")].concat());
        let answer = [[1, 2, 0, 0].as_slice(), &attribute([2, 0], b"wireguard\0"), &attribute([1, 0], &[0x1d, 0])];
        assert_eq!(read_family(&Received { kind: 0x10, body: answer.concat() }), Some(0x1d));
        let told = bytes(set_identity(0x1d, 5, &[3; 32], 51820));
        let wanted = [
            vec![1, 1, 0, 0],
            attribute([1, 0], &[5, 0, 0, 0]),
            attribute([3, 0], &[3; 32]),
            attribute([6, 0], &[0x6c, 0xca]),
        ];
        assert_eq!(told[16..], wanted.concat());
        assert_eq!(bytes(get_device(0x1d, 5))[16..], [vec![0, 1, 0, 0], attribute([1, 0], &[5, 0, 0, 0])].concat());
    }

    /// What the kernel would answer: it says peers by the same attributes by which it is told.
    fn answered(parts: Vec<Message>) -> Vec<Received> {
        parts.into_iter().flat_map(|part| messages(&bytes(part)).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn many_peers_and_many_blocks_are_told_in_parts() {
        let blocks = |number: u32, count: u32| -> Vec<IpNet> {
            let of = |block: u32| IpNet::new(IpAddr::from((number << 24 | block << 6).to_be_bytes()), 26);
            (0..count).map(|block| of(block).expect("a block")).collect()
        };
        let mut peers: Vec<Peer> = (1..=200).map(|number| peer(number, "192.0.2.1:51820", blocks(10, 3))).collect();
        peers.push(peer(201, "[2001:db8::1]:51820", blocks(11, 2500)));
        peers.push(peer(202, "[2001:db8::2]:51820", vec![net("2001:db8:42::/122")]));
        let parts = set_peers(0x1d, 5, &[], &peers);
        assert!(parts.len() > 8, "{}", parts.len());
        for part in &parts {
            assert!(bytes(part.clone()).len() <= MESSAGE_BYTES + 64);
        }
        assert_eq!(read_device(&answered(parts)).peers, peers);
        assert!(set_peers(0x1d, 5, &[], &[]).is_empty());
    }

    #[test]
    fn a_truncated_answer_is_no_peer() {
        let mut answer = answered(set_peers(0x1d, 5, &[], &[peer(1, "192.0.2.1:51820", vec![net("10.0.0.0/26")])]));
        let body = &mut answer[0].body;
        body.truncate(body.len() - 8);
        assert!(read_device(&answer).peers.is_empty());
        assert_eq!(read_socket_address(&[2, 0, 1]), None);
        assert_eq!(read_socket_address(&[9, 0, 1, 1, 0, 0, 0, 0]), None);
    }
}

//! WireGuard, where the kernel has it: one link that encrypts what it hands to other machines. Who they are is told by their public keys;
//! the kernel makes this machine's own out of the secret one, so there is no arithmetic of curves here.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attach::number;
use crate::error::{Doing, Result};
use crate::host::{Host, route as open};
use crate::mesh::plan::End;
use crate::mesh::{Carrier, tunnel_name};
use crate::netlink::Socket;
use crate::netlink::route;
use crate::netlink::wireguard::{self as wire, Generic, KEY_BYTES, Key};

/// UDP port of the link.
pub const PORT: u16 = 51820;

/// A machine that has heard nothing for so many seconds says something, so that whoever translates addresses in between does not forget it.
const KEEPALIVE: u16 = 25;

/// By which others know a machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey(Key);

/// What nobody else may know.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Key);

/// What is no key: in base64, a key has 44 characters.
#[derive(Debug, thiserror::Error)]
#[error("not a WireGuard key")]
pub struct NoKey;

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = NoKey;

    fn try_from(text: String) -> Result<Self, NoKey> {
        text.parse()
    }
}

impl FromStr for PublicKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        decode(text).map(Self)
    }
}

/// It is not shown.
impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretKey")
    }
}

impl FromStr for SecretKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        decode(text.trim()).map(Self::of)
    }
}

fn decode(text: &str) -> Result<Key, NoKey> {
    STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(NoKey)
}

impl SecretKey {
    /// A new one.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        filled.doing(|| "draw a WireGuard key".into())?;
        Ok(Self::of(bytes))
    }

    /// As a file has it.
    pub fn to_text(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// With the bits that are the same in all keys of this curve, as the kernel sets them.
    fn of(mut bytes: Key) -> Self {
        bytes[0] &= 0b1111_1000;
        bytes[KEY_BYTES - 1] = bytes[KEY_BYTES - 1] & 0b0111_1111 | 0b0100_0000;
        Self(bytes)
    }
}

/// Whether the kernel has WireGuard; a module is loaded by this question.
pub fn is_there() -> Result<bool> {
    match Generic::open() {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error).doing(|| "ask the kernel for WireGuard".into()),
    }
}

impl Host {
    /// Makes the link, if it is not there yet, and says by which key others know this machine.
    pub fn wireguard_key(&self, secret: &SecretKey) -> Result<PublicKey> {
        let (generic, index) = self.make_wireguard(&open()?, secret)?;
        let public = generic.device(index).doing(|| "look at the WireGuard link".into())?.public;
        let public = public.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
        public.map(PublicKey).doing(|| "find the public key of the WireGuard link".into())
    }

    /// The link with this key; it knows others only after [`meet`].
    pub(crate) fn make_wireguard(&self, socket: &Socket, secret: &SecretKey) -> Result<(Generic, u32)> {
        let name = tunnel_name(&self.config().prefix, Carrier::WireGuard);
        let generic = Generic::open().doing(|| "find WireGuard in the kernel".into())?;
        let index = match self.link_of(socket, Carrier::WireGuard)? {
            Some(found) if wire::is_wireguard(&found) => route::link_index(&found),
            Some(_) => {
                let taken = io::Error::from(io::ErrorKind::AlreadyExists);
                return Err(taken).doing(|| format!("make the WireGuard link {name}: there is another of this name"));
            }
            None => {
                let message = wire::new_wireguard(&name, LEAST_MTU);
                socket.request(vec![message]).doing(|| format!("make the WireGuard link {name}"))?;
                number(socket, &name)?
            }
        };
        let present = generic.device(index).doing(|| format!("look at the WireGuard link {name}"))?;
        if present.secret != Some(secret.0) || present.port != PORT {
            let set = generic.set_identity(index, &secret.0, PORT);
            set.doing(|| format!("give the WireGuard link {name} its key and UDP port {PORT}"))?;
        }
        Ok((generic, index))
    }
}

/// What a link has before it is known what its paths take.
const LEAST_MTU: u32 = 1280;

/// Makes the link know these and nobody else. Whoever stays as he was is not touched: his session goes on.
pub(crate) fn meet(generic: &Generic, index: u32, ends: &[End]) -> Result<()> {
    let present = generic.device(index).doing(|| "look at the WireGuard link".into())?;
    let wanted: Vec<wire::Peer> = ends.iter().filter_map(peer).collect();
    let (stale, news) = changes(&present.peers, wanted);
    generic.set_peers(index, &stale, &news).doing(|| "tell the WireGuard link who is at its far ends".into())
}

fn peer(end: &End) -> Option<wire::Peer> {
    let mut allowed: Vec<IpNet> = end.blocks.iter().map(IpNet::trunc).collect();
    allowed.sort_unstable();
    let endpoint = Some(SocketAddr::new(end.machine, PORT));
    Some(wire::Peer { key: end.key?.0, endpoint, keepalive: KEEPALIVE, allowed })
}

/// Who is to be forgotten, and who is to be told anew.
fn changes(present: &[wire::Peer], wanted: Vec<wire::Peer>) -> (Vec<Key>, Vec<wire::Peer>) {
    let is_wanted = |key: &Key| wanted.iter().any(|peer| peer.key == *key);
    let stale = present.iter().map(|peer| peer.key).filter(|key| !is_wanted(key)).collect();
    let is_as_wanted = |peer: &wire::Peer| {
        present.iter().any(|known| {
            let mut known = known.clone();
            known.allowed.sort_unstable();
            known == *peer
        })
    };
    let news = wanted.iter().filter(|peer| !is_as_wanted(peer)).cloned().collect();
    (stale, news)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(number: u8, blocks: &[&str]) -> End {
        let blocks: Vec<_> = blocks.iter().map(|block| block.parse().expect("a block")).collect();
        let (machine, key) = ([192, 0, 2, number].into(), Some(PublicKey([number; KEY_BYTES])));
        End { addresses: vec![machine], mac: [0; 6], machine, blocks, key }
    }

    #[test]
    fn keys_are_text_as_other_tools_have_it() {
        let secret = SecretKey::random().expect("a key");
        assert_eq!(secret.to_text().len(), 44);
        assert_eq!(format!("{}\n", secret.to_text()).parse::<SecretKey>().expect("a key"), secret);
        assert_ne!(SecretKey::random().expect("a key"), secret);
        assert!(!format!("{secret:?}").contains(&secret.to_text()));
        assert_eq!((secret.0[0] & 7, secret.0[31] & 0xc0), (0, 0x40));
        let public = PublicKey([5; KEY_BYTES]);
        assert_eq!(public.to_string().parse::<PublicKey>().expect("a key"), public);
        for wrong in
            ["", "abc", "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUF", "no key at all, but of 44 characters ......"]
        {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_differs_is_told() {
        let ends = [end(1, &["10.42.0.64/26", "10.42.0.0/26"]), end(2, &["10.42.1.0/26"]), end(3, &["10.42.2.0/26"])];
        let wanted: Vec<wire::Peer> = ends.iter().filter_map(peer).collect();
        let mut present = wanted.clone();
        present[0].allowed.reverse();
        assert_eq!(changes(&present, wanted.clone()), (Vec::new(), Vec::new()), "the kernel has an order of its own");
        present[1].endpoint = Some("192.0.2.77:51820".parse().expect("an endpoint"));
        present[2].key = [9; KEY_BYTES];
        let (stale, news) = changes(&present, wanted.clone());
        assert_eq!((stale, news), (vec![[9; KEY_BYTES]], wanted[1..].to_vec()));
        assert_eq!(changes(&wanted, Vec::new()).0.len(), 3);
    }
}

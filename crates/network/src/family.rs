//! The two families of addresses, and the ranges that a cluster has of them. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::hash;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// Of 32 bits.
    #[serde(rename = "IPv4")]
    V4,
    /// Of 128 bits.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// That of a range.
    pub fn of_net(range: &IpNet) -> Family {
        Family::of(range.addr())
    }

    /// The first of these addresses that is of this family.
    pub fn first(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        addresses.iter().copied().find(|address| Family::of(*address) == self)
    }

    /// Of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// Every link and path must take packets of this size.
    pub(crate) fn least_mtu(self) -> u32 {
        match self {
            Family::V4 => 68,
            Family::V6 => 1280,
        }
    }

    /// The kernel's number, also that of the packet filter.
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }

    pub(crate) fn numbered(number: u8) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.number() == number)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// As its bytes go over a wire.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What has as many bytes as an address of either family.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let version_4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    version_4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// Four bytes that tell an address from others: for hardware addresses that are made of it.
pub(crate) fn digest(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let hash = hash::in_64_bits(address.octets());
            ((hash >> 32) as u32 ^ hash as u32).to_be_bytes()
        }
    }
}

/// All addresses of a cluster: one range, or two of different families, of which the first is what counts where only one can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ranges(Vec<IpNet>);

impl Ranges {
    /// The ranges, in their order.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied()
    }

    /// Their families, in the same order.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.0.iter().map(Family::of_net)
    }

    /// That of a family, if there is one.
    pub fn of(&self, family: Family) -> Option<IpNet> {
        self.iter().find(|range| Family::of_net(range) == family)
    }

    /// Whether a block lies within.
    pub fn contains(&self, block: &IpNet) -> bool {
        self.0.iter().any(|range| range.contains(block))
    }
}

impl From<IpNet> for Ranges {
    fn from(range: IpNet) -> Self {
        Self(vec![range.trunc()])
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| {
            let range: IpNet = part.trim().parse().map_err(|_| format!("{part:?} is no range of addresses"))?;
            Ok(range.trunc())
        };
        let ranges: Vec<IpNet> = text.split(',').map(parse).collect::<Result<_, String>>()?;
        match ranges.as_slice() {
            [_] => Ok(Self(ranges)),
            [one, other] if Family::of_net(one) != Family::of_net(other) => Ok(Self(ranges)),
            _ => Err(format!("{text} is neither one range nor one of IPv4 and one of IPv6")),
        }
    }
}

impl TryFrom<String> for Ranges {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ranges> for String {
    fn from(ranges: Ranges) -> String {
        ranges.to_string()
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_or_one_of_each_family() {
        let read = |text: &str| text.parse::<Ranges>().map(|ranges| ranges.to_string());
        assert_eq!(read("10.42.0.0/16").as_deref(), Ok("10.42.0.0/16"));
        assert_eq!(read("fd42::9/56, 10.42.0.0/16").as_deref(), Ok("fd42::/56,10.42.0.0/16"));
        for wrong in ["", "10.42.0.0", "10.42.0.0/16,10.43.0.0/16", "fd42::/56,10.42.0.0/16,fd43::/56", "10.42.0.0/16,"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let both: Ranges = "10.42.0.0/16,fd42::/56".parse().expect("ranges");
        assert_eq!(both.families().collect::<Vec<_>>(), Family::ALL);
        assert!(both.contains(&"fd42::40/122".parse().expect("a block")));
        assert!(!both.contains(&"fd43::40/122".parse().expect("a block")));
    }

    #[test]
    fn hardware_addresses_differ_where_only_the_subnet_does() {
        let digest = |text: &str| digest(text.parse().expect("an address"));
        assert_eq!(digest("192.0.2.7"), [192, 0, 2, 7]);
        assert_ne!(digest("fd00:1::7"), digest("fd00:2::7"));
    }
}

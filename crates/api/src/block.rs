//! Blocks of pod addresses, as podling's nodes claim them: by leases, each named after its block.

use std::net::IpAddr;

/// The namespace of the claims.
pub const NAMESPACE: &str = "podling-blocks";

/// A block has 64 addresses, unless the whole range has fewer: so many bits of an address tell them apart.
pub const BITS: u8 = 6;

/// The name of the lease that claims the block of this first address and length of prefix: `10.42.0.64-26`, and as names have no colons
/// `fd42-0-0-0-0-0-0-40-122`.
pub fn claim(network: IpAddr, length: u8) -> String {
    match network {
        IpAddr::V4(network) => format!("{network}-{length}"),
        IpAddr::V6(network) => {
            let groups: String = network.segments().iter().map(|group| format!("{group:x}-")).collect();
            format!("{groups}{length}")
        }
    }
}

/// The block that a lease of this name claims, whether or not that is the name that [`claim`] gives it.
pub fn claimed(name: &str) -> Option<(IpAddr, u8)> {
    let (network, length) = name.rsplit_once('-')?;
    let network: IpAddr = network.replace('-', ":").parse().ok()?;
    let length: u8 = length.parse().ok().filter(|length| *length <= bits(network))?;
    Some((network, length))
}

/// How many an address of this family has.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_after_their_blocks() {
        for (network, length, name) in [
            ("10.42.0.64", 26, "10.42.0.64-26"),
            ("fd42::40", 122, "fd42-0-0-0-0-0-0-40-122"),
            ("::", 0, "0-0-0-0-0-0-0-0-0"),
        ] {
            let network = network.parse().expect("an address");
            assert_eq!(claim(network, length), name);
            assert_eq!(claimed(name), Some((network, length)));
        }
        for wrong in ["", "10.42.0.0", "10.42.0.0-33", "10.42.0.0-x", "fd42-0-0-0-0-0-0-40-129", "fd42-40-122"] {
            assert_eq!(claimed(wrong), None, "{wrong}");
        }
    }
}

//! Which addresses of a block are free. Pure: the truth about who has which is the caller's, told by [`Pool::reserve`].

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::error::{Error, Result};

/// A block of addresses. Fresh ones are given in order; freed ones come back oldest first and only after all fresh ones, so that peers'
/// caches have long forgotten the former owner.
#[derive(Clone, Debug)]
pub struct Pool {
    block: IpNet,
    /// Addresses at or beyond this offset were never given.
    next: u128,
    /// One past the last offset that may be given.
    end: u128,
    freed: VecDeque<IpAddr>,
    taken: HashSet<IpAddr>,
}

impl Pool {
    /// All of a block but its first and last address, which some systems take for network and broadcast.
    pub fn new(block: IpNet) -> Pool {
        let block = block.trunc();
        let host_bits = u32::from(block.max_prefix_len() - block.prefix_len());
        let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        Pool { block, next: 1, end: size.saturating_sub(1).max(1), freed: VecDeque::new(), taken: HashSet::new() }
    }

    /// The block.
    pub fn block(&self) -> IpNet {
        self.block
    }

    /// How many are given.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Marks an address as given: the caller found it in use.
    pub fn reserve(&mut self, address: IpAddr) -> Result<()> {
        let is_inside = self.offset(address).is_some_and(|offset| (1..self.end).contains(&offset));
        if !is_inside || !self.taken.insert(address) {
            return Err(Error::Taken { address, block: self.block });
        }
        self.freed.retain(|freed| *freed != address);
        Ok(())
    }

    /// Gives an address that is nobody's.
    pub fn allocate(&mut self) -> Result<IpAddr> {
        while self.next < self.end {
            let address = self.at(self.next);
            self.next += 1;
            if self.taken.insert(address) {
                return Ok(address);
            }
        }
        let address = self.freed.pop_front().ok_or(Error::Full { block: self.block })?;
        self.taken.insert(address);
        Ok(address)
    }

    /// Takes an address back; one that was not given is none of our business.
    pub fn release(&mut self, address: IpAddr) {
        let Some(offset) = self.offset(address) else {
            return;
        };
        if self.taken.remove(&address) && offset < self.next {
            self.freed.push_back(address);
        }
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.block.network() {
            IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(offset as u32)).into(),
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(offset)).into(),
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        if !self.block.contains(&address) {
            return None;
        }
        match (self.block.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => Some(u128::from(u32::from(address) - u32::from(base))),
            (IpAddr::V6(base), IpAddr::V6(address)) => Some(u128::from(address) - u128::from(base)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pool(block: &str) -> Pool {
        Pool::new(block.parse().expect("a block"))
    }

    #[test]
    fn fresh_first_then_oldest_freed() {
        let mut pool = pool("10.1.2.0/29");
        let given: Vec<IpAddr> = (0..6).map(|_| pool.allocate().expect("free")).collect();
        assert_eq!(given[0].to_string(), "10.1.2.1");
        assert_eq!(given[5].to_string(), "10.1.2.6");
        assert!(matches!(pool.allocate(), Err(Error::Full { .. })));
        pool.release(given[3]);
        pool.release(given[1]);
        assert_eq!(pool.allocate().expect("free"), given[3]);
        assert_eq!(pool.allocate().expect("free"), given[1]);
    }

    #[test]
    fn a_freed_address_waits_for_all_fresh_ones() {
        let mut pool = pool("10.1.2.0/29");
        let first = pool.allocate().expect("free");
        pool.release(first);
        for _ in 0..5 {
            assert_ne!(pool.allocate().expect("free"), first);
        }
        assert_eq!(pool.allocate().expect("free"), first);
    }

    #[test]
    fn what_is_reserved_is_not_given() {
        let mut pool = pool("10.1.2.0/30");
        pool.reserve("10.1.2.1".parse().expect("address")).expect("free");
        assert!(pool.reserve("10.1.2.1".parse().expect("address")).is_err());
        assert!(pool.reserve("10.1.2.0".parse().expect("address")).is_err());
        assert!(pool.reserve("10.9.9.9".parse().expect("address")).is_err());
        assert_eq!(pool.allocate().expect("free").to_string(), "10.1.2.2");
    }

    #[test]
    fn the_other_family_works_too() {
        let mut pool = pool("fd00::/64");
        assert_eq!(pool.allocate().expect("free").to_string(), "fd00::1");
    }

    /// Random operations against a set that remembers who owns what.
    #[test]
    fn never_gives_twice() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..50 {
            let mut pool = pool("10.0.0.0/27");
            let mut owned = BTreeSet::new();
            for _ in 0..400 {
                step(&mut pool, &mut owned, random());
                assert_eq!(pool.len(), owned.len());
            }
        }
    }

    fn step(pool: &mut Pool, owned: &mut BTreeSet<IpAddr>, random: u64) {
        let target = IpAddr::from([10, 0, 0, (random >> 8) as u8 % 34]);
        match random % 4 {
            0 | 1 => {
                match pool.allocate() {
                    Ok(address) => {
                        assert!(owned.insert(address), "{address} given twice");
                        assert!((1..31).contains(
                            &address.to_string().rsplit('.').next().and_then(|n| n.parse().ok()).unwrap_or(0)
                        ));
                    }
                    Err(_) => assert_eq!(owned.len(), 30, "full, but not all are owned"),
                }
            }
            2 => {
                pool.release(target);
                owned.remove(&target);
            }
            _ => {
                if pool.reserve(target).is_ok() {
                    assert!(owned.insert(target), "{target} reserved twice");
                }
            }
        }
    }
}

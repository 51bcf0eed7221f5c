//! Several blocks as one pool: the first with room gives. Pure, as [`Pool`] is.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::family::Family;
use crate::pool::Pool;

/// Blocks in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Pools(Vec<Pool>);

impl Pools {
    /// A further block, disjoint from the others.
    pub fn add_block(&mut self, block: IpNet) -> Result<()> {
        let overlaps = |other: &IpNet| other.contains(&block.network()) || block.contains(&other.network());
        let rival = self.blocks().find(overlaps);
        match rival {
            Some(other) => Err(Error::Overlap { block, other }),
            None => {
                self.0.push(Pool::new(block));
                Ok(())
            }
        }
    }

    /// Gives from this block no more.
    pub fn remove_block(&mut self, block: IpNet) {
        self.0.retain(|pool| pool.block() != block);
    }

    /// All blocks.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().map(Pool::block)
    }

    /// How many addresses are given.
    pub fn len(&self) -> usize {
        self.0.iter().map(Pool::len).sum()
    }

    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An address of this family that is nobody's; [`Error::AllFull`] says that it takes a further block.
    pub fn allocate(&mut self, family: Family) -> Result<IpAddr> {
        let mut of_family = self.0.iter_mut().filter(|pool| Family::of_net(&pool.block()) == family);
        of_family.find_map(|pool| pool.allocate().ok()).ok_or(Error::AllFull { family })
    }

    /// Marks an address as given. None of the blocks has it: false, it is none of ours.
    pub fn reserve(&mut self, address: IpAddr) -> Result<bool> {
        match self.of(address) {
            Some(pool) => pool.reserve(address).map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes an address back; one that was not given is none of our business.
    pub fn release(&mut self, address: IpAddr) {
        if let Some(pool) = self.of(address) {
            pool.release(address);
        }
    }

    /// Whether one of the blocks has this address.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.blocks().any(|block| block.contains(&address))
    }

    fn of(&mut self, address: IpAddr) -> Option<&mut Pool> {
        self.0.iter_mut().find(|pool| pool.block().contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn block(text: &str) -> IpNet {
        text.parse().expect("a block")
    }

    #[test]
    fn the_first_with_room_gives() {
        let mut pools = Pools::default();
        assert!(matches!(pools.allocate(Family::V4), Err(Error::AllFull { family: Family::V4 })));
        pools.add_block(block("10.0.0.0/30")).expect("the first");
        assert!(matches!(pools.add_block(block("10.0.0.0/28")), Err(Error::Overlap { .. })));
        let first = pools.allocate(Family::V4).expect("free");
        pools.allocate(Family::V4).expect("free");
        assert!(matches!(pools.allocate(Family::V4), Err(Error::AllFull { .. })));
        pools.add_block(block("10.0.9.0/30")).expect("the second");
        assert_eq!(pools.allocate(Family::V4).expect("free").to_string(), "10.0.9.1");
        pools.release(first);
        assert_eq!(pools.allocate(Family::V4).expect("free"), first);
        assert!(!pools.reserve([10, 0, 5, 5].into()).expect("no trouble"), "it is in no block");
        assert!(pools.allocate(Family::V6).is_err());
        pools.add_block(block("fd42::40/122")).expect("one of the other family");
        assert_eq!(pools.allocate(Family::V6).expect("free").to_string(), "fd42::41");
    }

    /// Random operations against a set that remembers who owns what.
    #[test]
    fn never_gives_twice_or_what_is_outside() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..50 {
            let (mut pools, mut owned) = (Pools::default(), BTreeSet::new());
            for _ in 0..600 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                step(&mut pools, &mut owned, seed);
                assert_eq!(pools.len(), owned.len());
            }
        }
    }

    fn step(pools: &mut Pools, owned: &mut BTreeSet<IpAddr>, random: u64) {
        let target = IpAddr::from([10, 0, (random >> 8) as u8 % 3, (random >> 16) as u8 % 18]);
        match random % 5 {
            0 | 1 => match pools.allocate(Family::V4) {
                Ok(address) => {
                    assert!(owned.insert(address), "{address} given twice");
                    assert!(pools.blocks().any(|block| block.contains(&address)), "{address} is outside");
                }
                Err(_) => assert_eq!(owned.len(), pools.blocks().count() * 14, "full, but not all are owned"),
            },
            2 => {
                pools.release(target);
                owned.remove(&target);
            }
            3 => {
                if pools.reserve(target).unwrap_or(false) {
                    assert!(owned.insert(target), "{target} reserved twice");
                }
            }
            _ => {
                let new = block(&format!("10.0.{}.0/28", (random >> 24) % 3));
                let is_there = pools.blocks().any(|block| block == new);
                assert_eq!(pools.add_block(new).is_err(), is_there);
            }
        }
    }
}

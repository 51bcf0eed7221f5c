//! The one error of this crate. A variant exists only where a caller acts on it.

use std::io;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No address is left in the block.
    #[error("no free address in {block}")]
    Full {
        /// The block.
        block: ipnet::IpNet,
    },
    /// No address is left in any of the blocks of this family: it takes a further one.
    #[error("no free {family} address in any block")]
    AllFull {
        /// Of the address.
        family: crate::Family,
    },
    /// A block that is not disjoint from those there are.
    #[error("block {block} overlaps {other}")]
    Overlap {
        /// The new one.
        block: ipnet::IpNet,
        /// The one that is there.
        other: ipnet::IpNet,
    },
    /// The address is another's, or outside of the block.
    #[error("address {address} is not free in {block}")]
    Taken {
        /// The address.
        address: std::net::IpAddr,
        /// The block.
        block: ipnet::IpNet,
    },
    /// Anything else: what was attempted, and the cause.
    #[error("{doing}")]
    Failed {
        /// What was attempted, on what.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds "what was attempted" to an operating system's error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Failed { doing: what(), source: source.into() })
    }
}

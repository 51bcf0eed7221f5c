//! Addresses, links, routes and the nft table on one Linux host.
//!
//! Plain data, the kernel's own sockets and no other program. It refuses to know what a pod or a service is: it knows attachments,
//! host ports and ranges. Read in this order: `family` and `pool` (pure), `attach` (one link pair), `host` (what a machine needs once), `filter`
//! (the table), `mesh` (the ways to other machines), `offload` (past the rules), `wireguard` (one kind of them), `probe` (how those are), `netns` (machines within the machine), `netlink` (the wire format).

pub mod attach;
pub mod error;
pub mod family;
mod filter;
mod hash;
pub mod host;
pub mod mesh;
pub mod monitor;
mod netlink;
pub mod netns;
pub mod obstacle;
mod offload;
pub mod pool;
pub mod pools;
pub mod probe;
pub mod wireguard;

pub use attach::Attachment;
pub use error::{Error, Result};
pub use family::{Family, Ranges};
pub use host::{Config, Host, HostPort, Link, Protocol, addresses, node_address_of, overlap, used_ranges};
pub use mesh::{Backend, Own, Peer, PeerState, Reach};
pub use monitor::Monitor;
pub use netlink::Socket;
pub use netns::Namespace;
pub use obstacle::Obstacle;
pub use pool::Pool;
pub use pools::Pools;
pub use probe::Quality;

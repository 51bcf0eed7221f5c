//! The wire: TLS identity, HTTP in both directions, and upgraded streams (WebSocket, SPDY) behind one type, [`upgrade::Channels`].
//!
//! This crate moves bytes between parties that prove who they are. It refuses to know what the bytes mean: no objects, no paths, no kinds.
//!
//! In reading order: [`identity`] says who a peer is, [`authority`] issues the certificates that prove it
//! ([`request`] asks for one, [`keys`] replaces one in use), [`listen`] serves a [`Service`]
//! over TLS, [`dial`] reaches one ([`link`] by a single connection, [`tunnel`] by one that it has made), [`body`] is what both carry, and [`upgrade`] turns a request into a bundle of byte streams.

pub mod authority;
pub mod body;
pub mod dial;
mod error;
pub mod identity;
pub mod keys;
pub mod link;
pub mod listen;
pub mod request;
mod service;
pub mod tunnel;
pub mod upgrade;
mod verify;

pub use body::Body;
pub use error::Error;
pub use identity::Identity;
pub use service::{Peer, Service};

//! The way to a cluster: requests, watches, caches kept by watches, and a work queue.
//!
//! A [`Client`] speaks to a cluster through a [`Transport`]: the network, or the API server of the same process. What it says is the same
//! either way. This crate keeps no truth: a [`cache`] is derived and can be thrown away at any moment.
//!
//! In reading order: [`resource`] names what is asked for, [`request`] asks, [`watch`] follows, [`cache`] remembers, [`queue`] spreads work,
//! [`events`] tells people what happened, [`kubeconfig`] knows where clusters are.

pub mod cache;
mod error;
pub mod events;
pub mod kubeconfig;
pub mod queue;
pub mod request;
pub mod resource;
pub mod transport;
pub mod watch;

pub use error::Error;
pub use request::{Client, Delete, List, Patch};
pub use resource::Resource;
pub use transport::Transport;
pub use wire::listen::stopped;

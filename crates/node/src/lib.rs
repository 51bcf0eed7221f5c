//! The agent of one node: the pods that the API binds to it become sandboxes and containers, and what becomes of them becomes status.
//!
//! It translates between two worlds: Kubernetes' words on one side, the plain data of `runtime` and `network` on the other. It refuses to
//! open the store, to read images and to speak netlink. Each pod has one [`worker`] that looks, asks the pure [`plan`] for the next step,
//! takes it and reports; whatever a worker knows can be rebuilt from the API, the kernel and the disk.
//!
//! In reading order: [`agent`] follows the pods, [`pod`] is one of them, [`plan`] decides, [`worker`] acts, [`observe`] and [`status`] tell;
//! [`spec`], [`env`], [`volume`], [`files`], [`images`], [`blocks`], [`address`] and [`resources`] prepare what a container needs; [`register`] keeps
//! the node's own object, `heart` and `presence` know whether the cluster knows it, [`pressure`] tells it what the machine is short of; `peers` leads to the other nodes, which `key` makes known to WireGuard; [`serve`], [`follow`] and [`logs`] answer for logs and streams.

pub mod address;
pub mod agent;
pub mod blocks;
mod disturbance;
pub mod env;
mod error;
pub mod events;
mod expand;
pub mod files;
pub mod follow;
mod heart;
pub mod images;
mod key;
pub mod logs;
pub mod observe;
mod paths;
mod peers;
pub mod plan;
pub mod pod;
mod presence;
pub mod pressure;
mod reach;
pub mod register;
pub mod resources;
pub mod serve;
mod signal;
pub mod spec;
pub mod status;
pub mod volume;
pub mod worker;

pub use agent::{Agent, Config};
pub use disturbance::Upheaval;
pub use error::Error;

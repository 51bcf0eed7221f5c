//! The scheduler and the controllers: each watches, decides purely, and writes through the API like any other client.
//!
//! It refuses to open the store, to know addresses of nodes and to speak to them. In reading order: [`run`] starts everything ([`leader`] says on which of several servers), [`scheduler`]
//! binds pods to nodes (with [`fit`], [`affinity`], [`locality`], [`near`], [`neighbours`] and [`score`], which are pure, over a [`snapshot`]; pods wait in [`waiting`]), [`namespace`] empties namespaces that are being deleted, [`belongings`] gives each
//! namespace what it must have, [`lifecycle`] watches over nodes (with [`health`], which is pure), [`eviction`] makes pods leave nodes, [`disruption`] says how many may be evicted,
//! [`orphans`] takes away what nodes that are gone have left,
//! [`signing`] gives nodes their identity, [`tokens`] removes tokens whose time is over.

pub mod affinity;
pub mod belongings;
pub mod disruption;
pub mod eviction;
pub mod fit;
pub mod health;
pub mod leader;
pub mod lifecycle;
pub mod locality;
pub mod namespace;
pub mod near;
pub mod neighbours;
pub mod orphans;
mod pods;
mod removal;
pub mod run;
pub mod scheduler;
pub mod score;
pub mod signing;
pub mod snapshot;
pub mod tokens;
mod tree;
pub mod waiting;

pub use run::{Config, run};

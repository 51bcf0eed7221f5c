//! The Kubernetes language: objects, kinds, schema, paths, selectors, quantities, patches, codecs, Status; pure.
//!
//! This crate knows what the API says, never where it is said: it opens no file and no socket, reads no clock
//! and draws no randomness; whoever needs these passes them in. The modules, in reading order:

pub mod object;

pub mod meta;

pub mod kind;

pub mod schema;

pub mod path;

pub mod query;

pub mod selector;

pub mod quantity;

pub mod time;

pub mod name;

pub mod block;

pub mod field;

pub mod status;

pub mod codec;

pub mod patch;

pub mod typed;

mod error;

pub use error::Error;

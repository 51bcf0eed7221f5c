//! The process that is a sandbox: it holds the namespaces, is parent of the containers, pumps their output and records how they ended.
//!
//! A library, so that the agent shares the wire's types, and a tiny static program around it. Single-threaded on purpose: it forks,
//! and it changes its own namespaces. Read `spec` and `protocol` first, then `serve` (the loop), `sandbox`, `container`, `init`.

pub mod protocol;
pub mod spec;

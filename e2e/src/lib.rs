//! The real binary with real clients.

pub mod oracle;

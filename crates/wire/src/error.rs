//! The one error type of this crate.

use std::error::Error as StdError;

/// What went wrong on the wire.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side could not be reached: nothing listens, no route, or no answer within the deadline.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The `host:port` that was dialled.
        address: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A body is longer than the receiver accepts.
    #[error("body exceeds the limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A request asks for an upgrade that cannot be made; the text says what is missing.
    #[error("{0}")]
    BadUpgrade(String),
    /// The other side ended the connection or the stream.
    #[error("connection closed")]
    Closed,
    /// Anything else: what was attempted, on what, and the cause.
    #[error("{doing}")]
    Failed {
        /// What was attempted, in the progressive form: "reading certificate /x".
        doing: String,
        /// The cause.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Error {
    /// An [`Error::Failed`] that names what was attempted.
    pub fn failed(doing: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Failed { doing: doing.into(), source: source.into() }
    }
}

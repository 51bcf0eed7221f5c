//! What can go wrong, as far as a caller acts on it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Entry, Key, Revision};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A condition of the transaction does not hold.
    #[error("{key} is not as expected")]
    Conflict {
        /// The key of the first condition that failed.
        key: Key,
        /// What the key holds.
        current: Option<Arc<Entry>>,
    },
    /// The revision asked for is no longer kept.
    #[error("revisions before {oldest} are forgotten")]
    Compacted {
        /// The earliest revision that can be asked for.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("the latest revision is {current}")]
    Future {
        /// The latest revision.
        current: Revision,
    },
    /// The transaction is larger than the engine takes.
    #[error("a transaction of {bytes} bytes is too large: the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest one that is taken.
        limit: usize,
    },
    /// There is no more space; nothing was changed.
    #[error("no space left {place}")]
    Full {
        /// For what or where there is none.
        place: String,
    },
    /// The engine cannot be reached now; nothing was changed.
    #[error("the store cannot be reached: {why}")]
    Unavailable {
        /// What was tried last and why it failed.
        why: String,
    },
    /// A transaction may have been carried out, or may still be.
    #[error("nobody knows whether it was carried out: {why}")]
    Ambiguous {
        /// What happened.
        why: String,
    },
    /// The engine refuses to work as it is configured.
    #[error("{what}")]
    Unusable {
        /// What it refuses and why.
        what: String,
    },
    /// Another process has the directory open.
    #[error("{} is in use by another process", dir.display())]
    Busy {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A file is damaged where no crash can have damaged it.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The store has been closed, or has stopped after a failed sync.
    #[error("the store is closed")]
    Closed,
    /// Anything else.
    #[error("{doing}")]
    Failed {
        /// What was attempted, and on what.
        doing: String,
        /// Why it did not work.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Failed { doing, source }
    }
}

//! The one error of this crate. A variant exists only where a caller acts on it.

use std::io;

pub use shim::protocol::StartFailure;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The named thing does not exist.
    #[error("{what} not found")]
    NotFound {
        /// Kind and name, as in `container abc`.
        what: String,
    },
    /// The container is there, but its process is not running.
    #[error("container {container} is not running")]
    NotRunning {
        /// The container's id.
        container: String,
    },
    /// The process could not be started; the text is worded as users of runc and containerd know it.
    #[error("{message}")]
    Start {
        /// What kind of mistake it was.
        class: StartFailure,
        /// The whole message.
        message: String,
    },
    /// The shim that held the sandbox is gone.
    #[error("sandbox {sandbox} is dead")]
    Dead {
        /// The sandbox's id.
        sandbox: String,
    },
    /// The file is larger than the caller wants to read, or is no file.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The path as asked for.
        path: String,
        /// Why it is refused.
        reason: String,
    },
    /// Anything else: what was attempted, and the cause.
    #[error("{doing}")]
    Failed {
        /// What was attempted, on what.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds "what was attempted" to an operating system's error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Failed { doing: what(), source: source.into() })
    }
}

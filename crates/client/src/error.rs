//! The one error type of this crate.

use api::status::Status;

/// Why a request did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused; its `Status` says why.
    #[error("{}", .0.message)]
    Api(Box<Status>),
    /// The server could not be reached, or the connection broke.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// No answer within the deadline.
    #[error("no answer within {0:?}")]
    Deadline(std::time::Duration),
    /// Anything else: what was attempted, and the cause.
    #[error("{doing}")]
    Failed {
        /// What was attempted, in the progressive form.
        doing: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn failed(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { doing: doing.into(), source: source.into() }
    }

    /// The HTTP status of a refusal; 0 for everything else.
    pub fn code(&self) -> u16 {
        match self {
            Self::Api(status) => status.code,
            _ => 0,
        }
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// Someone else wrote in between, or made the object before.
    pub fn is_conflict(&self) -> bool {
        self.code() == 409
    }

    /// The history that was asked for is gone: list again.
    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }
}

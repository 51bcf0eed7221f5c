//! What can be wrong with an image.

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is no image reference; the text says why.
    #[error("{0}")]
    InvalidName(String),
    /// Neither the store nor the registry has it.
    #[error("image \"{0}\" not found")]
    NotFound(String),
    /// The registry wants other credentials.
    #[error("{registry} refuses access to {repository}: it does not exist or needs credentials")]
    Unauthorized {
        /// The registry's host.
        registry: String,
        /// The repository.
        repository: String,
    },
    /// It was made for another kind of machine.
    #[error("the image is for {found}, this machine is linux/{wanted}")]
    Architecture {
        /// What the image says.
        found: String,
        /// What this machine is.
        wanted: &'static str,
    },
    /// The content is not what its digest promises.
    #[error("{what} is corrupt: expected {expected}, got {got}")]
    Corrupt {
        /// Layer, manifest or configuration.
        what: String,
        /// The promised digest.
        expected: String,
        /// The digest of what came.
        got: String,
    },
    /// The content breaks the rules of its format.
    #[error("{what}: {why}")]
    Malformed {
        /// Archive, layer, manifest.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A container uses it.
    #[error("image {0} is in use by a container")]
    InUse(String),
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

    pub(crate) fn malformed(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what: what.into(), why: why.to_string() }
    }
}

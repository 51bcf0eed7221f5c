//! The one error type of this crate.

/// What went wrong on this node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A container cannot be made as its pod describes it. `reason` is the word that its status shows.
    #[error("{message}")]
    Config {
        /// `CreateContainerConfigError`, `ErrImagePull`, …
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// A request to this node asks for something that is not there or not possible: the HTTP status and the text.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// For people.
        message: String,
    },
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Api(#[from] client::Error),
    /// The runtime could not do it.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
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
    /// An [`Error::Failed`] that names what was attempted.
    pub fn failed(doing: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed { doing: doing.into(), source: source.into() }
    }

    /// A mistake in the pod's description of a container.
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config { reason: "CreateContainerConfigError", message: message.into() }
    }

    /// The error with its causes, each once.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

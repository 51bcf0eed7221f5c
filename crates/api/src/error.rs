//! The one error of this crate. A variant exists where a caller answers differently; the texts are upstream's,
//! because clients print them.

/// What can be wrong with something a client sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not readable as what it must be (answer 400).
    #[error("{0}")]
    Malformed(String),
    /// Readable, but with unknown or duplicate fields under the strict policy (400; for patches 422).
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    /// Well-formed, but it cannot be carried out on this object (422).
    #[error("{0}")]
    Unprocessable(String),
    /// Beyond a limit of size, depth or number (413).
    #[error("{0}")]
    TooLarge(String),
    /// An object of ours does not fit its typed form; names the place.
    #[error("{0}")]
    Untyped(String),
}

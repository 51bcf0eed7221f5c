//! Continue tokens: where a list that was cut short goes on, at which revision, and until when.

use api::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// How long a token keeps its snapshot, as upstream's compaction would have it.
const LIFETIME_SECONDS: i64 = 5 * 60;

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token {
    /// The revision of the list; 0 goes on in the present.
    #[serde(rename = "rv")]
    pub(super) revision: u64,
    /// The last key that was given out, without the list's prefix.
    #[serde(rename = "start")]
    pub(super) after: String,
    /// When the list was begun, in seconds since 1970.
    #[serde(rename = "t")]
    pub(super) begun: i64,
}

impl Token {
    pub(super) fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token is plain data"))
    }

    pub(super) fn read(text: &str) -> Result<Self, Status> {
        let invalid = |why: &dyn std::fmt::Display| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| invalid(&error))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(&error))?;
        if token.after.starts_with('/') || token.after.split('/').any(|part| part == "..") {
            return Err(invalid(&"invalid start key"));
        }
        Ok(token)
    }

    pub(super) fn is_expired(&self, now: i64) -> bool {
        self.revision != 0 && now - self.begun > LIFETIME_SECONDS
    }

    /// The answer to a token whose snapshot is gone. It carries another token, with which the rest can be had as it is now.
    pub(super) fn expired(&self) -> Status {
        let on = Self { revision: 0, ..self.clone() }.write();
        let mut status = Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
             the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
             Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
             deleted between the time the first chunk was returned and now may show up in the list.",
        );
        status.metadata.continue_token = on;
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_garbage_does_not() {
        let token = Token { revision: 7, after: "default/a".to_owned(), begun: 1 };
        assert_eq!(Token::read(&token.write()).expect("our own"), token);
        assert!(token.is_expired(302) && !token.is_expired(301));
        for bad in ["!", "e30", "AAAA"] {
            let status = Token::read(bad).expect_err("garbage");
            assert!(
                status.message.starts_with("invalid continue token: continue key is not valid: "),
                "{}",
                status.message
            );
        }
    }
}

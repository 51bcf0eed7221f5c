//! What went wrong, and how kubectl would say it.

use std::process::ExitCode;

use api::status::{Cause, Status};

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Everything has been said; the exit code remains.
    Exit(u8),
    /// A sentence of our own.
    Text(String),
    /// A line that is printed as it is.
    Bare(String),
    /// The server refused.
    Api(Box<Status>),
    /// Several objects, several failures.
    Many(Vec<Failure>),
}

impl Failure {
    /// A sentence of our own.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The failures of several objects as one; none is success.
    pub(crate) fn of(mut failures: Vec<Self>) -> Result<(), Self> {
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.remove(0)),
            _ => Err(Self::Many(failures)),
        }
    }

    /// Says in a refusal what was attempted, and with which file.
    #[must_use]
    pub(crate) fn while_doing(self, doing: &str, source: &str) -> Self {
        match self {
            Self::Api(mut status) => {
                status.message = format!("error when {doing} \"{source}\": {}", status.message);
                Self::Api(status)
            }
            Self::Text(text) => Self::Text(format!("error when {doing} \"{source}\": {text}")),
            other => other,
        }
    }

    /// The object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(status) if status.code == 404)
    }

    /// Prints it, and gives the exit code.
    pub(crate) fn tell(self) -> ExitCode {
        if let Self::Exit(code) = self {
            return ExitCode::from(code);
        }
        crate::print::complain(&self.lines());
        ExitCode::FAILURE
    }

    /// The text on standard error.
    pub(crate) fn lines(&self) -> String {
        match self {
            Self::Exit(_) => String::new(),
            Self::Text(text) if text.starts_with("error: ") => text.clone(),
            Self::Text(text) => format!("error: {text}"),
            Self::Bare(text) => text.clone(),
            Self::Api(status) if status.reason == "Invalid" => invalid(status),
            Self::Api(status) => refused(status),
            Self::Many(failures) => failures.iter().map(Self::line).collect::<Vec<_>>().join("\n"),
        }
    }

    /// The text beside others.
    fn line(&self) -> String {
        match self {
            Self::Api(status) => refused(status),
            Self::Text(text) => text.clone(),
            other => other.lines(),
        }
    }
}

fn refused(status: &Status) -> String {
    match status.reason.as_str() {
        "" if status.code == 401 => "error: You must be logged in to the server (Unauthorized)".to_owned(),
        "" => format!("Error from server: {}", status.message),
        "Unauthorized" => format!("error: You must be logged in to the server ({})", status.message),
        reason => format!("Error from server ({reason}): {}", status.message),
    }
}

fn invalid(status: &Status) -> String {
    let details = status.details.clone().unwrap_or_default();
    let mut head = "The request is invalid".to_owned();
    if !details.kind.is_empty() || !details.name.is_empty() {
        head = format!("The {} \"{}\" is invalid", details.kind, details.name);
    } else if details.causes.is_empty() && !status.message.is_empty() {
        head = format!("The request is invalid: {}", status.message);
    }
    let cause = |cause: &Cause| {
        if cause.field.is_empty() { cause.message.clone() } else { format!("{}: {}", cause.field, cause.message) }
    };
    let mut causes: Vec<String> = Vec::new();
    for text in details.causes.iter().map(cause) {
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    match causes.as_slice() {
        [] => head,
        [one] => format!("{head}: {one}"),
        several => {
            let lines: Vec<String> = several.iter().map(|text| format!("* {text}")).collect();
            format!("{head}: \n{}", lines.join("\n"))
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Api(status) => Self::Api(status),
            other => Self::Text(chain(&other)),
        }
    }
}

impl From<wire::Error> for Failure {
    fn from(error: wire::Error) -> Self {
        Self::Text(chain(&error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Text(error.to_string())
    }
}

impl From<api::Error> for Failure {
    fn from(error: api::Error) -> Self {
        Self::Text(error.to_string())
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::Failure;

    fn check(status: Value, want: &Expect) {
        let status = serde_json::from_value(status).unwrap();
        want.assert_eq(&Failure::Api(Box::new(status)).lines());
    }

    #[test]
    fn refusals_are_those_of_kubectl() {
        check(
            json!({"reason": "NotFound", "message": "pods \"x\" not found", "code": 404}),
            &expect![[r#"Error from server (NotFound): pods "x" not found"#]],
        );
        check(json!({"message": "boom", "code": 500}), &expect!["Error from server: boom"]);
        let cause = |field: &str| json!({"field": field, "message": "Required value"});
        check(
            json!({"reason": "Invalid", "details": {"kind": "Pod", "name": "x", "causes": [cause("spec.a")]}}),
            &expect![[r#"The Pod "x" is invalid: spec.a: Required value"#]],
        );
        let lines = Failure::Api(Box::new(
            serde_json::from_value(
                json!({"reason": "Invalid", "details": {"kind": "Pod", "name": "x", "causes": [cause("a"), cause("b"), cause("a")]}}),
            )
            .unwrap(),
        ))
        .lines();
        assert_eq!(lines, "The Pod \"x\" is invalid: \n* a: Required value\n* b: Required value");
    }
}

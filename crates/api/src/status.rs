//! `Status`: the answer that is not an object, with a constructor for each refusal and its exact wording.

use serde::{Deserialize, Serialize};

use crate::field::{self, FieldError};

/// meta/v1 Status as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    #[serde(default)]
    pub kind: String,
    /// Always `v1`.
    #[serde(default)]
    pub api_version: String,
    /// List metadata; empty.
    #[serde(default)]
    pub metadata: Metadata,
    /// `Success` or `Failure`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For machines, one word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Which object, which fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// The HTTP status.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// The metadata of a Status: empty, but for a list that can be continued in another way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Where an expired list can go on, inconsistently.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

/// What a Status is about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its group; empty for core.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource's plural, or the kind for `Invalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry per thing that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to ask again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u16,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// For machines.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Where.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(n: &u16) -> bool {
    *n == 0
}

/// A resource as messages name it: `pods`, `deployments.apps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    /// Empty for core.
    pub group: &'a str,
    /// The plural; or the kind, where the kind is named.
    pub name: &'a str,
}

impl std::fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.group {
            "" => f.write_str(self.name),
            group => write!(f, "{}.{group}", self.name),
        }
    }
}

impl Resource<'_> {
    fn details(self, name: &str) -> Details {
        Details {
            name: name.to_owned(),
            group: self.group.to_owned(),
            kind: self.name.to_owned(),
            ..Details::default()
        }
    }
}

impl Status {
    /// A failure of which nothing else is known.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".to_owned(),
            api_version: "v1".to_owned(),
            metadata: Metadata::default(),
            status: "Failure".to_owned(),
            message: message.into(),
            reason: reason.to_owned(),
            details: None,
            code,
        }
    }

    /// The same with `details`.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(details);
        self
    }

    /// The same with one more cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.details.get_or_insert_default().causes.push(Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        });
        self
    }

    /// The same, asking the client to come again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u16) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Whether it tells of a failure.
    pub fn is_failure(&self) -> bool {
        self.status != "Success"
    }

    /// As JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a Status has string keys only")
    }

    /// 200: done.
    pub fn success() -> Self {
        Self { status: "Success".to_owned(), ..Self::failure(200, "", "") }
    }

    /// 200: the object of that name and uid is gone.
    pub fn deleted(resource: Resource<'_>, name: &str, uid: &str) -> Self {
        let details = Details { uid: uid.to_owned(), ..resource.details(name) };
        Self { code: 0, ..Self::success() }.with_details(details)
    }

    /// 404: no such object.
    pub fn not_found(resource: Resource<'_>, name: &str) -> Self {
        let message = format!("{resource} {} not found", field::quote(name));
        Self::failure(404, "NotFound", message).with_details(resource.details(name))
    }

    /// 404: no such path.
    pub fn unknown_path() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: Resource<'_>, name: &str) -> Self {
        let message = format!("{resource} {} already exists", field::quote(name));
        Self::failure(409, "AlreadyExists", message).with_details(resource.details(name))
    }

    /// 409: no free name was found for a generateName.
    pub fn generate_name_conflict(resource: Resource<'_>, name: &str) -> Self {
        let mut status = Self::already_exists(resource, name).with_retry_after(1);
        status.message.push_str(", the server was not able to generate a unique name for the object");
        status
    }

    /// 409: refused because of the object's present state, for the given cause.
    pub fn conflict(resource: Resource<'_>, name: &str, cause: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {cause}", field::quote(name));
        Self::failure(409, "Conflict", message).with_details(resource.details(name))
    }

    /// 409: the resourceVersion of the request is not the object's.
    pub fn modified(resource: Resource<'_>, name: &str) -> Self {
        let cause = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, cause)
    }

    /// 422: fields are wrong. `kind.name` is the kind.
    pub fn invalid(kind: Resource<'_>, name: &str, errors: &[FieldError]) -> Self {
        let mut message = format!("{kind} {} is invalid", field::quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&field::join(errors));
        }
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.reason.as_str().to_owned(), message: e.body(), field: e.field.clone() })
            .collect();
        Self::failure(422, "Invalid", message).with_details(Details { causes, ..kind.details(name) })
    }

    /// 422: a patch that cannot be carried out.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::failure(422, "Invalid", message)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 403: by authorization or admission; an empty `name` means the whole resource.
    pub fn forbidden(resource: Resource<'_>, name: &str, cause: &str) -> Self {
        let message = match (resource.name, name) {
            ("", _) => format!("forbidden: {cause}"),
            (_, "") => format!("{resource} is forbidden: {cause}"),
            _ => format!("{resource} {} is forbidden: {cause}", field::quote(name)),
        };
        Self::failure(403, "Forbidden", message).with_details(resource.details(name))
    }

    /// 405: `action` is a word such as `create`.
    pub fn method_not_supported(resource: Resource<'_>, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", field::quote(&resource.to_string()));
        Self::failure(405, "MethodNotAllowed", message).with_details(resource.details(""))
    }

    /// 405 for a path without a resource.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(405, "MethodNotAllowed", message).with_details(Details::default())
    }

    /// 406: none of the accepted media types is served.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!("only the following media types are accepted: {list}");
        Self::failure(406, "NotAcceptable", message)
    }

    /// 413.
    pub fn too_large(message: impl std::fmt::Display) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 415: the body is in a form that is not understood.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {list}");
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 500.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        let cause = cause.to_string();
        Self::failure(500, "InternalError", format!("Internal error occurred: {cause}")).with_cause("", &cause, "")
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// 507: there is no room to store it.
    pub fn insufficient_storage(message: impl Into<String>) -> Self {
        Self::failure(507, "InsufficientStorage", message)
    }

    /// 504.
    pub fn timeout(message: impl std::fmt::Display, retry_after_seconds: u16) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}")).with_retry_after(retry_after_seconds)
    }

    /// 504: a revision that does not exist yet.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        Self::timeout(format!("Too large resource version: {asked}, current: {current}"), 1).with_cause(
            "ResourceVersionTooLarge",
            "Too large resource version",
            "",
        )
    }

    /// 410: the revision or continue token is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 410: a watch that asks for more history than is kept.
    pub fn too_old_resource_version(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 410.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }
}

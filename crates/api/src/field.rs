//! Places in an object and what is wrong there, in upstream's words.

use std::fmt::{self, Write as _};

use serde_json::Value;

/// The way to a field as validation messages write it: `spec.containers[0].image`, `metadata.labels[k]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    /// A path of one name, or of several joined by dots; the empty string is the object itself.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The field `name` below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            return Self(name.to_owned());
        }
        Self(format!("{}.{name}", self.0))
    }

    /// The list element `index` of this field.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The map entry `key` of this field.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The kinds of field errors; [`Reason::as_str`] is the `reason` of a cause in a Status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A value must be given.
    Required,
    /// The value is not acceptable.
    Invalid,
    /// The value is none of the known ones.
    NotSupported,
    /// The value occurs twice.
    Duplicate,
    /// Setting or changing the field is not allowed.
    Forbidden,
    /// The value names something that is not there.
    NotFound,
    /// Too many bytes or characters.
    TooLong,
    /// Too few bytes or characters.
    TooShort,
    /// Too many items.
    TooMany,
    /// Too few items.
    TooFew,
    /// The check itself failed.
    Internal,
    /// The value is of the wrong type.
    TypeInvalid,
}

impl Reason {
    /// The machine's word, as in `details.causes[].reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The words for people.
    fn title(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::TooShort | Self::Internal)
    }
}

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What kind of wrong.
    pub reason: Reason,
    /// Where.
    pub field: String,
    /// The offending value, where the message shows one.
    pub value: Option<Value>,
    /// What would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(reason: Reason, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { reason, field: path.to_string(), value, detail: detail.into() }
    }

    /// A value must be given.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(Reason::Required, path, None, detail)
    }

    /// The value is not acceptable.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(Reason::Invalid, path, Some(value.into()), detail)
    }

    /// The value is of the wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(Reason::TypeInvalid, path, Some(value.into()), detail)
    }

    /// The value is none of `supported`.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut detail = String::new();
        for (i, word) in supported.iter().enumerate() {
            detail.push_str(if i == 0 { "supported values: " } else { ", " });
            detail.push_str(&quote(word));
        }
        Self::new(Reason::NotSupported, path, Some(value.into()), detail)
    }

    /// The value occurs twice.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(Reason::Duplicate, path, Some(value.into()), "")
    }

    /// Not allowed here or now.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(Reason::Forbidden, path, None, detail)
    }

    /// Names something that is not there.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(Reason::NotFound, path, Some(value.into()), "")
    }

    /// More than `max` bytes.
    pub fn too_long(path: &Path, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(Reason::TooLong, path, None, format!("may not be more than {max} {unit}"))
    }

    /// `actual` items where at most `max` may be.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(Reason::TooMany, path, Some(actual.into()), format!("must have at most {max} {unit}"))
    }

    /// The check itself failed.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(Reason::Internal, path, None, detail)
    }

    /// The message without the field's name, as in `details.causes[].message`.
    pub fn body(&self) -> String {
        let mut text = self.reason.title().to_owned();
        if let (true, Some(value)) = (self.reason.shows_value(), &self.value) {
            match value {
                Value::String(s) => text.push_str(&format!(": {}", quote(s))),
                other => text.push_str(&format!(": {other}")),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Several errors as upstream joins them: one bare, more in brackets, repeats left out.
pub fn join<T: fmt::Display>(errors: &[T]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A string as Go's `%q` writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        push_quoted(&mut out, c);
    }
    out.push('"');
    out
}

fn push_quoted(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        c if c < ' ' || c == '\u{7f}' => write!(out, "\\x{:02x}", u32::from(c)).expect("a string takes all"),
        c if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{feff}' => {
            write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes all")
        }
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::{FieldError, Path, join, quote};
    use expect_test::{Expect, expect};

    fn check(error: &FieldError, want: &Expect) {
        want.assert_eq(&format!("{error} | {}", error.reason.as_str()));
    }

    #[test]
    fn paths_read_like_upstreams() {
        let p = Path::new("spec").child("containers").index(0).child("env");
        assert_eq!(p.to_string(), "spec.containers[0].env");
        assert_eq!(Path::new("metadata").child("labels").key("a/b").to_string(), "metadata.labels[a/b]");
        assert_eq!(Path::default().child("spec").as_str(), "spec");
        assert_eq!(Path::default().to_string(), "<nil>");
    }

    #[test]
    fn texts_of_all_kinds() {
        let p = Path::new("f");
        check(&FieldError::required(&p, ""), &expect!["f: Required value | FieldValueRequired"]);
        check(&FieldError::required(&p, "name it"), &expect!["f: Required value: name it | FieldValueRequired"]);
        check(
            &FieldError::invalid(&p, "a\"b", "no"),
            &expect![[r#"f: Invalid value: "a\"b": no | FieldValueInvalid"#]],
        );
        check(&FieldError::invalid(&p, 7, "no"), &expect!["f: Invalid value: 7: no | FieldValueInvalid"]);
        check(
            &FieldError::invalid(&p, serde_json::json!({"a": [1]}), "no"),
            &expect![[r#"f: Invalid value: {"a":[1]}: no | FieldValueInvalid"#]],
        );
        check(
            &FieldError::not_supported(&p, "x", &["a", "b"]),
            &expect![[r#"f: Unsupported value: "x": supported values: "a", "b" | FieldValueNotSupported"#]],
        );
        check(&FieldError::duplicate(&p, "x"), &expect![[r#"f: Duplicate value: "x" | FieldValueDuplicate"#]]);
        check(&FieldError::forbidden(&p, "no"), &expect!["f: Forbidden: no | FieldValueForbidden"]);
        check(&FieldError::not_found(&p, "x"), &expect![[r#"f: Not found: "x" | FieldValueNotFound"#]]);
        check(
            &FieldError::too_long(&p, 63),
            &expect!["f: Too long: may not be more than 63 bytes | FieldValueTooLong"],
        );
        check(
            &FieldError::too_many(&p, 3, 1),
            &expect!["f: Too many: 3: must have at most 1 item | FieldValueTooMany"],
        );
        check(&FieldError::internal(&p, "oh"), &expect!["f: Internal error: oh | InternalError"]);
        check(&FieldError::type_invalid(&p, true, "s"), &expect!["f: Invalid value: true: s | FieldValueTypeInvalid"]);
    }

    #[test]
    fn joins_like_an_aggregate() {
        assert_eq!(join(&["a"]), "a");
        assert_eq!(join(&["a", "b", "a"]), "[a, b]");
        assert_eq!(quote("a\n\u{1}ü"), "\"a\\n\\x01ü\"");
    }
}

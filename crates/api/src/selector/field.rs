//! Field selectors. What a field's value is, the caller says.

use std::borrow::Cow;
use std::fmt;

use crate::Error;

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// Such as `metadata.name`.
    pub field: String,
    /// The value to compare with.
    pub value: String,
    /// Whether the field must differ.
    pub negated: bool,
}

/// Terms that must all hold. The empty one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Reads the text form: `metadata.name=a,status.phase!=Running`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = split(text);
        parts.sort_unstable();
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        let terms = parts.map(|part| term(text, part)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { terms: terms.into_iter().filter(|t| !(t.field.is_empty() && t.value.is_empty())).collect() })
    }

    /// Whether it does not restrict anything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The one value that a field must have.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.field == field && !t.negated).map(|t| t.value.as_str())
    }

    /// Whether an object is selected whose fields `lookup` knows; a field that is not there is empty.
    pub fn matches<'a>(&self, lookup: &dyn Fn(&str) -> Cow<'a, str>) -> bool {
        self.terms.iter().all(|t| (lookup(&t.field) == t.value) != t.negated)
    }
}

/// At commas that no backslash precedes.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn term(whole: &str, part: &str) -> Result<Term, Error> {
    let at = |operator: &str| part.find(operator).map(|i| (i, operator.len(), operator == "!="));
    // The first operator counts; where two begin at the same place, the longer.
    let first = ["!=", "==", "="].into_iter().filter_map(at).min_by_key(|(i, length, _)| (*i, usize::MAX - length));
    let Some((i, length, negated)) = first else {
        return Err(Error::Malformed(format!("invalid selector: '{whole}'; can't understand '{part}'")));
    };
    Ok(Term { field: part[..i].to_owned(), value: unescape(&part[i + length..])?, negated })
}

fn unescape(text: &str) -> Result<String, Error> {
    let bad = |sequence: &str| Error::Malformed(format!("invalid field selector: invalid escape sequence: {sequence}"));
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(other) => return Err(bad(&format!("\\{other}"))),
                None => return Err(bad("\\")),
            },
            // Upstream prints the character's number.
            ',' | '=' => {
                let number = u32::from(c);
                return Err(Error::Malformed(format!(
                    "invalid field selector: unescaped character in value: {number}"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let comma = if i == 0 { "" } else { "," };
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::FieldSelector;
    use expect_test::{Expect, expect};

    fn check(text: &str, want: &Expect) {
        want.assert_eq(&FieldSelector::parse(text).map_or_else(|e| format!("error: {e}"), |s| s.to_string()));
    }

    #[test]
    fn reads() {
        check("", &expect![""]);
        check(",,", &expect![""]);
        check("b=1,a!=2", &expect!["a!=2,b=1"]);
        check("a==x", &expect!["a=x"]);
        check(r"a=\,\=\\", &expect![r"a=\,\=\\"]);
        check("involvedObject.namespace=", &expect!["involvedObject.namespace="]);
        check("=", &expect![""]);
    }

    #[test]
    fn refuses() {
        check("a", &expect!["error: invalid selector: 'a'; can't understand 'a'"]);
        check("a=b=c", &expect!["error: invalid field selector: unescaped character in value: 61"]);
        check(r"a=\x", &expect![r"error: invalid field selector: invalid escape sequence: \x"]);
        check(r"a=\", &expect![r"error: invalid field selector: invalid escape sequence: \"]);
    }

    #[test]
    fn matches() {
        let lookup = |field: &str| if field == "metadata.name" { "a".into() } else { "".into() };
        let selected = |text: &str| FieldSelector::parse(text).expect(text).matches(&lookup);
        assert!(selected("") && selected("metadata.name=a") && selected("x=") && selected("metadata.name!=b,x="));
        assert!(!selected("metadata.name=b") && !selected("metadata.name=a,x=1") && !selected("x!="));
        assert_eq!(FieldSelector::parse("a=1,b!=2").expect("good").exact("b"), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[a-z!=,\\\\.ü]{0,30}") {
            if let Ok(selector) = FieldSelector::parse(&text) {
                assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}

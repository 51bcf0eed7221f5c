//! Rules for names, labels, ports and the like. Each rule answers with what is wrong, in upstream's words; nothing wrong
//! is an empty list.

/// What is wrong with a value.
pub type Wrongs = Vec<String>;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// The sentence about a pattern: what holds, examples, the pattern itself.
pub fn pattern(what: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{what} (regex used for validation is '{regex}')");
    }
    let listed: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{what} (e.g. {}regex used for validation is '{regex}')", listed.join(" or "))
}

fn max_characters(length: usize) -> String {
    format!("must be no more than {length} characters")
}

fn max_bytes(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn framed(text: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let (Some(&first), Some(&last)) = (text.as_bytes().first(), text.as_bytes().last()) else { return false };
    edge(first) && edge(last) && text.bytes().all(|b| edge(b) || inner(b))
}

fn is_label(text: &str) -> bool {
    framed(text, lower, |b| b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_key(text: &str) -> bool {
    framed(text, |b| b.is_ascii_alphanumeric(), |b| b"-_.".contains(&b))
}

/// A DNS label of RFC 1123.
pub fn dns_label(value: &str) -> Wrongs {
    let mut wrongs = Wrongs::new();
    if value.len() > 63 {
        wrongs.push(max_characters(63));
    }
    if is_label(value) {
        return wrongs;
    }
    let what = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
                with an alphanumeric character";
    let dots = is_subdomain(value);
    wrongs.push(if dots { "must not contain dots".into() } else { pattern(what, LABEL, &["my-name", "123-abc"]) });
    wrongs
}

/// A DNS label of RFC 1035, which starts with a letter.
pub fn dns1035_label(value: &str) -> Wrongs {
    let mut wrongs = Wrongs::new();
    if value.len() > 63 {
        wrongs.push(max_characters(63));
    }
    if !is_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        let what = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                    character, and end with an alphanumeric character";
        wrongs.push(pattern(what, LABEL_1035, &["my-name", "abc-123"]));
    }
    wrongs
}

/// DNS labels joined by dots.
pub fn dns_subdomain(value: &str) -> Wrongs {
    subdomain(value, max_characters)
}

fn subdomain(value: &str, too_long: fn(usize) -> String) -> Wrongs {
    let mut wrongs = Wrongs::new();
    if value.len() > 253 {
        wrongs.push(too_long(253));
    }
    if !is_subdomain(value) {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                    start and end with an alphanumeric character";
        wrongs.push(pattern(what, &format!("{LABEL}(\\.{LABEL})*"), &["example.com"]));
    }
    wrongs
}

/// The prefix of a generated name, judged by the rule for the whole name: it may end in what the suffix will follow.
pub fn prefix(rule: fn(&str) -> Wrongs, value: &str) -> Wrongs {
    match value.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => rule(&format!("{rest}a")),
        _ => rule(value),
    }
}

/// A label key, also called a qualified name: an optional subdomain and a slash, then a name.
pub fn label_key(value: &str) -> Wrongs {
    let what = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let rule = pattern(what, KEY, &["MyName", "my.name", "123-abc"]);
    let mut wrongs = Wrongs::new();
    let (domain, name) = match value.split_once('/') {
        None => (None, value),
        Some((_, name)) if name.contains('/') => {
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {rule} {tail}")];
        }
        Some((domain, name)) => (Some(domain), name),
    };
    match domain {
        Some("") => wrongs.push("prefix part must be non-empty".into()),
        Some(domain) => wrongs.extend(subdomain(domain, max_bytes).iter().map(|w| format!("prefix part {w}"))),
        None => {}
    }
    if name.is_empty() {
        wrongs.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        wrongs.push(format!("name part {}", max_bytes(63)));
    }
    if !is_key(name) {
        wrongs.push(format!("name part {rule}"));
    }
    wrongs
}

/// A label's value.
pub fn label_value(value: &str) -> Wrongs {
    let mut wrongs = Wrongs::new();
    if value.len() > 63 {
        wrongs.push(max_bytes(63));
    }
    if !value.is_empty() && !is_key(value) {
        let what = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                    start and end with an alphanumeric character";
        wrongs.push(pattern(what, &format!("({KEY})?"), &["MyValue", "my_value", "12345"]));
    }
    wrongs
}

/// The name of an environment variable.
pub fn env_name(value: &str) -> Wrongs {
    let mut wrongs = Wrongs::new();
    if value.is_empty() {
        wrongs.push("environment variable name must be non-empty".into());
    }
    if !value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        let what = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        wrongs.push(what.into());
    }
    wrongs
}

/// A name that must survive as one part of a path.
pub fn path_segment(value: &str) -> Wrongs {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ['/', '%'].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A key of a ConfigMap or Secret: a file's name.
pub fn config_key(value: &str) -> Wrongs {
    let mut wrongs = Wrongs::new();
    if value.len() > 253 {
        wrongs.push(max_characters(253));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        let what = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        wrongs.push(pattern(what, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match value {
        "." | ".." => wrongs.push(format!("must not be '{value}'")),
        _ if value.starts_with("..") => wrongs.push("must not start with '..'".into()),
        _ => {}
    }
    wrongs
}

/// The name of an HTTP header.
pub fn header_name(value: &str) -> Wrongs {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Wrongs::new();
    }
    let what = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern(what, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A number within bounds.
pub fn in_range(value: i64, low: i64, high: i64) -> Wrongs {
    if (low..=high).contains(&value) {
        Wrongs::new()
    } else {
        vec![format!("must be between {low} and {high}, inclusive")]
    }
}

/// A port's number.
pub fn port_number(value: i64) -> Wrongs {
    in_range(value, 1, 65535)
}

/// A user's or group's number.
pub fn user_id(value: i64) -> Wrongs {
    in_range(value, 0, i64::from(i32::MAX))
}

/// A port's name.
pub fn port_name(value: &str) -> Wrongs {
    let charset = !value.is_empty() && value.bytes().all(|b| lower(b) || b == b'-');
    let rules = [
        (value.len() <= 15, max_characters(15)),
        (charset, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into()),
        (value.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)".into()),
        (!value.contains("--"), "must not contain consecutive hyphens".into()),
        (!value.starts_with('-') && !value.ends_with('-'), "must not begin or end with a hyphen".into()),
    ];
    rules.into_iter().filter(|(holds, _)| !holds).map(|(_, wrong)| wrong).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(rule: fn(&str) -> Wrongs, values: &[&str], want: &Expect) {
        let lines: Vec<_> = values.iter().map(|v| format!("{v}: {}", rule(v).join(" | "))).collect();
        want.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn good_ones_pass() {
        for good in ["a", "a-b", "1", "a.b-c.d"] {
            assert_eq!(dns_subdomain(good), Wrongs::new(), "{good}");
        }
        for good in ["a", "example.com/My_Name.x", "1"] {
            assert_eq!(label_key(good), Wrongs::new(), "{good}");
        }
        assert!(
            [label_value(""), port_name("http"), config_key(".dot"), env_name("a b"), port_number(1)]
                .concat()
                .is_empty()
        );
        assert_eq!(prefix(dns_label, "web-"), Wrongs::new());
        assert_ne!(prefix(dns_label, "web."), Wrongs::new());
        assert_ne!(dns1035_label("1a"), Wrongs::new());
    }

    #[test]
    fn labels_and_keys() {
        check(
            dns_label,
            &["A", "a.b", ""],
            &expect![[r#"
            A: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            a.b: must not contain dots
            : a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#]],
        );
        check(
            label_key,
            &["a/b/c", "/b", "a/", "-x"],
            &expect![[r#"
            a/b/c: a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            /b: prefix part must be non-empty
            a/: name part must be non-empty | name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            -x: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#]],
        );
        let long = "a".repeat(64);
        assert_eq!(label_value(&long), ["must be no more than 63 bytes"]);
        assert_eq!(dns_label(&long), ["must be no more than 63 characters"]);
    }

    #[test]
    fn others() {
        check(
            config_key,
            &["a/b", "..x", ".."],
            &expect![[r#"
            a/b: a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            ..x: must not start with '..'
            ..: must not be '..'"#]],
        );
        check(
            port_name,
            &["-A--", ""],
            &expect![[r#"
            -A--: must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-) | must contain at least one letter (a-z) | must not contain consecutive hyphens | must not begin or end with a hyphen
            : must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-) | must contain at least one letter (a-z)"#]],
        );
        check(
            path_segment,
            &["..", "a/%"],
            &expect![[r#"
            ..: may not be '..'
            a/%: may not contain '/' | may not contain '%'"#]],
        );
        assert_eq!(env_name(""), ["environment variable name must be non-empty"]);
    }
}

//! The query part of a request: ordered pairs, decoded; knows no parameter's meaning.

use crate::Error;

/// The decoded pairs of a query in their order; names may repeat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`; empty pairs are skipped, `+` is a space, a name without `=` has the empty value.
    pub fn parse(query: &str) -> Result<Self, Error> {
        query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect::<Result<_, _>>().map(Self)
    }

    /// The first value of `name`.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first value of `name`, unless it is empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|v| !v.is_empty())
    }

    /// All values of `name` in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether `name` says yes: present, and neither `false` nor `0`.
    pub fn is_true(&self, name: &str) -> bool {
        self.first(name).is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
    }

    /// All pairs in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }
}

fn pair(text: &str) -> Result<(String, String), Error> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((decode(name, true)?, decode(value, true)?))
}

/// Undoes percent-encoding; with `plus`, `+` is a space, as in queries.
pub fn decode(text: &str, plus: bool) -> Result<String, Error> {
    if !text.bytes().any(|b| b == b'%' || (plus && b == b'+')) {
        return Ok(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' if plus => b' ',
            b'%' => escaped(&mut bytes).ok_or_else(|| bad_escape(text))?,
            b => b,
        });
    }
    String::from_utf8(out).map_err(|_| bad_escape(text))
}

fn escaped(bytes: &mut std::str::Bytes<'_>) -> Option<u8> {
    let high = char::from(bytes.next()?).to_digit(16)?;
    let low = char::from(bytes.next()?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

fn bad_escape(text: &str) -> Error {
    let start = text.find('%').unwrap_or(0);
    let shown: String = text[start..].chars().take(3).collect();
    Error::Malformed(format!("invalid URL escape {}", crate::field::quote(&shown)))
}

#[cfg(test)]
mod tests {
    use super::Query;
    use expect_test::{Expect, expect};

    fn check(text: &str, want: &Expect) {
        let shown = match Query::parse(text) {
            Ok(query) => query.pairs().map(|(n, v)| format!("{n}={v:?}")).collect::<Vec<_>>().join(" "),
            Err(error) => format!("error: {error}"),
        };
        want.assert_eq(&shown);
    }

    #[test]
    fn reads_what_clients_send() {
        check("", &expect![""]);
        check("?&watch=true".trim_start_matches('?'), &expect![[r#"watch="true""#]]);
        check("command=sh&command=-c&&x", &expect![[r#"command="sh" command="-c" x="""#]]);
        check("labelSelector=env+in+%28prod%2Cdevel%29", &expect![[r#"labelSelector="env in (prod,devel)""#]]);
        check("a=b=c", &expect![[r#"a="b=c""#]]);
        check("a=%zz", &expect![[r#"error: invalid URL escape "%zz""#]]);
        check("a=%f", &expect![[r#"error: invalid URL escape "%f""#]]);
        check("a=%ff", &expect![[r#"error: invalid URL escape "%ff""#]]);
    }

    #[test]
    fn booleans_and_repeats() {
        let q = Query::parse("a=true&b=1&c=false&d=0&e=&f=x&f=y").expect("good");
        assert!(
            q.is_true("a") && q.is_true("b") && q.is_true("e") && !q.is_true("c") && !q.is_true("d") && !q.is_true("z")
        );
        assert_eq!(q.all("f").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(q.non_empty("e"), None);
    }
}

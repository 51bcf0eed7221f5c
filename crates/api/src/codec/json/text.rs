//! JSON text, token by token, with Go's words for what is wrong with it. Knows no schema.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

/// How deep a document may nest; no kind comes near.
const DEEPEST: usize = 200;

/// A place in a text.
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

/// What begins at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Null,
    Bool(bool),
    /// The literal.
    Number(&'a str),
    /// Opened; read it by [`Text::string`].
    String,
    /// Opened; read it by [`Text::next_key`].
    Object,
    /// Opened; read it by [`Text::next_item`].
    Array,
}

type Result<T> = std::result::Result<T, String>;

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    fn peek(&mut self) -> Option<u8> {
        while let Some(b) = self.bytes.get(self.at) {
            if !matches!(b, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(*b);
            }
            self.at += 1;
        }
        None
    }

    /// The error that the byte at hand (or the end) does not fit.
    fn wrong<T>(&self, context: &str) -> Result<T> {
        match self.bytes.get(self.at) {
            None => Err("unexpected end of JSON input".to_owned()),
            Some(b) => Err(format!("invalid character {} {context}", quote_byte(*b))),
        }
    }

    /// Reads a scalar or opens a string, list or object.
    pub(super) fn token(&mut self) -> Result<Token<'a>> {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Ok(Token::String)
            }
            Some(b'{') => self.open(Token::Object),
            Some(b'[') => self.open(Token::Array),
            Some(b't') => self.literal("true", Token::Bool(true)),
            Some(b'f') => self.literal("false", Token::Bool(false)),
            Some(b'n') => self.literal("null", Token::Null),
            Some(b'-' | b'0'..=b'9') => self.number().map(Token::Number),
            _ => self.wrong("looking for beginning of value"),
        }
    }

    fn open(&mut self, token: Token<'a>) -> Result<Token<'a>> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEEPEST { Err("exceeded max depth".to_owned()) } else { Ok(token) }
    }

    fn literal(&mut self, word: &str, token: Token<'a>) -> Result<Token<'a>> {
        for (i, want) in word.bytes().enumerate() {
            if self.bytes.get(self.at) != Some(&want) {
                debug_assert!(i > 0, "the first letter chose the word");
                return self.wrong(&format!("in literal {word} (expecting '{}')", char::from(want)));
            }
            self.at += 1;
        }
        Ok(token)
    }

    fn number(&mut self) -> Result<&'a str> {
        let start = self.at;
        self.at += usize::from(self.bytes[self.at] == b'-');
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            self.digits("in exponent of numeric literal")?;
        }
        Ok(std::str::from_utf8(&self.bytes[start..self.at]).expect("digits and signs are ASCII"))
    }

    fn digits(&mut self, context: &str) -> Result<()> {
        if !self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            return self.wrong(context);
        }
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }

    /// The rest of an opened string. Bytes that are no UTF-8 become U+FFFD, as in Go.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>> {
        let start = self.at;
        while let Some(b) = self.bytes.get(self.at) {
            match b {
                b'"' => {
                    self.at += 1;
                    return Ok(String::from_utf8_lossy(&self.bytes[start..self.at - 1]));
                }
                b'\\' => return self.escaped_string(start).map(Cow::Owned),
                0..=0x1f => break,
                _ => self.at += 1,
            }
        }
        self.wrong("in string literal")
    }

    fn escaped_string(&mut self, start: usize) -> Result<String> {
        let mut out = String::new();
        let mut from = start;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    out.push_str(&String::from_utf8_lossy(&self.bytes[from..self.at]));
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    out.push_str(&String::from_utf8_lossy(&self.bytes[from..self.at]));
                    self.at += 1;
                    out.push(self.escape()?);
                    from = self.at;
                }
                Some(0..=0x1f) | None => return self.wrong("in string literal"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let c = match self.bytes.get(self.at) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return self.wrong("in string escape code"),
        };
        self.at += 1;
        Ok(c)
    }

    /// A `\u` escape; two that form a pair are read together, a lone half becomes U+FFFD.
    fn unicode(&mut self) -> Result<char> {
        let first = self.hex()?;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        let saved = self.at;
        if first < 0xdc00 && self.bytes[self.at..].starts_with(b"\\u") {
            self.at += 1;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let joined = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(joined).unwrap_or('\u{fffd}'));
            }
            self.at = saved;
        }
        Ok('\u{fffd}')
    }

    /// `u` and four hexadecimal digits.
    fn hex(&mut self) -> Result<u32> {
        self.at += 1;
        let mut value = 0;
        for _ in 0..4 {
            match self.bytes.get(self.at).and_then(|b| char::from(*b).to_digit(16)) {
                Some(digit) => value = value * 16 + digit,
                None => return self.wrong("in \\u hexadecimal character escape"),
            }
            self.at += 1;
        }
        Ok(value)
    }

    /// The next key of an opened object with its colon, or `None` behind its end.
    pub(super) fn next_key(&mut self, first: bool) -> Result<Option<Cow<'a, str>>> {
        match self.peek() {
            Some(b'}') if first => return self.close(),
            Some(b'}') => return self.close(),
            Some(b',') if !first => {
                self.at += 1;
                self.peek();
            }
            _ if !first => return self.wrong("after object key:value pair"),
            _ => {}
        }
        if self.bytes.get(self.at) != Some(&b'"') {
            return self.wrong("looking for beginning of object key string");
        }
        self.at += 1;
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return self.wrong("after object key");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether an opened list has a next item; `false` is behind its end.
    pub(super) fn next_item(&mut self, first: bool) -> Result<bool> {
        match self.peek() {
            Some(b']') => self.close::<()>().map(|_| false),
            Some(b',') if !first => {
                self.at += 1;
                Ok(true)
            }
            _ if !first => self.wrong("after array element"),
            _ => Ok(true),
        }
    }

    fn close<T>(&mut self) -> Result<Option<T>> {
        self.at += 1;
        self.depth -= 1;
        Ok(None)
    }

    /// Nothing but space may follow.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.peek().is_some() { self.wrong("after top-level value") } else { Ok(()) }
    }

    /// The value that `token` begins, whatever it is.
    pub(super) fn any(&mut self, token: Token<'a>) -> Result<Value> {
        Ok(match token {
            Token::Null => Value::Null,
            Token::Bool(b) => Value::Bool(b),
            Token::Number(literal) => Value::Number(number(literal)?),
            Token::String => Value::String(self.string()?.into_owned()),
            Token::Object => {
                let mut map = Map::new();
                while let Some(key) = self.next_key(map.is_empty())? {
                    let token = self.token()?;
                    let value = self.any(token)?;
                    map.insert(key.into_owned(), value);
                }
                Value::Object(map)
            }
            Token::Array => {
                let mut items = Vec::new();
                while self.next_item(items.is_empty())? {
                    let token = self.token()?;
                    items.push(self.any(token)?);
                }
                Value::Array(items)
            }
        })
    }

    /// Passes over the value that `token` begins.
    pub(super) fn skip(&mut self, token: Token<'a>) -> Result<()> {
        let mut first = true;
        match token {
            Token::String => drop(self.string()?),
            Token::Object => {
                while self.next_key(first)?.is_some() {
                    first = false;
                    let token = self.token()?;
                    self.skip(token)?;
                }
            }
            Token::Array => {
                while self.next_item(first)? {
                    first = false;
                    let token = self.token()?;
                    self.skip(token)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A literal as a number of JSON: whole if it is written so and fits.
pub(super) fn number(literal: &str) -> Result<Number> {
    if let Ok(n) = literal.parse::<i64>() {
        return Ok(n.into());
    }
    if let Ok(n) = literal.parse::<u64>() {
        return Ok(n.into());
    }
    let float = literal.parse::<f64>().ok().and_then(Number::from_f64);
    float.ok_or_else(|| format!("json: cannot unmarshal number {literal} into Go value of type float64"))
}

/// A byte as Go's scanner quotes it.
fn quote_byte(b: u8) -> String {
    match b {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b => {
            let quoted = crate::field::quote(&char::from(b).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

//! Walks JSON text along the schema: prunes, counts what is unknown, checks types, normalises values.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::text::{Text, Token, number};
use crate::codec::zero;
use crate::field::quote;
use crate::schema::{Field, Shape, Type};
use crate::{Error, quantity, time};

/// No more complaints than this are kept about one body.
const MOST_COMPLAINTS: usize = 100;

/// One step into the document.
enum Step {
    Field(&'static Field),
    Index(usize),
    Key(String),
}

/// What a walk found.
pub(super) struct Walk<'a> {
    text: Text<'a>,
    path: Vec<Step>,
    structs: Vec<&'static str>,
    /// What is wrong with the types of apiVersion and kind, which are read before all else.
    pub(super) headless: Option<String>,
    /// The first value of a wrong type; the walk goes on behind it.
    pub(super) mistyped: Option<String>,
    /// Unknown and duplicate fields in their order.
    pub(super) complaints: Vec<String>,
}

type Result<T> = std::result::Result<T, String>;

impl<'a> Walk<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self {
            text: Text::new(body),
            path: Vec::new(),
            structs: Vec::new(),
            headless: None,
            mistyped: None,
            complaints: Vec::new(),
        }
    }

    /// The whole document as a struct of type `of`; an error is one of syntax.
    pub(super) fn document(&mut self, of: &'static Type) -> Result<Value> {
        let value = match self.text.token()? {
            Token::Object => self.object(of)?,
            Token::Null => empty(of),
            token => {
                let word = word(token);
                self.text.skip(token)?;
                self.mistyped = Some(format!("json: cannot unmarshal {word} into Go value of type {HEAD_TYPE}"));
                Value::Null
            }
        };
        self.text.end()?;
        Ok(value)
    }

    fn object(&mut self, of: &'static Type) -> Result<Value> {
        let mut map = Map::new();
        let mut seen = 0_u128;
        let mut first = true;
        self.structs.push(of.short_name());
        while let Some(key) = self.text.next_key(first)? {
            first = false;
            let token = self.text.token()?;
            let Some(index) = of.index(&key) else {
                self.complain("unknown", &key);
                self.text.skip(token)?;
                continue;
            };
            let bit = 1_u128.checked_shl(index as u32).unwrap_or(0);
            if seen & bit != 0 {
                self.complain("duplicate", &key);
            }
            seen |= bit;
            let field = &of.fields[index];
            self.path.push(Step::Field(field));
            let value = self.value(&field.shape, &field.shape, token)?;
            self.path.pop();
            zero::put(&mut map, field, value);
        }
        self.structs.pop();
        zero::finish(&mut map, of);
        Ok(Value::Object(map))
    }

    /// A value of `shape`; null if it is absent or of a wrong type. `named` is the shape with its Go name.
    fn value(&mut self, shape: &'static Shape, named: &'static Shape, token: Token<'a>) -> Result<Value> {
        if token == Token::Null {
            return Ok(Value::Null);
        }
        match (shape, token) {
            (Shape::Named(inner, _), token) => self.value(inner, named, token),
            (Shape::Struct(_), Token::Object) => match shape.target() {
                Some(of) => self.object(of),
                None => self.text.any(token),
            },
            (Shape::List(item), Token::Array) => self.list(item),
            (Shape::Map(value), Token::Object) => self.map(value),
            (Shape::Any | Shape::Raw | Shape::Fields, token) => self.text.any(token),
            (Shape::Bool, Token::Bool(b)) => Ok(Value::Bool(b)),
            (Shape::String, Token::String) => Ok(Value::String(self.text.string()?.into_owned())),
            (Shape::Int32 | Shape::Int64 | Shape::Float64, Token::Number(literal)) => {
                self.number(shape, named, literal)
            }
            (Shape::Bytes, Token::String) => self.bytes(),
            (Shape::Quantity | Shape::Time | Shape::MicroTime | Shape::Duration | Shape::IntOrString, token) => {
                self.special(shape, token)
            }
            (_, token) => self.mistype(named.go(), token),
        }
    }

    fn list(&mut self, item: &'static Shape) -> Result<Value> {
        let mut items = Vec::new();
        while self.text.next_item(items.is_empty())? {
            let token = self.text.token()?;
            self.path.push(Step::Index(items.len()));
            let value = self.value(item, item, token)?;
            self.path.pop();
            items.push(if value.is_null() { zero::zero(item) } else { value });
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, shape: &'static Shape) -> Result<Value> {
        let mut map = Map::new();
        let mut first = true;
        while let Some(key) = self.text.next_key(first)? {
            first = false;
            let token = self.text.token()?;
            if map.contains_key(&*key) {
                self.complain("duplicate", &key);
            }
            let has_fields = shape.target().is_some();
            if has_fields {
                self.path.push(Step::Key(key.to_string()));
            }
            let value = self.value(shape, shape, token)?;
            if has_fields {
                self.path.pop();
            }
            map.insert(key.into_owned(), if value.is_null() { zero::zero(shape) } else { value });
        }
        Ok(Value::Object(map))
    }

    fn number(&mut self, shape: &Shape, named: &'static Shape, literal: &str) -> Result<Value> {
        let fits = match shape {
            Shape::Float64 => number(literal).ok().map(Value::Number),
            Shape::Int32 => literal.parse::<i32>().ok().map(Value::from),
            _ => literal.parse::<i64>().ok().map(Value::from),
        };
        Ok(fits.unwrap_or_else(|| {
            self.note_type(&format!("number {literal}"), &named.go());
            Value::Null
        }))
    }

    fn bytes(&mut self) -> Result<Value> {
        let text = self.text.string()?;
        let engine = base64::engine::general_purpose::STANDARD;
        let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        match engine.decode(&clean) {
            Ok(bytes) => Ok(Value::String(engine.encode(bytes))),
            Err(error) => {
                self.note(format!("illegal base64 data at input byte {}", bad_byte(&error, &clean)));
                Ok(Value::Null)
            }
        }
    }

    /// Types with JSON readers of their own in Go.
    fn special(&mut self, shape: &Shape, token: Token<'a>) -> Result<Value> {
        let read = match (shape, token) {
            (Shape::IntOrString, Token::String) => Ok(self.text.string()?.into_owned()),
            (Shape::IntOrString, Token::Number(literal)) => {
                let fits = literal.parse::<i32>().ok();
                return Ok(fits.map(Value::from).unwrap_or_else(|| {
                    self.note_type(&format!("number {literal}"), "int32");
                    Value::Null
                }));
            }
            (Shape::IntOrString, token) => return self.mistype("int32".to_owned(), token),
            (Shape::Quantity, Token::String) => quantity::canonical(self.text.string()?.trim()),
            (Shape::Quantity, Token::Number(literal)) => quantity::canonical(literal),
            (Shape::Quantity, token) => {
                self.text.skip(token)?;
                quantity::canonical("?")
            }
            (Shape::Duration, Token::String) => Ok(self.text.string()?.into_owned()),
            (Shape::Time, Token::String) => time::parse(&self.text.string()?).map(time::format),
            (Shape::MicroTime, Token::String) => time::parse_micro(&self.text.string()?).map(time::format_micro),
            (_, token) => return self.mistype("string".to_owned(), token),
        };
        Ok(read.map(Value::String).unwrap_or_else(|error: Error| {
            self.note(error.to_string());
            Value::Null
        }))
    }

    fn mistype(&mut self, want: String, token: Token<'a>) -> Result<Value> {
        let literal = match (want.as_str(), token) {
            ("int32" | "int64" | "float64", Token::Number(n)) => format!("number {n}"),
            (_, token) => word(token).to_owned(),
        };
        self.note_type(&literal, &want);
        self.text.skip(token)?;
        Ok(Value::Null)
    }

    fn note_type(&mut self, found: &str, want: &str) {
        if let [Step::Field(field)] = self.path.as_slice()
            && field.through == "TypeMeta."
        {
            let name = field.name;
            self.headless.get_or_insert_with(|| {
                format!("json: cannot unmarshal {found} into Go struct field .{name} of type {want}")
            });
        }
        let fields: Vec<String> = self.path.iter().filter_map(shown).collect();
        let owner = self.structs.last().copied().unwrap_or_default();
        let fields = fields.join(".");
        self.note(format!("json: cannot unmarshal {found} into Go struct field {owner}.{fields} of type {want}"));
    }

    fn note(&mut self, message: String) {
        self.mistyped.get_or_insert(message);
    }

    fn complain(&mut self, what: &str, key: &str) {
        if self.complaints.len() >= MOST_COMPLAINTS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(i) => path.push_str(&format!("[{i}]")),
                Step::Field(field) => push_name(&mut path, field.name),
                Step::Key(name) => push_name(&mut path, name),
            }
        }
        push_name(&mut path, key);
        let text = format!("{what} field {}", quote(&path));
        if !self.complaints.contains(&text) {
            self.complaints.push(text);
        }
    }
}

fn shown(step: &Step) -> Option<String> {
    match step {
        Step::Field(field) => Some(format!("{}{}", field.through, field.name)),
        _ => None,
    }
}

/// How Go prints the struct into which it reads the head of any object.
const HEAD_TYPE: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

fn empty(of: &'static Type) -> Value {
    let mut map = Map::new();
    zero::finish(&mut map, of);
    Value::Object(map)
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn word(token: Token<'_>) -> &'static str {
    match token {
        Token::Null => "null",
        Token::Bool(_) => "bool",
        Token::Number(_) => "number",
        Token::String => "string",
        Token::Object => "object",
        Token::Array => "array",
    }
}

/// The offset Go names for bad base64.
fn bad_byte(error: &base64::DecodeError, text: &str) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        _ => text.trim_end_matches('=').len() / 4 * 4,
    }
}

//! Protobuf bodies: a decoder for every type of the schema at once. The bytes come from anywhere, so each length and
//! depth is checked; what is read is finished by the same rule as JSON, since protobuf writes zeros that JSON omits.

mod wire;

use base64::Engine as _;
use serde_json::{Map, Value};

use super::json::{self, Decoded};
use super::zero;
use crate::kind::Kind;
use crate::schema::{self, Field, Shape, Slot, Type};
use crate::{Error, quantity, time};
use wire::{Datum, Fields};

/// What stands before every message.
pub const PREFIX: &[u8] = b"k8s\0";

/// How deep messages may nest.
const DEEPEST: usize = 100;

/// Seconds of Go's zero time, which means "no time".
const ZERO_TIME: i64 = -62_135_596_800;

type Result<T> = std::result::Result<T, String>;

/// The wrapper around a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Of the message.
    pub api_version: String,
    /// Of the message.
    pub kind: String,
    /// The message.
    pub raw: &'a [u8],
}

/// Opens the wrapper.
pub fn envelope(body: &[u8]) -> std::result::Result<Envelope<'_>, Error> {
    let inner = body.strip_prefix(PREFIX).ok_or_else(|| {
        Error::Malformed(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".to_owned(),
        )
    })?;
    open(inner).map_err(Error::Malformed)
}

fn open(inner: &[u8]) -> Result<Envelope<'_>> {
    let mut found = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    for field in Fields::new(inner) {
        match field? {
            (1, Datum::Bytes(type_meta)) => {
                for field in Fields::new(type_meta) {
                    match field? {
                        (1, Datum::Bytes(text)) => found.api_version = string(text),
                        (2, Datum::Bytes(text)) => found.kind = string(text),
                        _ => {}
                    }
                }
            }
            (2, Datum::Bytes(raw)) => found.raw = raw,
            (3, Datum::Bytes(encoding)) if !encoding.is_empty() => {
                return Err("unsupported content encoding".to_owned());
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Decodes the body of a create or update: an object of `kind`.
pub fn decode(kind: &'static Kind, body: &[u8]) -> std::result::Result<Decoded, Error> {
    let unrecognized = |error: Error| {
        Error::Malformed(format!(
            "the object provided is unrecognized (must be of type {}): {error} ({})",
            kind.kind,
            json::summary(body)
        ))
    };
    let envelope = envelope(body).map_err(unrecognized)?;
    let of =
        schema::lookup(kind.schema).ok_or_else(|| Error::Untyped(format!("no type {} in the schema", kind.schema)))?;
    let mut head = Value::Object(Map::new());
    json::set_head(&mut head, &envelope.api_version, &envelope.kind);
    json::check_head(kind, &mut head)?;
    let mut value = decode_type(of, envelope.raw)
        .map_err(|error| Error::Malformed(json::cannot_be_handled(kind, &error.to_string())))?;
    json::check_head(kind, &mut value)?;
    Ok(Decoded { value, warnings: Vec::new() })
}

/// Decodes a bare message of type `of`.
pub fn decode_type(of: &'static Type, raw: &[u8]) -> std::result::Result<Value, Error> {
    message(of, raw, 0).map_err(Error::Malformed)
}

fn message(of: &'static Type, raw: &[u8], depth: usize) -> Result<Value> {
    if depth > DEEPEST {
        return Err("exceeded max depth".to_owned());
    }
    let mut map = Map::new();
    fill(&mut map, of, raw, depth)?;
    for field in of.fields.iter().filter(|f| f.omitempty) {
        if let Some(value) = map.remove(field.name) {
            zero::put(&mut map, field, value);
        }
    }
    zero::finish(&mut map, of);
    Ok(Value::Object(map))
}

fn fill(map: &mut Map<String, Value>, of: &'static Type, raw: &[u8], depth: usize) -> Result<()> {
    for field in Fields::new(raw) {
        let (number, datum) = field?;
        match (of.slot(number), datum) {
            (Some(Slot::Field(index)), datum) => {
                let field = &of.fields[index];
                put(map, field, datum, depth).map_err(|e| format!("{}.{}: {e}", of.short_name(), field.name))?;
            }
            (Some(Slot::Inline(name)), Datum::Bytes(raw)) if depth < DEEPEST => {
                let inner = schema::lookup(name).ok_or("unknown inlined type")?;
                fill(map, inner, raw, depth + 1)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Adds one occurrence of a field; lists and maps grow by each.
fn put(map: &mut Map<String, Value>, field: &'static Field, datum: Datum<'_>, depth: usize) -> Result<()> {
    match &field.shape {
        Shape::List(item) => {
            let slot = map.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let items = slot.as_array_mut().ok_or("not a list")?;
            push_items(items, item, datum, depth)
        }
        shape if matches!(shape.bare(), Shape::Map(_)) => {
            let Shape::Map(value) = shape.bare() else { return Ok(()) };
            let slot = map.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let entries = slot.as_object_mut().ok_or("not a map")?;
            let (key, value) = entry(value, datum, depth)?;
            entries.insert(key, value);
            Ok(())
        }
        shape => {
            let value = value(shape, datum, depth)?;
            map.insert(field.name.to_owned(), value);
            Ok(())
        }
    }
}

/// One item, or several packed into one field.
fn push_items(items: &mut Vec<Value>, item: &'static Shape, datum: Datum<'_>, depth: usize) -> Result<()> {
    let is_integer = matches!(item.bare(), Shape::Int32 | Shape::Int64 | Shape::Bool);
    match datum {
        Datum::Bytes(packed) if is_integer => {
            let mut rest = packed;
            while !rest.is_empty() {
                let number = wire::varint(&mut rest)?;
                items.push(value(item, Datum::Varint(number), depth)?);
            }
        }
        datum => items.push(value(item, datum, depth)?),
    }
    Ok(())
}

fn entry(shape: &'static Shape, datum: Datum<'_>, depth: usize) -> Result<(String, Value)> {
    let mut key = String::new();
    let mut found = zero::zero(shape);
    for field in Fields::new(datum.bytes()?) {
        match field? {
            (1, Datum::Bytes(text)) => key = string(text),
            (2, datum) => found = value(shape, datum, depth)?,
            _ => {}
        }
    }
    Ok((key, found))
}

fn value(shape: &'static Shape, datum: Datum<'_>, depth: usize) -> Result<Value> {
    Ok(match shape {
        Shape::Named(inner, _) => match &**inner {
            // A list with a name of its own is a message of items.
            Shape::List(item) => wrapped(item, datum, depth)?,
            inner => value(inner, datum, depth)?,
        },
        Shape::String => Value::from(string(datum.bytes()?)),
        Shape::Bytes => Value::from(base64::engine::general_purpose::STANDARD.encode(datum.bytes()?)),
        Shape::Bool => Value::Bool(datum.varint()? != 0),
        // The low 32 bits, as the number was sign-extended by its writer.
        Shape::Int32 => Value::from(datum.varint()? as u32 as i32),
        Shape::Int64 => Value::from(datum.varint()?.cast_signed()),
        Shape::Float64 => float(f64::from_bits(datum.fixed64()?)),
        Shape::Quantity => {
            let text = field_text(datum.bytes()?, 1)?;
            Value::from(quantity::canonical(if text.is_empty() { "0" } else { &text }).map_err(|e| e.to_string())?)
        }
        Shape::IntOrString => int_or_string(datum.bytes()?)?,
        Shape::Time => timestamp(datum.bytes()?, time::format)?,
        Shape::MicroTime => timestamp(datum.bytes()?, time::format_micro)?,
        Shape::Duration => Value::from(format!("{}ns", field_number(datum.bytes()?, 1)?)),
        Shape::Any | Shape::Raw | Shape::Fields => raw_json(datum.bytes()?)?,
        Shape::Struct(name) => message(schema::lookup(name).ok_or("unknown type")?, datum.bytes()?, depth + 1)?,
        Shape::List(_) | Shape::Map(_) => return Err("a list within a list".to_owned()),
    })
}

fn wrapped(item: &'static Shape, datum: Datum<'_>, depth: usize) -> Result<Value> {
    let mut items = Vec::new();
    for field in Fields::new(datum.bytes()?) {
        if let (1, datum) = field? {
            push_items(&mut items, item, datum, depth)?;
        }
    }
    Ok(Value::Array(items))
}

fn string(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// As Go writes it: whole numbers without a fraction, what is no number not at all.
fn float(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT { Value::from(number as i64) } else { Value::from(number) }
}

fn field_text(raw: &[u8], wanted: u32) -> Result<String> {
    let mut text = String::new();
    for field in Fields::new(raw) {
        if let (number, Datum::Bytes(found)) = field?
            && number == wanted
        {
            text = string(found);
        }
    }
    Ok(text)
}

fn field_number(raw: &[u8], wanted: u32) -> Result<i64> {
    let mut value = 0;
    for field in Fields::new(raw) {
        if let (number, Datum::Varint(found)) = field?
            && number == wanted
        {
            value = found.cast_signed();
        }
    }
    Ok(value)
}

fn int_or_string(raw: &[u8]) -> Result<Value> {
    match field_number(raw, 1)? {
        0 => Ok(Value::from(field_number(raw, 2)? as i32)),
        _ => Ok(Value::from(field_text(raw, 3)?)),
    }
}

fn timestamp(raw: &[u8], format: impl Fn(jiff::Timestamp) -> String) -> Result<Value> {
    let (seconds, nanos) = (field_number(raw, 1)?, field_number(raw, 2)?);
    if raw.is_empty() || seconds == ZERO_TIME {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|e| e.to_string())?;
    jiff::Timestamp::new(seconds, nanos).map(|t| Value::from(format(t))).map_err(|e| e.to_string())
}

fn raw_json(raw: &[u8]) -> Result<Value> {
    for field in Fields::new(raw) {
        if let (1, Datum::Bytes(text)) = field?
            && !text.is_empty()
        {
            return json::parse(text).map_err(|e| e.to_string());
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests;

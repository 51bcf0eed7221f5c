//! What Go's JSON encoder writes and leaves out: the one rule by which every decoder here finishes a struct, so that
//! an object reads the same whichever way it came.

use serde_json::{Map, Value};

use crate::schema::{Field, Shape, Type};

/// Puts a decoded field into its struct, unless the encoder would leave it out.
pub(super) fn put(map: &mut Map<String, Value>, field: &Field, value: Value) {
    if value.is_null() || (field.omitempty && !field.pointer && is_empty(&value, field.shape.bare())) {
        map.remove(field.name);
    } else {
        map.insert(field.name.to_owned(), value);
    }
}

/// Adds what the encoder writes although it was never set.
pub(super) fn finish(map: &mut Map<String, Value>, of: &Type) {
    for index in &of.always {
        let field = &of.fields[*index];
        if !map.contains_key(field.name) {
            map.insert(field.name.to_owned(), if field.pointer { Value::Null } else { zero(&field.shape) });
        }
    }
}

/// The value of a shape that was never set, as the encoder writes it.
pub(super) fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Named(inner, _) => zero(inner),
        Shape::String | Shape::Duration => Value::from(""),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Struct(_) => {
            let mut map = Map::new();
            if let Some(of) = shape.target() {
                finish(&mut map, of);
            }
            Value::Object(map)
        }
        _ => Value::Null,
    }
}

/// Whether `omitempty` concerns the value: structs by value (also times and quantities) are never empty to Go.
fn is_empty(value: &Value, shape: &Shape) -> bool {
    match (value, shape) {
        (_, Shape::Struct(_) | Shape::Quantity | Shape::IntOrString | Shape::Raw) => false,
        (Value::Null | Value::Bool(false), _) => true,
        (Value::Number(n), _) => n.as_f64() == Some(0.0),
        (Value::String(s), _) => s.is_empty(),
        (Value::Array(items), _) => items.is_empty(),
        (Value::Object(map), _) => map.is_empty(),
        _ => false,
    }
}

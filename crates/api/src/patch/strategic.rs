//! Strategic merge patches: merge patches that know by which key the items of a list are told apart, with
//! directives (`$patch`, `$retainKeys`, `$deleteFromPrimitiveList`, `$setElementOrder`) for what a merge cannot say.

mod diff;
mod list;

pub use diff::{diff, three_way};

use serde_json::{Map, Value};

use crate::Error;
use crate::schema::{Field, Shape, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList";
const ORDER_PREFIX: &str = "$setElementOrder";

/// `current` with `patch` merged into it; `of` is its type.
pub fn apply(of: Option<&'static Type>, current: Value, patch: Value) -> Result<Value, Error> {
    match (current, patch) {
        (Value::Object(current), Value::Object(patch)) => {
            let place = of.map_or(Place::Unknown, Place::Struct);
            merge_map(place, current, patch).map(Value::Object)
        }
        _ => Err(Error::Malformed("invalid JSON document".to_owned())),
    }
}

/// What the schema knows about the map at hand.
#[derive(Clone, Copy)]
enum Place {
    Struct(&'static Type),
    Map(&'static Shape),
    Unknown,
}

impl Place {
    fn of_shape(shape: &'static Shape) -> Self {
        match shape {
            Shape::Named(inner, _) => Self::of_shape(inner),
            Shape::Struct(_) => shape.target().map_or(Self::Unknown, Self::Struct),
            Shape::Map(value) => Self::Map(value),
            Shape::List(item) => Self::of_shape(item),
            _ => Self::Unknown,
        }
    }

    fn field(self, key: &str) -> Option<&'static Field> {
        match self {
            Self::Struct(of) => of.field(key),
            _ => None,
        }
    }

    fn child(self, key: &str) -> Self {
        match self {
            Self::Struct(of) => of.field(key).map_or(Self::Unknown, |f| Self::of_shape(&f.shape)),
            Self::Map(value) => Self::of_shape(value),
            Self::Unknown => Self::Unknown,
        }
    }
}

fn merge_map(
    place: Place,
    mut current: Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<Map<String, Value>, Error> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            _ => Err(bad(format!("unknown patch type: {directive}"))),
        };
    }
    retain_keys(&mut current, &mut patch)?;
    for key in patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect::<Vec<_>>() {
        let order = patch.remove(&key).unwrap_or(Value::Null);
        ordered(place, &mut current, &mut patch, &key, order)?;
    }
    for (key, value) in patch {
        match key.strip_prefix(DELETE_PREFIX) {
            Some(name) => delete_scalars(&mut current, name, value)?,
            None => merge_field(place, &mut current, key, value)?,
        }
    }
    Ok(current)
}

fn merge_field(place: Place, current: &mut Map<String, Value>, key: String, patch: Value) -> Result<(), Error> {
    if patch.is_null() {
        current.remove(&key);
        return Ok(());
    }
    let merged = match (current.remove(&key), patch) {
        (Some(Value::Object(_)), Value::Object(patch)) if place.field(&key).is_some_and(|f| f.replaces) => {
            Some(Value::Object(patch))
        }
        (Some(Value::Object(before)), Value::Object(patch)) => {
            Some(Value::Object(merge_map(place.child(&key), before, patch)?))
        }
        (Some(Value::Array(before)), Value::Array(patch)) => {
            Some(Value::Array(merge_list(place, &key, before, patch, None)?))
        }
        (_, patch) => fresh(patch),
    };
    if let Some(merged) = merged {
        current.insert(key, merged);
    }
    Ok(())
}

/// A list by its field's strategy; `order` is what `$setElementOrder` says.
fn merge_list(
    place: Place,
    key: &str,
    before: Vec<Value>,
    patch: Vec<Value>,
    order: Option<&[Value]>,
) -> Result<Vec<Value>, Error> {
    match place.field(key) {
        Some(field) if field.merges => list::merge(place.child(key), key, field.merge_key, before, patch, order),
        _ => Ok(patch),
    }
}

/// A value where none was: nulls and directives have nothing to act on; what asks for its own removal is gone.
fn fresh(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let fields = map.into_iter().filter(|(k, v)| !v.is_null() && !is_directive(k));
            Some(Value::Object(fields.filter_map(|(k, v)| fresh(v).map(|v| (k, v))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(fresh).collect())),
        other => Some(other),
    }
}

fn is_directive(key: &str) -> bool {
    key == RETAIN_KEYS || key.starts_with(DELETE_PREFIX) || key.starts_with(ORDER_PREFIX)
}

/// `$retainKeys`: every other field goes, and the patch may set none of those.
fn retain_keys(current: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let malformed = || bad("invalid patch format of retainKeys".to_owned());
    let keys = keys.as_array().ok_or_else(malformed)?.clone();
    let is_kept = |key: &str| keys.iter().any(|k| k == key);
    if patch.iter().any(|(k, v)| !v.is_null() && !is_directive(k) && !is_kept(k)) {
        return Err(malformed());
    }
    current.retain(|key, _| is_kept(key));
    Ok(())
}

/// `$setElementOrder/FIELD`: merges the field and puts its items into that order.
fn ordered(
    place: Place,
    current: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    directive: &str,
    order: Value,
) -> Result<(), Error> {
    let malformed = || bad("invalid patch format of setElementOrder list".to_owned());
    let key = directive.strip_prefix(ORDER_PREFIX).and_then(|k| k.strip_prefix('/')).ok_or_else(malformed)?;
    let Value::Array(order) = order else { return Err(malformed()) };
    let before = match current.get(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.clone(),
        Some(_) => return Err(malformed()),
    };
    let items = match patch.remove(key) {
        None => Vec::new(),
        Some(Value::Array(items)) => items,
        // Null deletes the list as a whole; there is nothing to order then.
        Some(other) => {
            patch.insert(key.to_owned(), other);
            return Ok(());
        }
    };
    if before.is_empty() && items.is_empty() {
        return Ok(());
    }
    let merged = merge_list(place, key, before, items, Some(&order))?;
    current.insert(key.to_owned(), Value::Array(merged));
    Ok(())
}

/// `$deleteFromPrimitiveList/FIELD`: takes these values out of the field's list.
fn delete_scalars(current: &mut Map<String, Value>, name: &str, unwanted: Value) -> Result<(), Error> {
    let malformed = || bad("invalid patch format of primitive list".to_owned());
    let name = name.strip_prefix('/').ok_or_else(malformed)?;
    let Value::Array(unwanted) = unwanted else { return Err(malformed()) };
    if let Some(Value::Array(items)) = current.get_mut(name) {
        items.retain(|item| !unwanted.contains(item));
    }
    Ok(())
}

fn bad(message: String) -> Error {
    Error::Malformed(message)
}

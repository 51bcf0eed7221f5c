//! The strategic merge patch of an apply, made in one walk over three documents: what was applied last, what is
//! applied now, what is there.

use serde_json::{Map, Value, json};

use super::{DELETE_PREFIX, ORDER_PREFIX, PATCH, Place, RETAIN_KEYS};
use crate::schema::{Field, Type};

/// The patch that makes `modified` of `current`.
pub fn diff(of: Option<&'static Type>, current: &Value, modified: &Value) -> Value {
    three_way(of, current, modified, current)
}

/// The patch that removes what `original` had and `modified` has no more, and sets what `modified` says differently
/// from `current`; what others put into `current` stays.
pub fn three_way(of: Option<&'static Type>, original: &Value, modified: &Value, current: &Value) -> Value {
    let place = of.map_or(Place::Unknown, Place::Struct);
    Value::Object(maps(place, original, modified, current))
}

fn maps(place: Place, original: &Value, modified: &Value, current: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    for (key, value) in modified.as_object().into_iter().flatten() {
        if value.is_null() {
            continue;
        }
        let before = original.get(key).unwrap_or(&Value::Null);
        match current.get(key) {
            Some(now) if now == value => {}
            Some(now) => changed(&mut patch, place, key, before, value, now),
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    for key in original.as_object().into_iter().flat_map(Map::keys) {
        if modified.get(key).is_none_or(Value::is_null) && current.get(key).is_some() {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch
}

/// A field that is there with another value.
fn changed(
    patch: &mut Map<String, Value>,
    place: Place,
    key: &str,
    original: &Value,
    modified: &Value,
    current: &Value,
) {
    let field = place.field(key);
    match (modified, current) {
        (Value::Object(new), Value::Object(_)) if !field.is_some_and(|f| f.replaces) => {
            let mut inner = maps(place.child(key), original, modified, current);
            if !inner.is_empty() {
                if field.is_some_and(|f| f.retains_keys) {
                    inner.insert(RETAIN_KEYS.to_owned(), new.keys().cloned().collect());
                }
                patch.insert(key.to_owned(), Value::Object(inner));
            }
        }
        (Value::Array(new), Value::Array(now)) if field.is_some_and(|f| f.merges) => {
            let old = original.as_array().map_or(&[][..], Vec::as_slice);
            let lists = Lists { old, new, now };
            match field.and_then(|f| f.merge_key.map(|k| (f, k))) {
                Some((field, id)) => lists.of_maps(patch, place.child(key), field, id),
                None => lists.of_scalars(patch, key),
            }
        }
        _ => drop(patch.insert(key.to_owned(), modified.clone())),
    }
}

/// A merged list in the three documents.
struct Lists<'a> {
    old: &'a [Value],
    new: &'a [Value],
    now: &'a [Value],
}

impl Lists<'_> {
    fn of_maps(&self, patch: &mut Map<String, Value>, place: Place, field: &Field, id: &str) {
        let find = |list: &[Value], item: &Value| list.iter().find(|o| o.get(id) == item.get(id)).cloned();
        let mut items = Vec::new();
        for item in self.new {
            match find(self.now, item) {
                None => items.push(item.clone()),
                Some(now) if now == *item => {}
                Some(now) => {
                    let old = find(self.old, item).unwrap_or(Value::Null);
                    items.extend(self.item(maps(place, &old, item, &now), field, id, item));
                }
            }
        }
        let gone = |o: &&Value| find(self.new, o).is_none() && find(self.now, o).is_some();
        items.extend(self.old.iter().filter(gone).map(|o| json!({id: o.get(id), PATCH: "delete"})));
        let shared: Vec<_> = self.now.iter().filter(|o| find(self.new, o).is_some()).map(|o| o.get(id)).collect();
        let wanted = self.new.iter().filter(|o| find(self.now, o).is_some()).map(|o| o.get(id));
        if !items.is_empty() || !wanted.eq(shared) {
            let order = self.new.iter().map(|o| json!({id: o.get(id)})).collect();
            patch.insert(format!("{ORDER_PREFIX}/{}", field.name), order);
        }
        if !items.is_empty() {
            patch.insert(field.name.to_owned(), Value::Array(items));
        }
    }

    /// An item that differs, with the key that names it.
    fn item(&self, mut inner: Map<String, Value>, field: &Field, id: &str, item: &Value) -> Option<Value> {
        if inner.is_empty() {
            return None;
        }
        inner.insert(id.to_owned(), item.get(id).cloned().unwrap_or(Value::Null));
        if field.retains_keys {
            let keys = item.as_object().into_iter().flat_map(Map::keys).cloned().collect();
            inner.insert(RETAIN_KEYS.to_owned(), keys);
        }
        Some(Value::Object(inner))
    }

    fn of_scalars(&self, patch: &mut Map<String, Value>, key: &str) {
        let added: Vec<_> = self.new.iter().filter(|v| !self.now.contains(v)).cloned().collect();
        let gone: Vec<_> = self.old.iter().filter(|v| !self.new.contains(v) && self.now.contains(v)).cloned().collect();
        let shared = self.now.iter().filter(|v| self.new.contains(v));
        let is_moved = !shared.eq(self.new.iter().filter(|v| self.now.contains(v)));
        if added.is_empty() && gone.is_empty() && !is_moved {
            return;
        }
        patch.insert(format!("{ORDER_PREFIX}/{key}"), self.new.into());
        if !added.is_empty() {
            patch.insert(key.to_owned(), added.into());
        }
        if !gone.is_empty() {
            patch.insert(format!("{DELETE_PREFIX}/{key}"), gone.into());
        }
    }
}

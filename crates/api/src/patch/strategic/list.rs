//! Lists that are merged: by a key if their items are maps, as sets if they are scalars. The order of the result is
//! upstream's: the patch's items in the patch's order, the others where they were among them.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{PATCH, Place, bad, fresh, merge_map};
use crate::Error;

/// The merged list.
pub(super) fn merge(
    place: Place,
    field: &str,
    key: Option<&str>,
    before: Vec<Value>,
    patch: Vec<Value>,
    order: Option<&[Value]>,
) -> Result<Vec<Value>, Error> {
    let is_maps = before.iter().chain(&patch).next().is_some_and(Value::is_object);
    if !is_maps {
        return Ok(merge_scalars(before, patch, order));
    }
    let key = key.ok_or_else(|| bad(format!("cannot merge lists without merge key for {field}")))?;
    let is_replacing = patch.iter().any(is_replacement);
    let (server, patch) = if is_replacing { (Vec::new(), without_directives(patch)) } else { (before, patch) };
    let had = server.len();
    let (server, patch) = delete_marked(server, patch, key)?;
    let mut places = positions(&server, key)?;
    if order.is_some() {
        fill_gaps(&mut places, &patch, key, server.len()..had)?;
    }
    let patch_order: Vec<Value> = patch.iter().map(reference(key)).collect();
    let merged = merge_items(place, key, server, patch)?;
    arrange(merged, key, order.unwrap_or(&patch_order), &places)
}

/// An item that is nothing but `$patch: replace` makes the patch the whole list.
fn is_replacement(item: &Value) -> bool {
    item.get(PATCH).is_some_and(|d| d == "replace")
}

fn without_directives(patch: Vec<Value>) -> Vec<Value> {
    patch.into_iter().filter(|item| !is_replacement(item)).collect()
}

/// Takes out the items that the patch marks by `$patch: delete`, and the marks.
fn delete_marked(server: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut unwanted = Vec::new();
    let mut kept = Vec::with_capacity(patch.len());
    for item in patch {
        match item.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
            None => kept.push(item),
            Some("delete") => unwanted.push(key_of(&item, key)?),
            Some("merge") => return Err(bad("merging lists cannot yet be specified in the patch".to_owned())),
            Some(other) => return Err(bad(format!("unknown patch type: {other}"))),
        }
    }
    let mut left = Vec::with_capacity(server.len());
    for item in server {
        if !unwanted.contains(&key_of(&item, key)?) {
            left.push(item);
        }
    }
    Ok((left, kept))
}

/// Upstream reuses the list's memory: as many new items as were deleted count as having stood at the server's end, which
/// shows in the order of the result.
fn fill_gaps(places: &mut HashMap<String, usize>, patch: &[Value], key: &str, gaps: Range<usize>) -> Result<(), Error> {
    let ids = patch.iter().map(|item| key_of(item, key)).collect::<Result<Vec<_>, _>>()?;
    let new: Vec<String> = ids.into_iter().filter(|id| !places.contains_key(id)).collect();
    places.extend(new.into_iter().zip(gaps));
    Ok(())
}

fn merge_items(place: Place, key: &str, server: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>, Error> {
    let mut index = positions(&server, key)?;
    let mut merged = server;
    for item in patch {
        let id = key_of(&item, key)?;
        let at = *index.entry(id).or_insert(merged.len());
        match (merged.get_mut(at).map(Value::take), item) {
            (Some(Value::Object(before)), Value::Object(patch)) => {
                merged[at] = Value::Object(merge_map(place, before, patch)?);
            }
            (_, item) => merged.push(fresh(item).unwrap_or(Value::Object(Map::new()))),
        }
    }
    Ok(merged)
}

/// Where each key first stands.
fn positions(items: &[Value], key: &str) -> Result<HashMap<String, usize>, Error> {
    let mut found = HashMap::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        found.entry(key_of(item, key)?).or_insert(at);
    }
    Ok(found)
}

fn key_of(item: &Value, key: &str) -> Result<String, Error> {
    let value = item.get(key).ok_or_else(|| bad(format!("map: {item} does not contain declared merge key: {key}")))?;
    Ok(value.to_string())
}

fn reference(key: &str) -> impl Fn(&Value) -> Value {
    move |item| Value::Object(Map::from_iter([(key.to_owned(), item.get(key).cloned().unwrap_or(Value::Null))]))
}

/// Items that `order` names stand in that order; the others keep their order and go before the first item that stood
/// behind them at the server.
fn arrange(
    merged: Vec<Value>,
    key: &str,
    order: &[Value],
    places: &HashMap<String, usize>,
) -> Result<Vec<Value>, Error> {
    let order = positions(order, key)?;
    let keyed: Vec<(String, Value)> =
        merged.into_iter().map(|item| Ok((key_of(&item, key)?, item))).collect::<Result<_, Error>>()?;
    Ok(interleave(keyed, &order, places))
}

fn merge_scalars(before: Vec<Value>, patch: Vec<Value>, order: Option<&[Value]>) -> Vec<Value> {
    let index = |items: &[Value]| items.iter().enumerate().rev().map(|(i, v)| (v.to_string(), i)).collect();
    let (order, places): (HashMap<_, _>, HashMap<_, _>) = (index(order.unwrap_or(&patch)), index(&before));
    let mut seen = std::collections::HashSet::new();
    let merged = before.into_iter().chain(patch).map(|item| (item.to_string(), item));
    interleave(merged.filter(|(id, _)| seen.insert(id.clone())).collect(), &order, &places)
}

fn interleave(
    merged: Vec<(String, Value)>,
    order: &HashMap<String, usize>,
    places: &HashMap<String, usize>,
) -> Vec<Value> {
    let (mut named, others): (Vec<_>, Vec<_>) = merged.into_iter().partition(|(id, _)| order.contains_key(id));
    named.sort_by_key(|(id, _)| order[id]);
    let mut others = others.into_iter().peekable();
    let mut out = Vec::with_capacity(named.len() + others.len());
    for (id, item) in named {
        while let Some((other, _)) = others.peek() {
            match (places.get(other), places.get(&id)) {
                (Some(other), Some(own)) if other < own => out.extend(others.next().map(|(_, item)| item)),
                _ => break,
            }
        }
        out.push(item);
    }
    out.extend(others.map(|(_, item)| item));
    out
}

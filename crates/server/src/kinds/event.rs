//! Event: what happened to an object. One storage, two faces: core/v1 and events.k8s.io/v1; stored as core/v1.

use api::field::{FieldError, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Behaviour, check};
use crate::registry::Conversion;
use crate::table::{Column, age, timestamp};
use crate::tree::{at, fields, integer, present, text};

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    validate,
    validate_update: |new, _| validate(new),
    // Names of events are made by machines out of all sorts of things.
    name: check::path_segment,
    fields: selectable,
    columns: &[
        Column::text("Last Seen", "When it happened last."),
        Column::text("Type", "Normal or Warning."),
        Column::text("Reason", "Why, in one word."),
        Column::text("Object", "What it happened to."),
        Column::wide("Subobject", "The part that it happened to."),
        Column::wide("Source", "Who says so."),
        Column::text("Message", "What happened."),
        Column::wide("First Seen", "When it happened first."),
        Column::wide("Count", "How often it happened."),
        Column { priority: 1, ..Column::NAME },
    ],
    cells,
    create_on_update: true,
    ..Behaviour::PLAIN
};

/// The names of fields in core/v1 and in events.k8s.io/v1, where they differ.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// From events.k8s.io/v1 to what is stored, and back.
pub(crate) const CONVERSION: Conversion = Conversion {
    to_storage: |event| {
        rename(event, RENAMED.iter().map(|(core, events)| (*events, *core)));
        crate::tree::set(event, "apiVersion", "v1");
    },
    from_storage: |event| {
        rename(event, RENAMED.iter().copied());
        crate::tree::set(event, "apiVersion", "events.k8s.io/v1");
        for name in ["reportingController", "reportingInstance"] {
            if text(event, name).is_empty() {
                crate::tree::remove(event, name);
            }
        }
    },
    validate: |event, old| match old {
        None => validate_new(event),
        Some(old) => validate_change(event, old),
    },
};

/// The events of the new group must say more, and may say less of what is old.
fn validate_new(event: &Value) -> Vec<FieldError> {
    let mut errors = series(event);
    if present(event, "eventTime").is_none() {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = text(event, "type");
    if !["Normal", "Warning"].contains(&kind) {
        errors.push(FieldError::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let source = event.get("source").and_then(Value::as_object).is_some_and(|source| !source.is_empty());
    let said = |name: &str| match name {
        "source" => source,
        "count" => integer(event, "count").unwrap_or_default() != 0,
        name => present(event, name).is_some(),
    };
    for name in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if said(name) {
            errors.push(FieldError::invalid(&Path::new(name), "", "needs to be unset"));
        }
    }
    errors
}

fn series(event: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(series) = present(event, "series") else { return errors };
    if integer(series, "count").unwrap_or_default() < 2 {
        errors.push(FieldError::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if present(series, "lastObservedTime").is_none() {
        errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
    }
    errors
}

fn validate_change(event: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = if event.get("series") == old.get("series") { Vec::new() } else { series(event) };
    let fixed = [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingController",
        "reportingInstance",
    ];
    for name in fixed {
        let stored = if name == "reportingController" { "reportingComponent" } else { name };
        super::meta::immutable(&mut errors, event.get(stored), old.get(stored), &Path::new(name));
    }
    errors
}

fn rename<'a>(event: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let fields = fields(event);
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

fn validate(event: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let namespace = text(&event["metadata"], "namespace");
    let involved = text(&event["involvedObject"], "namespace");
    let mut mismatch = |wrong: bool| {
        if wrong {
            let path = Path::new("involvedObject").child("namespace");
            errors.push(FieldError::invalid(&path, involved, "does not match event.namespace"));
        }
    };
    if present(event, "eventTime").is_none() {
        mismatch(if involved.is_empty() { namespace != "default" } else { namespace != involved });
        return errors;
    }
    mismatch(involved.is_empty() && !["default", "kube-system"].contains(&namespace));
    let controller = Path::new("reportingComponent");
    let value = text(event, "reportingComponent");
    if value.is_empty() {
        errors.push(FieldError::required(&controller, ""));
    }
    check::report(&mut errors, &controller, value, check::label_key(value));
    for (name, most) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
        let value = text(event, name);
        if value.is_empty() && name != "message" {
            errors.push(FieldError::required(&Path::new(name), ""));
        }
        if value.len() > most {
            errors.push(FieldError::invalid(&Path::new(name), "", format!("can have at most {most} characters")));
        }
    }
    errors
}

fn selectable(event: &Value) -> Vec<(&'static str, String)> {
    let object = &event["involvedObject"];
    let of = |object: &Value, name| text(object, name).to_owned();
    let source = match text(&event["source"], "component") {
        "" => text(event, "reportingComponent"),
        component => component,
    };
    vec![
        ("involvedObject.kind", of(object, "kind")),
        ("involvedObject.namespace", of(object, "namespace")),
        ("involvedObject.name", of(object, "name")),
        ("involvedObject.uid", of(object, "uid")),
        ("involvedObject.apiVersion", of(object, "apiVersion")),
        ("involvedObject.resourceVersion", of(object, "resourceVersion")),
        ("involvedObject.fieldPath", of(object, "fieldPath")),
        ("regarding.kind", of(object, "kind")),
        ("regarding.namespace", of(object, "namespace")),
        ("regarding.name", of(object, "name")),
        ("regarding.uid", of(object, "uid")),
        ("reason", of(event, "reason")),
        ("reportingComponent", of(event, "reportingComponent")),
        ("reportingController", of(event, "reportingComponent")),
        ("source", source.to_owned()),
        ("type", of(event, "type")),
    ]
}

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let time = |path: &[&str]| at(event, path).and_then(timestamp);
    let first = time(&["firstTimestamp"]).or_else(|| time(&["eventTime"]));
    let last = time(&["series", "lastObservedTime"]).or_else(|| time(&["lastTimestamp"])).or(first);
    let object = &event["involvedObject"];
    let named = match text(object, "name") {
        "" => text(object, "kind").to_lowercase(),
        name => format!("{}/{name}", text(object, "kind").to_lowercase()),
    };
    let count = at(event, &["series", "count"]).and_then(Value::as_i64).or_else(|| integer(event, "count"));
    vec![
        json!(age(last, now)),
        json!(text(event, "type")),
        json!(text(event, "reason")),
        json!(named),
        json!(text(object, "fieldPath")),
        json!(source(event)),
        json!(text(event, "message").trim()),
        json!(age(first, now)),
        json!(count.filter(|count| *count > 0).unwrap_or(1)),
        json!(text(&event["metadata"], "name")),
    ]
}

fn source(event: &Value) -> String {
    let source = &event["source"];
    let (who, place) = match text(source, "component") {
        "" => (text(event, "reportingComponent"), text(event, "reportingInstance")),
        component => (component, text(source, "host")),
    };
    let parts: Vec<_> = [who, place].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_faces_say_the_same() {
        let core =
            json!({"apiVersion": "v1", "kind": "Event", "message": "m", "involvedObject": {"name": "x"}, "count": 2});
        let mut event = core.clone();
        (CONVERSION.from_storage)(&mut event);
        assert_eq!(event["note"], "m");
        assert_eq!(event["regarding"]["name"], "x");
        (CONVERSION.to_storage)(&mut event);
        assert_eq!(event, core);
    }
}

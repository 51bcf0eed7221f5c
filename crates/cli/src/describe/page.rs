//! A description in the making: titled lines, with tabulators between a title and its value.

use std::fmt::Write;

use api::time;
use jiff::Timestamp;
use serde_json::Value;

/// Longer annotations get lines of their own.
const ANNOTATION: usize = 140;

/// Lines with tabulators.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn text(self) -> String {
        self.0
    }

    /// A line at a level of indentation.
    pub(super) fn line(&mut self, level: usize, text: impl std::fmt::Display) {
        for _ in 0..level {
            self.0.push_str("  ");
        }
        // Writing to a string cannot fail.
        let _written = writeln!(self.0, "{text}");
    }

    /// `Title: value`.
    pub(super) fn pair(&mut self, level: usize, title: &str, value: impl std::fmt::Display) {
        self.line(level, format!("{title}:\t{value}"));
    }

    /// `Title: value`, unless there is no value.
    pub(super) fn pair_if(&mut self, level: usize, title: &str, value: &Value) {
        if !value.is_null() && value != "" {
            self.pair(level, title, plain(value));
        }
    }

    /// Name and namespace.
    pub(super) fn head(&mut self, object: &Value) {
        self.pair(0, "Name", api::meta::name(object));
        if !api::meta::namespace(object).is_empty() {
            self.pair(0, "Namespace", api::meta::namespace(object));
        }
    }

    /// Name, namespace, labels and annotations.
    pub(super) fn heading(&mut self, object: &Value) {
        self.head(object);
        self.labels("Labels", &object["metadata"]["labels"]);
        self.annotations(object);
    }

    /// A value that may need several lines.
    pub(super) fn several(&mut self, title: &str, values: &[String]) {
        self.pair(0, title, values.first().map_or("<none>", String::as_str));
        for value in values.iter().skip(1) {
            self.line(0, format!("\t{value}"));
        }
    }

    pub(super) fn labels(&mut self, title: &str, labels: &Value) {
        let pairs = labels.as_object().into_iter().flatten();
        let lines: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", plain(value))).collect();
        self.several(title, &lines);
    }

    pub(super) fn annotations(&mut self, object: &Value) {
        let mut lines = Vec::new();
        for (key, value) in api::meta::annotations(object).filter(|(key, _)| *key != crate::create::LAST_APPLIED) {
            let value = value.strip_suffix('\n').unwrap_or(value);
            if key.len() + value.len() + 2 <= ANNOTATION && !value.contains('\n') {
                lines.push(format!("{key}: {value}"));
                continue;
            }
            lines.push(format!("{key}:"));
            lines.extend(value.split('\n').map(|line| format!("  {}", shorten(line, ANNOTATION - 2))));
        }
        self.several("Annotations", &lines);
    }

    /// What happened.
    pub(super) fn events(&mut self, events: Option<&[Value]>) {
        let Some(events) = events else { return };
        if events.is_empty() {
            return self.pair(0, "Events", "<none>");
        }
        self.line(0, "Events:");
        self.line(1, "Type\tReason\tAge\tFrom\tMessage");
        self.line(1, "----\t------\t----\t----\t-------");
        for event in events {
            let source = event["source"]["component"].as_str().filter(|text| !text.is_empty());
            let source = source.or_else(|| event["reportingComponent"].as_str()).unwrap_or_default();
            let message = plain(&event["message"]);
            let place = event["involvedObject"]["fieldPath"].as_str().filter(|text| !text.is_empty());
            let message =
                place.map_or_else(|| message.trim().to_owned(), |place| format!("{place}: {}", message.trim()));
            let (kind, reason) = (plain(&event["type"]), plain(&event["reason"]));
            self.line(1, format!("{kind}\t{reason}\t{}\t{source}\t{message}", interval(event)));
        }
    }
}

fn interval(event: &Value) -> String {
    let first = event["firstTimestamp"].as_str().or_else(|| event["eventTime"].as_str()).unwrap_or_default();
    let last = event["series"]["lastObservedTime"].as_str().or_else(|| event["lastTimestamp"].as_str());
    let count = event["series"]["count"].as_i64().or_else(|| event["count"].as_i64()).unwrap_or(0);
    match last {
        Some(last) if count > 1 => format!("{} (x{count} over {})", age(last), age(first)),
        _ => age(first),
    }
}

/// How long ago a time is.
pub(super) fn age(text: &str) -> String {
    match time::parse(text).or_else(|_| time::parse_micro(text)) {
        Ok(at) => time::human_duration(Timestamp::now().duration_since(at)),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A time for people: `Tue, 24 Nov 2026 22:59:00 +0000`.
pub(super) fn date(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    match time::parse(text).or_else(|_| time::parse_micro(text)) {
        Ok(at) => at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        Err(_) => "<unset>".to_owned(),
    }
}

/// A scalar as it is, without quotes.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The items of a list; none if there is no list.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

//! Objects of any kind: every field, its name written out.

use serde_json::{Map, Value};

use super::Page;
use super::page::plain;

/// Fields that are told in another way, or not at all.
const SKIPPED: [&str; 6] = [
    ".metadata.name",
    ".metadata.namespace",
    ".metadata.labels",
    ".metadata.annotations",
    ".metadata.managedFields",
    ".metadata.selfLink",
];

pub(super) fn describe(object: &Value, events: Option<&[Value]>) -> String {
    let mut page = Page::default();
    page.pair(0, "Name", api::meta::name(object));
    page.pair(0, "Namespace", api::meta::namespace(object));
    page.labels("Labels", &object["metadata"]["labels"]);
    page.annotations(object);
    if let Some(fields) = object.as_object() {
        write(&mut page, 0, "", fields);
    }
    page.events(events);
    page.text()
}

fn write(page: &mut Page, level: usize, path: &str, fields: &Map<String, Value>) {
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        if SKIPPED.contains(&path.as_str()) {
            continue;
        }
        let title = title(name);
        match value {
            Value::Object(fields) => {
                page.line(level, format!("{title}:"));
                write(page, level + 1, &path, fields);
            }
            Value::Array(items) => {
                page.line(level, format!("{title}:"));
                for item in items {
                    match item {
                        Value::Object(fields) => write(page, level + 1, &path, fields),
                        other => page.line(level + 1, plain(other)),
                    }
                }
            }
            Value::Null => page.pair(level, &title, "<nil>"),
            other => page.pair(level, &title, plain(other)),
        }
    }
}

/// `creationTimestamp` as `Creation Timestamp`.
fn title(field: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut was_lower = false;
    for character in field.chars() {
        match words.last_mut() {
            Some(word) if !(character.is_uppercase() && was_lower) => word.push(character),
            _ => words.push(character.to_uppercase().to_string()),
        }
        was_lower = character.is_lowercase();
    }
    let acronyms = ["API", "URL", "UID", "OSB", "GUID"];
    let spell = |word: String| {
        let upper = word.to_uppercase();
        if acronyms.contains(&upper.as_str()) { upper } else { word }
    };
    words.into_iter().map(spell).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::title;

    #[test]
    fn fields_are_written_out() {
        assert_eq!(title("creationTimestamp"), "Creation Timestamp");
        assert_eq!(title("uid"), "UID");
        assert_eq!(title("apiVersion"), "API Version");
    }
}

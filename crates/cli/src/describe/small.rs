//! Kinds whose description is short.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Page;
use super::page::{items, plain};

pub(super) fn namespace(object: &Value) -> String {
    let mut page = Page::default();
    page.heading(object);
    page.pair(0, "Status", plain(&object["status"]["phase"]));
    page.text()
}

pub(super) fn config_map(object: &Value, events: Option<&[Value]>) -> String {
    let mut page = Page::default();
    page.heading(object);
    page.line(0, "\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        page.line(0, format!("{key}:\n----\n{}\n", plain(value)));
    }
    page.line(0, "\nBinaryData\n====");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        page.line(0, format!("{key}: {} bytes", bytes(value)));
    }
    page.line(0, "");
    page.events(events);
    page.text()
}

pub(super) fn secret(object: &Value) -> String {
    let mut page = Page::default();
    page.heading(object);
    page.line(0, format!("\nType:\t{}\n\nData\n====", plain(&object["type"])));
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        page.pair(0, key, format!("{} bytes", bytes(value)));
    }
    page.text()
}

/// The length of what stands encoded in a field.
fn bytes(value: &Value) -> usize {
    STANDARD.decode(value.as_str().unwrap_or_default()).map_or(0, |bytes| bytes.len())
}

pub(super) fn service_account(object: &Value, events: Option<&[Value]>) -> String {
    let mut page = Page::default();
    page.heading(object);
    let secrets: Vec<String> = items(&object["imagePullSecrets"]).iter().map(|secret| plain(&secret["name"])).collect();
    page.several("Image pull secrets", &secrets);
    page.events(events);
    page.text()
}

pub(super) fn priority_class(object: &Value, events: Option<&[Value]>) -> String {
    let mut page = Page::default();
    page.pair(0, "Name", api::meta::name(object));
    page.pair(0, "Value", plain(&object["value"]));
    page.pair(0, "GlobalDefault", object["globalDefault"].as_bool().unwrap_or(false));
    page.pair(0, "PreemptionPolicy", plain(&object["preemptionPolicy"]));
    page.pair(0, "Description", plain(&object["description"]));
    page.annotations(object);
    page.events(events);
    page.text()
}

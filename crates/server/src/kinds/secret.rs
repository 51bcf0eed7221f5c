//! Secret: what only its users should read.

use api::field::{FieldError, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config_map::frozen;
use super::{Behaviour, check, meta};
use crate::table::{Column, age_cell};
use crate::tree::{at, default_text, entries, object, remove, set, text, text_at};

const MAX_BYTES: usize = 1 << 20;
const HIDDEN: &str = "<secret contents redacted>";

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    defaults,
    validate,
    validate_update,
    fields: |secret| vec![("type", text(secret, "type").to_owned())],
    columns: &[
        Column::NAME,
        Column::text("Type", "What it is for."),
        Column::text("Data", "How many keys it has."),
        Column::AGE,
    ],
    cells: |object, now| {
        let count = entries(object, "data").count();
        vec![json!(text(&object["metadata"], "name")), json!(text(object, "type")), json!(count), age_cell(object, now)]
    },
    ..Behaviour::PLAIN
};

/// `stringData` is only a way to write `data`.
fn defaults(secret: &mut Value) {
    default_text(secret, "type", "Opaque");
    let plain: Vec<_> = entries(secret, "stringData").map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in plain {
        let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
        set(object(secret, "data"), &key, encoded);
    }
    remove(secret, "stringData");
}

fn bytes(secret: &Value, key: &str) -> Option<Vec<u8>> {
    STANDARD.decode(at(secret, &["data", key])?.as_str()?).ok()
}

fn validate(secret: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in entries(secret, "data") {
        check::report(&mut errors, &path.key(key), key, check::config_key(key));
        size += value.as_str().map_or(0, |value| value.len() / 4 * 3);
    }
    if size > MAX_BYTES {
        errors.push(FieldError::too_long(&path, MAX_BYTES));
    }
    content(&mut errors, secret, &path);
    errors
}

/// Some types promise certain keys.
fn content(errors: &mut Vec<FieldError>, secret: &Value, path: &Path) {
    let has = |key: &str| at(secret, &["data", key]).is_some();
    let mut require = |keys: &[&str]| {
        errors.extend(keys.iter().filter(|key| !has(key)).map(|key| FieldError::required(&path.key(key), "")));
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if text_at(secret, &["metadata", "annotations", name]).is_empty() {
                let path = Path::new("metadata").child("annotations").key(name);
                errors.push(FieldError::required(&path, ""));
            }
        }
        "kubernetes.io/dockercfg" => docker(errors, secret, path, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(errors, secret, path, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => require(&["username", "password"]),
        "kubernetes.io/ssh-auth" => require(&["ssh-privatekey"]),
        "kubernetes.io/tls" => require(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn docker(errors: &mut Vec<FieldError>, secret: &Value, path: &Path, key: &str) {
    let path = path.key(key);
    match bytes(secret, key) {
        None => errors.push(FieldError::required(&path, "")),
        Some(bytes) => {
            if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
                errors.push(FieldError::invalid(&path, HIDDEN, error.to_string()));
            }
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    meta::immutable(&mut errors, new.get("type"), old.get("type"), &Path::new("type"));
    errors.extend(frozen(new, old, &["data"]));
    errors.extend(validate(new));
    errors
}

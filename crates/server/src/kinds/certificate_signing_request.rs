//! CertificateSigningRequest: somebody asks for a certificate, somebody decides, a signer signs.

use std::collections::BTreeSet;

use api::field::{FieldError, Path, quote};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Behaviour, check};
use crate::auth::User;
use crate::table::{Column, age_cell, rfc3339};
use crate::tree::{at, default_text, integer, items, items_mut, object, put, remove, set, text, text_at};

const LEAST_SECONDS: i64 = 600;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) const BEHAVIOUR: Behaviour = Behaviour {
    prepare_create: |request, _| remove(request, "status"),
    prepare_update: |new, old| {
        for name in ["spec", "status"] {
            put(new, name, old.get(name).cloned());
        }
    },
    prepare_status: |new, old| {
        stamp(new, crate::registry::now());
        keep_decision(new, old);
    },
    validate: |request| {
        let mut errors = spec(&request["spec"]);
        errors.extend(conditions(request));
        errors
    },
    validate_update: |new, _| conditions(new),
    validate_status: |new, old| {
        let mut errors = conditions(new);
        let before = at(old, &["status", "certificate"]);
        if before.is_some() && before != at(new, &["status", "certificate"]) {
            let path = Path::new("status").child("certificate");
            errors.push(FieldError::forbidden(&path, "updates may not set certificate content"));
        }
        certificate(&mut errors, new);
        errors.extend(lost(new, old, &["Failed"]));
        errors
    },
    // Names are chosen by clients of all sorts.
    name: |name| {
        let bad = [".", ".."].contains(&name) || name.contains(['/', '%']);
        if bad { vec!["may not be '.' or '..', or contain '/' or '%'".to_owned()] } else { Vec::new() }
    },
    fields: |request| vec![("spec.signerName", text_at(request, &["spec", "signerName"]).to_owned())],
    columns: &[
        Column::NAME,
        Column::AGE,
        Column::text("SignerName", "Who is asked to sign."),
        Column::text("Requestor", "Who asks."),
        Column::text("RequestedDuration", "How long the certificate shall hold."),
        Column::text("Condition", "What was decided, and whether it is signed."),
    ],
    cells,
    ..Behaviour::PLAIN
};

/// A request says who made it; that is not for its maker to say.
pub(crate) fn sign_with_user(request: &mut Value, user: &User) {
    let spec = object(request, "spec");
    set(spec, "username", user.name.clone());
    set(spec, "groups", user.groups.clone());
    for name in ["uid", "extra"] {
        remove(spec, name);
    }
}

/// A decision changes conditions and nothing else.
pub(crate) fn prepare_approval(new: &mut Value, old: &Value, now: Timestamp) {
    let certificate = at(old, &["status", "certificate"]).cloned();
    put(object(new, "status"), "certificate", certificate);
    stamp(new, now);
}

/// What is wrong with a decision.
pub(crate) fn validate_approval(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = conditions(new);
    errors.extend(lost(new, old, &["Approved", "Denied", "Failed"]));
    errors
}

/// Every condition says since when.
fn stamp(request: &mut Value, now: Timestamp) {
    for condition in items_mut(object(request, "status"), "conditions") {
        default_text(condition, "lastUpdateTime", &rfc3339(now));
        default_text(condition, "lastTransitionTime", &rfc3339(now));
    }
}

fn is_decision(condition: &Value) -> bool {
    ["Approved", "Denied"].contains(&text(condition, "type"))
}

/// Whoever signs does not decide.
fn keep_decision(new: &mut Value, old: &Value) {
    let decided = items(&old["status"], "conditions").iter().filter(|condition| is_decision(condition)).cloned();
    let others = items(&new["status"], "conditions").iter().filter(|condition| !is_decision(condition)).cloned();
    let all: Vec<Value> = decided.chain(others).collect();
    put(object(new, "status"), "conditions", (!all.is_empty()).then_some(Value::Array(all)));
}

fn spec(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let encoded = text(spec, "request");
    if let Err(cause) = request(encoded) {
        errors.push(FieldError::invalid(&path.child("request"), encoded, cause));
    }
    let usages = items(spec, "usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&path.child("usages"), ""));
    }
    let mut taken = BTreeSet::new();
    for (number, usage) in usages.iter().filter_map(Value::as_str).enumerate() {
        let path = path.child("usages").index(number);
        if !USAGES.contains(&usage) {
            errors.push(FieldError::not_supported(&path, usage, &USAGES));
        }
        if !taken.insert(usage) {
            errors.push(FieldError::duplicate(&path, usage));
        }
    }
    signer(&mut errors, text(spec, "signerName"), &path.child("signerName"));
    if let Some(seconds) = integer(spec, "expirationSeconds").filter(|seconds| *seconds < LEAST_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
    errors
}

fn request(encoded: &str) -> Result<(), String> {
    let bytes = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let pem = String::from_utf8(bytes).unwrap_or_default();
    if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    match wire::request::read(&pem) {
        Ok(_) => Ok(()),
        Err(wire::Error::Failed { doing, source }) => Err(format!("{doing}: {source}")),
        Err(error) => Err(error.to_string()),
    }
}

fn signer(errors: &mut Vec<FieldError>, name: &str, path: &Path) {
    match name.split_once('/') {
        _ if name.is_empty() => errors.push(FieldError::required(path, "")),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            check::report(errors, path, domain, check::dns_subdomain(domain));
            if name == "kubernetes.io/legacy-unknown" {
                let detail = "the legacy signerName is not allowed via this API version";
                errors.push(FieldError::invalid(path, name, detail));
            }
        }
        _ => {
            let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.push(FieldError::invalid(path, name, detail));
        }
    }
}

fn conditions(request: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let list = Path::new("status").child("conditions");
    let mut taken = BTreeSet::new();
    for (number, condition) in items(&request["status"], "conditions").iter().enumerate() {
        let path = list.index(number);
        let (kind, status) = (text(condition, "type"), text(condition, "status"));
        if kind.is_empty() {
            errors.push(FieldError::required(&path.child("type"), ""));
        }
        let always_true = ["Approved", "Denied", "Failed"].contains(&kind);
        let words: &[&str] = if always_true { &["True"] } else { &["True", "False", "Unknown"] };
        check::one_of(&mut errors, &path.child("status"), status, words);
        let opposite = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if taken.contains(opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&path.child("type"), kind, detail));
        }
        if !taken.insert(kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
    }
    errors
}

/// What was decided stays decided.
fn lost(new: &Value, old: &Value, kinds: &[&str]) -> Vec<FieldError> {
    let has = |request: &Value, kind: &str| {
        items(&request["status"], "conditions").iter().any(|condition| text(condition, "type") == kind)
    };
    let path = Path::new("status").child("conditions");
    let lost = kinds.iter().filter(|kind| has(old, kind) && !has(new, kind));
    lost.map(|kind| FieldError::forbidden(&path, format!("updates may not remove a condition of type {}", quote(kind))))
        .collect()
}

fn certificate(errors: &mut Vec<FieldError>, request: &Value) {
    let encoded = text_at(request, &["status", "certificate"]);
    if encoded.is_empty() {
        return;
    }
    let pem = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    if let Err(error) = wire::identity::certificates(&pem) {
        let path = Path::new("status").child("certificate");
        errors.push(FieldError::invalid(&path, encoded, error.to_string()));
    }
}

fn cells(request: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &request["spec"];
    let shown = |name| match text(spec, name) {
        "" => "<none>",
        value => value,
    };
    let duration = integer(spec, "expirationSeconds").and_then(|seconds| now.checked_sub(span(seconds)).ok());
    let duration = duration.map_or_else(|| "<none>".to_owned(), |begun| crate::table::age(Some(begun), now));
    vec![
        json!(text(&request["metadata"], "name")),
        age_cell(request, now),
        json!(shown("signerName")),
        json!(shown("username")),
        json!(duration),
        json!(condition(request)),
    ]
}

fn span(seconds: i64) -> std::time::Duration {
    std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

fn condition(request: &Value) -> String {
    let has =
        |kind: &str| items(&request["status"], "conditions").iter().any(|condition| text(condition, "type") == kind);
    let mut shown = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        shown.push_str(",Failed");
    }
    if at(request, &["status", "certificate"]).is_some() {
        shown.push_str(",Issued");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        let (pem, _) = wire::request::create(&wire::Identity::new("u", &[]), &[]).expect("a request");
        json!({"spec": {"request": STANDARD.encode(pem), "signerName": "a.io/b", "usages": ["client auth"]}})
    }

    fn wrongs(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut request = good();
        change(&mut request["spec"]);
        (BEHAVIOUR.validate)(&request).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_are_checked() {
        assert_eq!(wrongs(|_| ()), [""; 0]);
        assert!(wrongs(|spec| spec["request"] = "AAAA".into())[0].contains("PEM block type"));
        assert_eq!(wrongs(|spec| spec["usages"] = json!([])), ["spec.usages: Required value"]);
        assert!(wrongs(|spec| spec["usages"] = json!(["fun"]))[0].contains("Unsupported value: \"fun\""));
        assert!(wrongs(|spec| spec["signerName"] = "plain".into())[0].contains("fully qualified"));
        assert!(wrongs(|spec| spec["expirationSeconds"] = 599.into())[0].contains("600 seconds"));
    }

    #[test]
    fn a_decision_is_final_and_one() {
        let with = |kinds: &[&str]| {
            let all: Vec<_> = kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            json!({"status": {"conditions": all}})
        };
        assert!(validate_approval(&with(&["Approved"]), &with(&[])).is_empty());
        assert!(validate_approval(&with(&["Approved", "Denied"]), &with(&[]))[0].to_string().contains("exclusive"));
        assert!(validate_approval(&with(&[]), &with(&["Denied"]))[0].to_string().contains("may not remove"));
        assert_eq!(condition(&with(&["Approved"])), "Approved");
    }

    #[test]
    fn a_signer_does_not_decide() {
        let old = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        keep_decision(&mut new, &old);
        assert_eq!(new, old);
    }
}

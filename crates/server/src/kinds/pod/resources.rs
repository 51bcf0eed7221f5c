//! Rules for resources: names, quantities, requests within limits.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use api::field::{FieldError, Path};
use api::quantity::Quantity;
use serde_json::Value;

use super::defaults::plain;
use crate::kinds::check::{self, report};
use crate::tree::{entries, items, present, text};

const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Known to Kubernetes, but not as a resource of containers.
const QUOTA_ONLY: [&str; 6] = ["storage", "pods", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// The resources of a container or a pod.
pub(super) fn validate(errors: &mut Vec<FieldError>, resources: &Value, known: &BTreeSet<&str>, path: &Path) {
    let limits = path.child("limits");
    for (name, quantity) in entries(resources, "limits") {
        amount(errors, name, quantity, &limits.key(name));
    }
    let requests = path.child("requests");
    for (name, quantity) in entries(resources, "requests") {
        amount(errors, name, quantity, &requests.key(name));
        let limit = resources.get("limits").and_then(|limits| limits.get(name));
        within(errors, name, (quantity, limit), (&requests, &limits));
    }
    claims(errors, resources, known, &path.child("claims"));
    let named = |list: &str, what: fn(&str) -> bool| entries(resources, list).any(|(name, _)| what(name));
    let huge = |name: &str| name.starts_with("hugepages-");
    let basic = |name: &str| name == "cpu" || name == "memory";
    if (named("limits", huge) || named("requests", huge)) && !named("limits", basic) && !named("requests", basic) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

/// A container uses only what its pod has claimed.
fn claims(errors: &mut Vec<FieldError>, resources: &Value, known: &BTreeSet<&str>, path: &Path) {
    for (number, claim) in items(resources, "claims").iter().enumerate() {
        let (name, path) = (text(claim, "name"), path.index(number));
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !known.contains(name) {
            let mut error = FieldError::not_found(&path, name);
            error.detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            error.detail.push_str(&match known.is_empty() {
                true => " which is empty".to_owned(),
                false => format!(": {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
            });
            errors.push(error);
        }
    }
}

fn amount(errors: &mut Vec<FieldError>, name: &str, quantity: &Value, path: &Path) {
    resource_name(errors, name, path);
    let written = plain(quantity);
    let Ok(quantity) = Quantity::parse(&written) else { return };
    if quantity.is_negative() {
        errors.push(FieldError::invalid(path, written.clone(), "must be greater than or equal to 0"));
    }
    if is_extended(name) && !quantity.is_integer() {
        errors.push(FieldError::invalid(path, written, "must be an integer"));
    }
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.starts_with("kubernetes.io/")
}

fn resource_name(errors: &mut Vec<FieldError>, name: &str, path: &Path) {
    let wrongs = check::label_key(name);
    if !wrongs.is_empty() {
        return report(errors, path, name, wrongs);
    }
    if name.contains('/') {
        if is_extended(name) && name.starts_with("requests.") {
            errors.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
        }
    } else if !STANDARD.contains(&name) && !name.starts_with("hugepages-") {
        if !QUOTA_ONLY.contains(&name) {
            errors.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
        }
        errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
    }
}

/// A request may not exceed its limit; what cannot be shared must be equal to it.
fn within(
    errors: &mut Vec<FieldError>,
    name: &str,
    (request, limit): (&Value, Option<&Value>),
    (requests, limits): (&Path, &Path),
) {
    let shared = !is_extended(name) && !name.starts_with("hugepages-");
    let Some(limit) = limit else {
        if !shared {
            errors.push(FieldError::required(limits, "Limit must be set for non overcommitable resources"));
        }
        return;
    };
    let (request, limit) = (plain(request), plain(limit));
    let (Ok(asked), Ok(most)) = (Quantity::parse(&request), Quantity::parse(&limit)) else { return };
    match asked.cmp(&most) {
        Ordering::Equal => {}
        _ if !shared => {
            errors.push(FieldError::invalid(requests, request, format!("must be equal to {name} limit of {limit}")));
        }
        Ordering::Greater => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(requests, request, detail));
        }
        Ordering::Less => {}
    }
}

const FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A reference to a container's resource in a variable.
pub(super) fn field_ref(errors: &mut Vec<FieldError>, source: &Value, path: &Path) {
    let resource = text(source, "resource");
    if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !FIELDS.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, &FIELDS));
    }
    let divisor = present(source, "divisor").map(plain).unwrap_or_default();
    if matches!(divisor.as_str(), "" | "0") {
        return;
    }
    let sizes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (fine, detail) = match resource.rsplit('.').next() {
        Some("cpu") => (
            ["1m", "1"].contains(&divisor.as_str()),
            "only divisor's values 1m and 1 are supported with the cpu resource",
        ),
        Some("memory") => (
            sizes.contains(&divisor.as_str()),
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
        ),
        Some("ephemeral-storage") => (
            sizes.contains(&divisor.as_str()),
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource",
        ),
        _ => (true, ""),
    };
    if !fine {
        errors.push(FieldError::invalid(&path.child("divisor"), resource, detail));
    }
}

//! The query of a request, read as the options of its verb and checked in upstream's words.

use std::time::Duration;

use api::codec::json::Policy;
use api::field::{FieldError, Path};
use api::query::Query;
use api::status::{self, Status};
use serde_json::Value;

use crate::registry::{At, DeleteOptions, ListOptions, WatchOptions};
use crate::tree::{at, items, text, text_at};

fn invalid(kind: &str, errors: &[FieldError]) -> Status {
    Status::invalid(status::Resource { group: "meta.k8s.io", name: kind }, "", errors)
}

/// Whether nothing is to be stored.
pub(crate) fn dry_run(query: &Query, kind: &str) -> Result<bool, Status> {
    let words: Vec<_> = query.all("dryRun").filter(|word| !word.is_empty()).collect();
    check_dry_run(&words, kind)
}

fn check_dry_run(words: &[&str], kind: &str) -> Result<bool, Status> {
    if words.iter().any(|word| *word != "All") {
        let shown: Vec<Value> = words.iter().map(|word| (*word).into()).collect();
        return Err(invalid(kind, &[FieldError::not_supported(&Path::new("dryRun"), shown, &["All"])]));
    }
    Ok(!words.is_empty())
}

/// What to do about unknown fields.
pub(crate) fn unknown(query: &Query, kind: &str) -> Result<Policy, Status> {
    let word = query.first("fieldValidation").unwrap_or_default();
    Policy::parse(word).ok_or_else(|| {
        let words = ["", "Ignore", "Strict", "Warn"];
        invalid(kind, &[FieldError::not_supported(&Path::new("fieldValidation"), word, &words)])
    })
}

fn signed(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    let Some(text) = query.non_empty(name) else { return Ok(None) };
    let parsed = text.parse::<i64>().map_err(|_| {
        let shown = api::field::quote(text);
        Status::bad_request(format!("strconv.ParseInt: parsing {shown}: invalid syntax"))
    })?;
    Ok(Some(parsed))
}

fn number(query: &Query, name: &str) -> Result<Option<u64>, Status> {
    Ok(signed(query, name)?.map(|number| u64::try_from(number).unwrap_or(0)))
}

/// Only server-side apply, which is not here yet, can be forced.
pub(crate) fn not_forced(query: &Query) -> Result<(), Status> {
    if query.first("force").is_none() {
        return Ok(());
    }
    let detail = "may not be specified for non-apply patch";
    Err(invalid("PatchOptions", &[FieldError::forbidden(&Path::new("force"), detail)]))
}

fn revision(query: &Query) -> Result<Option<u64>, Status> {
    let Some(text) = query.non_empty("resourceVersion") else { return Ok(None) };
    let parsed = text.parse().map_err(|_| {
        let shown = api::field::quote(text);
        Status::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {shown}: strconv.ParseUint: parsing {shown}: invalid syntax"
        ))
    })?;
    Ok(Some(parsed))
}

/// The revision that a GET of one object may not be older than.
pub(crate) fn get(query: &Query) -> Result<u64, Status> {
    Ok(revision(query)?.unwrap_or(0))
}

/// The options of a list.
pub(crate) fn list(query: &Query) -> Result<ListOptions, Status> {
    let given = |name| query.first(name).unwrap_or_default();
    let (version, matching, token) = (given("resourceVersion"), given("resourceVersionMatch"), given("continue"));
    let path = Path::new("resourceVersionMatch");
    let mut errors = Vec::new();
    if !matching.is_empty() {
        if version.is_empty() {
            let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(&path, detail));
        }
        if !token.is_empty() {
            errors.push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !["Exact", "NotOlderThan"].contains(&matching) {
            errors.push(FieldError::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && version == "0" {
            let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    if query.first("sendInitialEvents").is_some() {
        let path = Path::new("sendInitialEvents");
        errors.push(FieldError::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    if !errors.is_empty() {
        return Err(invalid("ListOptions", &errors));
    }
    let revision = revision(query)?;
    if !token.is_empty() && revision.is_some_and(|revision| revision != 0) {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let at = match (revision, matching) {
        (None | Some(0), _) => At::Now,
        (Some(revision), "Exact") => At::Exactly(revision),
        (Some(revision), _) => At::NoEarlier(revision),
    };
    let limit = number(query, "limit")?.unwrap_or(0);
    Ok(ListOptions { at, limit: usize::try_from(limit).unwrap_or(usize::MAX), continue_token: token.to_owned() })
}

/// The options of a watch, whether it wants bookmarks, and how long it lasts.
pub(crate) fn watch(query: &Query) -> Result<(WatchOptions, bool, Duration), Status> {
    let matching = query.first("resourceVersionMatch").unwrap_or_default();
    let initial = query.first("sendInitialEvents").map(|_| query.is_true("sendInitialEvents"));
    let path = Path::new("resourceVersionMatch");
    let mut errors = Vec::new();
    if initial.is_some() && matching != "NotOlderThan" {
        let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if !matching.is_empty() {
        if initial.is_none() {
            let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(&path, detail));
        }
        if matching != "NotOlderThan" {
            errors.push(FieldError::not_supported(&path, matching, &["NotOlderThan"]));
        }
    }
    if !errors.is_empty() {
        return Err(invalid("ListOptions", &errors));
    }
    let revision = revision(query)?.unwrap_or(0);
    let bookmarks = query.is_true("allowWatchBookmarks");
    let after = match initial {
        Some(true) => None,
        _ => (revision != 0).then_some(revision),
    };
    let options = WatchOptions { after, at_least: revision, announce_end: initial == Some(true) && bookmarks };
    let timeout = number(query, "timeoutSeconds")?.filter(|seconds| *seconds > 0).unwrap_or_else(long);
    Ok((options, bookmarks, Duration::from_secs(timeout)))
}

/// Between half an hour and an hour, so that not all clients come back at once.
fn long() -> u64 {
    let mut byte = [0];
    getrandom::fill(&mut byte).expect("the kernel has randomness");
    1800 + u64::from(byte[0]) * 7
}

/// The options of a deletion, from the body and the query.
pub(crate) fn delete(query: &Query, body: &Value) -> Result<DeleteOptions, Status> {
    let mut words: Vec<_> = items(body, "dryRun").iter().filter_map(Value::as_str).collect();
    words.extend(query.all("dryRun").filter(|word| !word.is_empty()));
    let policies = [text(body, "propagationPolicy"), query.first("propagationPolicy").unwrap_or_default()];
    let policy = policies.into_iter().find(|policy| !policy.is_empty()).unwrap_or_default();
    let known = ["Background", "Foreground", "Orphan"];
    let path = Path::new("propagationPolicy");
    if !policy.is_empty() && !known.contains(&policy) {
        let words = ["Foreground", "Background", "Orphan", "nil"];
        return Err(invalid("DeleteOptions", &[FieldError::not_supported(&path, policy, &words)]));
    }
    let orphans = at(body, &["orphanDependents"]).is_some() || query.non_empty("orphanDependents").is_some();
    if orphans && !policy.is_empty() {
        let detail = "orphanDependents and deletionPropagation cannot be both set";
        return Err(invalid("DeleteOptions", &[FieldError::invalid(&path, policy, detail)]));
    }
    let grace = match body.get("gracePeriodSeconds").and_then(Value::as_i64) {
        Some(grace) => Some(grace),
        None => signed(query, "gracePeriodSeconds")?,
    };
    let precondition = |name| text_at(body, &["preconditions", name]).to_owned();
    let preconditions = at(body, &["preconditions"]).is_some();
    Ok(DeleteOptions {
        grace,
        uid: if preconditions { precondition("uid") } else { String::new() },
        resource_version: if preconditions { precondition("resourceVersion") } else { String::new() },
        dry_run: check_dry_run(&words, "DeleteOptions")?,
    })
}

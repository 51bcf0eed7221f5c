//! What controllers do alike when they make objects go.

use api::time;
use client::{Client, Delete};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Deletes the very object that was seen; one of the same name that came after it stays. That it has gone already is no error.
pub(crate) async fn delete(
    client: &Client,
    path: &str,
    object: &Value,
    grace_seconds: Option<i64>,
) -> Result<(), client::Error> {
    let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
    unless_gone(client.delete(path, &Delete { uid, grace_seconds, ..Delete::default() }).await)
}

/// What has gone, or is another by now, needs nothing more.
pub(crate) fn unless_gone<T>(result: Result<T, client::Error>) -> Result<(), client::Error> {
    match result {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// The condition of a pod that is made to go through no fault of its own.
pub(crate) fn disruption(reason: &str, message: &str) -> Value {
    json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": time::format(Timestamp::now()),
    })
}

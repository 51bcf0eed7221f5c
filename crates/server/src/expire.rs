//! Events are forgotten an hour after they were last written.
//!
//! What is to be forgotten when is derived from the events themselves, so a restart forgets nothing of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::Revision;

use crate::State;
use crate::registry::{DeleteOptions, Item, Resource, Selection, Target, WatchOptions, now, object};
use crate::table::timestamp;
use crate::tree::{at, text_at};

const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// How long to wait after an error of the store.
const PAUSE: Duration = Duration::from_secs(10);

/// What is due when. Of the same event there is one for each version; all but the last come to nothing.
type Due = BinaryHeap<Reverse<(Timestamp, Revision, String, String)>>;

/// Works until it is aborted or the store closes.
pub(crate) async fn run(state: Arc<State>) {
    loop {
        match follow(&state).await {
            Ok(()) => return,
            Err(status) => tracing::warn!(message = status.message, "old events are kept for now"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(state: &State) -> Result<(), Status> {
    let selection = Selection::all(Resource::known("", "events"), None);
    let options = WatchOptions { after: None, at_least: 0, announce_end: false };
    let mut feed = state.registry.watch(&selection, &options).await?;
    let mut due = Due::new();
    note(&mut due, std::mem::take(&mut feed.initial));
    loop {
        let wait = due.peek().map(|Reverse((when, ..))| now().duration_until(*when));
        let wait = wait.map(|wait| Duration::try_from(wait).unwrap_or(Duration::ZERO));
        tokio::select! {
            told = feed.next() => match told {
                None => return Ok(()),
                Some(items) => note(&mut due, items?),
            },
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => forget(state, &mut due).await?,
        }
    }
}

fn note(due: &mut Due, items: Vec<Item>) {
    for item in items {
        let Item::Change(change, entry) = item else { continue };
        if change != crate::registry::Change::Deleted {
            let tree = object::decode(&entry);
            let (namespace, name) = (text_at(&tree, &["metadata", "namespace"]), text_at(&tree, &["metadata", "name"]));
            due.push(Reverse((
                last_written(&tree, now()) + LIFETIME,
                entry.modified,
                namespace.to_owned(),
                name.to_owned(),
            )));
        }
    }
}

/// When an event was last written, as far as it says.
fn last_written(event: &Value, now: Timestamp) -> Timestamp {
    let times = [&["metadata", "creationTimestamp"][..], &["lastTimestamp"], &["series", "lastObservedTime"]];
    let latest = times.iter().filter_map(|path| at(event, path).and_then(timestamp)).max();
    // A clock that was wrong must not keep an event for ever.
    latest.unwrap_or(now).min(now)
}

async fn forget(state: &State, due: &mut Due) -> Result<(), Status> {
    let now = now();
    while let Some(Reverse((when, ..))) = due.peek() {
        if *when > now {
            break;
        }
        let Some(Reverse((_, revision, namespace, name))) = due.pop() else { break };
        let target = Target::new(Resource::known("", "events"), &namespace, &name);
        let options = DeleteOptions { resource_version: revision.to_string(), ..DeleteOptions::default() };
        match state.registry.delete(&target, &options).await {
            Ok(_) => {}
            // Gone already, or written anew since: then it has another time.
            Err(status) if [404, 409].contains(&status.code) => {}
            Err(status) => return Err(status),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_lives_from_its_last_write() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().expect("a time");
        let check = |event: Value, expected: &str| assert_eq!(last_written(&event, now).to_string(), expected);
        check(json!({}), "2026-01-02T00:00:00Z");
        check(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}), "2026-01-01T00:00:00Z");
        let again =
            json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": "2026-01-01T05:00:00Z"});
        check(again, "2026-01-01T05:00:00Z");
        let series = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "series": {"lastObservedTime": "2026-01-01T06:00:00.000001Z"}});
        check(series, "2026-01-01T06:00:00.000001Z");
        check(json!({"lastTimestamp": "2030-01-01T00:00:00Z"}), "2026-01-02T00:00:00Z");
    }
}

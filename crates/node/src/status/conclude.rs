//! What is said of the containers of a pod that has ended: none of them waits any more.

use serde_json::{Value, json};

/// Says of containers that never came to run, but would have been next, that nobody knows how they ended. Init containers that were
/// never tried, and containers behind them, stay as they are.
pub(super) fn conclude(status: &mut Value) {
    let is_initialized = is_initialized(status);
    if let Some(containers) =
        status.get_mut("containerStatuses").and_then(Value::as_array_mut).filter(|_| is_initialized)
    {
        containers.iter_mut().for_each(end);
    }
    if let Some(containers) = status.get_mut("initContainerStatuses").and_then(Value::as_array_mut) {
        let tried = containers.iter().rposition(|container| !is_waiting(container)).map_or(1, |last| last + 1);
        containers.iter_mut().take(tried).for_each(end);
    }
}

fn list<'a>(status: &'a Value, name: &str) -> &'a [Value] {
    status[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_waiting(container: &Value) -> bool {
    container["state"].get("waiting").is_some()
}

/// Whether the init containers, if there are any, had done their work.
fn is_initialized(status: &Value) -> bool {
    let has_begun = |c: &Value| !is_waiting(c) || c["lastState"].get("terminated").is_some();
    let has_done = |c: &Value| ["state", "lastState"].iter().any(|state| c[*state]["terminated"]["exitCode"] == 0);
    list(status, "containerStatuses").iter().any(has_begun)
        || list(status, "initContainerStatuses").last().is_none_or(has_done)
}

fn end(container: &mut Value) {
    if !is_waiting(container) {
        return;
    }
    let last = container["lastState"].take();
    if last.get("terminated").is_some() {
        container["state"] = last;
    } else {
        container["state"] = json!({"terminated": {
            "exitCode": 137,
            "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was terminated",
            "startedAt": null,
            "finishedAt": null,
        }});
    }
    container["lastState"] = json!({});
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(last: Value) -> Value {
        json!({"state": {"waiting": {"reason": "ImagePullBackOff"}}, "lastState": last})
    }

    fn done(code: i32) -> Value {
        json!({"state": {"terminated": {"exitCode": code}}, "lastState": {}})
    }

    fn codes(init: Value, main: Value) -> Vec<Option<i64>> {
        let mut status = json!({"initContainerStatuses": init, "containerStatuses": main});
        conclude(&mut status);
        let all = list(&status, "initContainerStatuses").iter().chain(list(&status, "containerStatuses"));
        all.map(|container| container["state"]["terminated"]["exitCode"].as_i64()).collect()
    }

    #[test]
    fn who_would_have_been_next_has_ended_somehow() {
        assert_eq!(codes(json!([]), json!([waiting(json!({}))])), [Some(137)]);
        assert_eq!(codes(json!([done(0)]), json!([waiting(json!({})), done(0)])), [Some(0), Some(137), Some(0)]);
    }

    #[test]
    fn who_was_not_to_begin_yet_still_has_not() {
        let none = json!({});
        let init = json!([done(1), waiting(none.clone())]);
        assert_eq!(codes(init, json!([waiting(none.clone())])), [Some(1), None, None]);
        let init = json!([waiting(none.clone()), waiting(none.clone())]);
        assert_eq!(codes(init, json!([waiting(none)])), [Some(137), None, None]);
    }

    #[test]
    fn an_end_that_is_known_is_told() {
        assert_eq!(codes(json!([]), json!([waiting(json!({"terminated": {"exitCode": 3}}))])), [Some(3)]);
    }
}

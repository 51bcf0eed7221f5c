//! `/livez`, `/readyz` and `/healthz`, as upstream answers them: "ok", or which check failed. A server that cannot reach its store is alive and not
//! ready, so that a balancer of several servers leaves it out.

use std::fmt::Write as _;
use std::time::Duration;

use api::query::Query;
use http::{Response, StatusCode};
use tokio::time::timeout;
use wire::Body;

use crate::State;
use crate::route::text;

/// A store that has not answered by then is not there.
const DEADLINE: Duration = Duration::from_secs(2);

/// The answer to a path that begins with one of the three; `None` for a check that does not exist.
pub(crate) async fn answer(state: &State, path: &str, query: &Query) -> Option<Response<Body>> {
    let (endpoint, wanted) = match path.trim_start_matches('/').split_once('/') {
        Some((endpoint, check)) => (endpoint, Some(check)),
        None => (path.trim_start_matches('/'), None),
    };
    let all: &[&str] = if endpoint == "livez" { &["ping"] } else { &["ping", "store"] };
    let excluded: Vec<&str> = query.all("exclude").collect();
    let checks: Vec<&str> = match wanted {
        Some(check) => vec![all.iter().find(|known| **known == check)?],
        None => all.iter().filter(|check| !excluded.contains(check)).copied().collect(),
    };
    let mut results = Vec::new();
    for check in checks {
        results.push((check, check != "store" || reaches_store(state).await));
    }
    Some(render(endpoint, &results, query.first("verbose").is_some()))
}

async fn reaches_store(state: &State) -> bool {
    matches!(timeout(DEADLINE, state.registry.revision()).await, Ok(Ok(_)))
}

fn render(endpoint: &str, results: &[(&str, bool)], verbose: bool) -> Response<Body> {
    let passed = results.iter().all(|(_, passed)| *passed);
    if passed && !verbose {
        return text("ok");
    }
    let mut lines = String::new();
    for (check, passed) in results {
        // Why is in the server's log, for the eyes of those who run it.
        let line = if *passed { format!("[+]{check} ok") } else { format!("[-]{check} failed: reason withheld") };
        let _ = writeln!(lines, "{line}");
    }
    let _ = writeln!(lines, "{endpoint} check {}", if passed { "passed" } else { "failed" });
    let mut response = text(lines);
    if !passed {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shown(results: &[(&str, bool)], verbose: bool) -> (u16, String) {
        let response = render("readyz", results, verbose);
        let code = response.status().as_u16();
        let body = wire::body::collect(response.into_body(), 1000).await.expect("a body");
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn what_failed_is_named() {
        assert_eq!(shown(&[("ping", true), ("store", true)], false).await, (200, "ok".into()));
        let (code, text) = shown(&[("ping", true), ("store", true)], true).await;
        assert_eq!((code, text.as_str()), (200, "[+]ping ok\n[+]store ok\nreadyz check passed\n"));
        let (code, text) = shown(&[("ping", true), ("store", false)], false).await;
        assert_eq!((code, text.as_str()), (500, "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n"));
    }
}

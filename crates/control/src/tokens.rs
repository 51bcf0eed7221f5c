//! Removes bootstrap tokens whose time is over, or that were used as often as they may be.

use client::cache::{Cache, Change, Key};
use client::queue::Queue;
use client::{Client, Patch, resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::removal;
use crate::signing::{decoded, encoded};

const NAMESPACE: &str = "kube-system";
/// The annotation that says how many machines may still join with a token; without it, any number.
pub const USES: &str = "podling.dev/uses";
/// A token that was used for the last time is good for so much longer.
const LAST_USE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the shutdown.
pub async fn run(client: Client, mut shutdown: watch::Receiver<bool>) {
    let selector = vec![("fieldSelector".to_owned(), "type=bootstrap.kubernetes.io/token".to_owned())];
    let path = resource::SECRETS.collection(Some(NAMESPACE));
    let (tokens, mut changes) = Cache::start(client.clone(), path, selector, shutdown.clone());
    let queue: Queue<String> = Queue::default();
    loop {
        tokio::select! {
            () = client::stopped(&mut shutdown) => return,
            change = changes.recv() => match change {
                Some(Change::Set(token)) => queue.add(Key::of(&token).name),
                Some(_) => {}
                None => return,
            },
            name = queue.next() => {
                let Some(token) = tokens.get(&Key { namespace: NAMESPACE.into(), name: name.clone() }) else { continue };
                match remaining(&token, Timestamp::now()) {
                    None => {}
                    Some(left) if !left.is_zero() => queue.add_at(name, Instant::now() + left),
                    Some(_) => {
                        let path = resource::SECRETS.object(Some(NAMESPACE), &name);
                        if let Err(error) = removal::delete(&client, &path, &token, None).await {
                            tracing::debug!(%error, token = name, "removing an expired token");
                            queue.add_at(name, Instant::now() + RETRY);
                        }
                    }
                }
            }
        }
    }
}

/// Notes that a machine has joined with a token; false if the token is good for no more.
pub(crate) async fn use_up(client: &Client, id: &str) -> Result<bool, client::Error> {
    let path = resource::SECRETS.object(Some(NAMESPACE), &format!("bootstrap-token-{id}"));
    let token = match client.get(&path).await {
        Ok(token) => token,
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error),
    };
    let Some(uses) = token["metadata"]["annotations"][USES].as_str().and_then(|text| text.parse::<u32>().ok()) else {
        return Ok(true);
    };
    let Some(left) = uses.checked_sub(1) else { return Ok(false) };
    let mut patch = json!({"metadata": {"resourceVersion": token["metadata"]["resourceVersion"],
        "annotations": {USES: left.to_string()}}});
    if left == 0 {
        // The machine that joins with it still has to fetch its certificate.
        let end = Timestamp::now().checked_add(LAST_USE).unwrap_or(Timestamp::MAX);
        patch["data"] = json!({"expiration": encoded(&api::time::format(end))});
    }
    client.patch(&path, Patch::Merge, &patch).await?;
    Ok(true)
}

/// How long a token is good for; `None` is forever. One whose end cannot be read is good for nothing, but is not ours to remove.
fn remaining(token: &Value, now: Timestamp) -> Option<Duration> {
    let end: Timestamp = token["data"]["expiration"].as_str().and_then(decoded)?.parse().ok()?;
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_until_its_end() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a moment");
        let left = |end: &str| remaining(&json!({"data": {"expiration": crate::signing::encoded(end)}}), now);
        assert_eq!(left("2026-01-01T00:01:00Z"), Some(Duration::from_secs(60)));
        assert_eq!(left("2025-01-01T00:00:00Z"), Some(Duration::ZERO));
        assert_eq!(left("soon"), None);
        assert_eq!(remaining(&json!({"data": {}}), now), None);
    }
}

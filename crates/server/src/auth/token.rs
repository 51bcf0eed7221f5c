//! Bootstrap tokens: what a machine shows that has no identity yet. Each is a secret of kube-system.

use api::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use serde_json::Value;

use super::{AUTHENTICATED, Action, User};
use crate::registry::{Registry, Resource, Target, now, object};
use crate::tree::{at, text, text_at};

/// The group of all that hold such a token.
pub(super) const BOOTSTRAPPERS: &str = "system:bootstrappers";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where a joining node reads what it must know of the cluster.
pub(crate) const CLUSTER_FACTS: &str = "podling-cluster";

/// Who shows the token in the request's headers; nobody without one.
pub(crate) async fn bearer(registry: &Registry, headers: &HeaderMap) -> Result<Option<User>, Status> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let Some((id, secret)) = token.and_then(|token| token.split_once('.')) else { return Err(Status::unauthorized()) };
    if !is_word(id, 6) || !is_word(secret, 16) {
        return Err(Status::unauthorized());
    }
    let name = format!("bootstrap-token-{id}");
    let target = Target::new(Resource::known("", "secrets"), "kube-system", &name);
    let entry = registry.find(&target).await?.ok_or_else(Status::unauthorized)?;
    user(&object::decode(&entry), id, secret, now()).map(Some)
}

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

fn user(stored: &Value, id: &str, secret: &str, now: Timestamp) -> Result<User, Status> {
    let value = |key: &str| {
        let bytes = STANDARD.decode(text_at(stored, &["data", key])).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let is_sound = text(stored, "type") == TYPE
        && at(stored, &["metadata", "deletionTimestamp"]).is_none()
        && value("token-id") == id
        && value("usage-bootstrap-authentication") == "true"
        && is_same(value("token-secret").as_bytes(), secret.as_bytes());
    if !is_sound {
        return Err(Status::unauthorized());
    }
    let expiration = value("expiration");
    // A moment that nobody can read has passed.
    if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |moment| moment <= now) {
        let mut status = Status::unauthorized();
        // Whoever has the secret may know.
        status.message = format!("Unauthorized: the bootstrap token {id} expired at {expiration}");
        return Err(status);
    }
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    groups.extend(value("auth-extra-groups").split(',').filter(|group| is_extra_group(group)).map(str::to_owned));
    groups.push(AUTHENTICATED.to_owned());
    Ok(User { name: format!("system:bootstrap:{id}"), groups })
}

fn is_extra_group(name: &str) -> bool {
    let rest = name.strip_prefix("system:bootstrappers:").unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    rest.bytes().last().is_some_and(is_plain) && rest.bytes().all(|byte| is_plain(byte) || b":-".contains(&byte))
}

/// Takes as long whether the first or the last byte differs.
fn is_same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// What a machine without an identity may: ask for one, and see what becomes of the request.
pub(super) fn may(action: &Action) -> bool {
    let verb = action.verb.as_str();
    match (action.resource.as_str(), action.subresource.as_str()) {
        ("certificatesigningrequests", "") => verb == "create" || is_one_read(action),
        ("configmaps", "") => verb == "get" && action.namespace == "kube-system" && action.name == CLUSTER_FACTS,
        _ => false,
    }
}

/// A read of one object whose name is known.
pub(super) fn is_one_read(action: &Action) -> bool {
    let named = !action.name.is_empty() || action.only.iter().any(|(field, _)| field == "metadata.name");
    action.is_read() && named
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stored(change: &[(&str, &str)]) -> Value {
        let mut values = vec![
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:x,system:masters"),
        ];
        values.extend(change);
        let data: serde_json::Map<_, _> =
            values.into_iter().map(|(key, value)| (key.to_owned(), STANDARD.encode(value).into())).collect();
        json!({"type": TYPE, "metadata": {}, "data": data})
    }

    #[test]
    fn only_the_whole_truth_is_believed() {
        let at = |moment: &str| moment.parse::<Timestamp>().expect("a moment");
        let ask =
            |change: &[(&str, &str)], secret: &str| user(&stored(change), "abcdef", secret, at("2026-01-02T00:00:00Z"));
        let good = ask(&[], "0123456789abcdef").expect("it is right");
        assert_eq!(good.name, "system:bootstrap:abcdef");
        assert_eq!(good.groups, ["system:bootstrappers", "system:bootstrappers:x", "system:authenticated"]);
        assert_eq!(ask(&[], "0123456789abcdee").expect_err("wrong").message, "Unauthorized");
        let late = [("expiration", "2026-01-01T00:00:00Z")];
        assert!(ask(&late, "0123456789abcdef").expect_err("late").message.contains("expired at 2026-01-01"));
        assert_eq!(ask(&late, "x123456789abcdef").expect_err("late and wrong").message, "Unauthorized");
        assert!(ask(&[("expiration", "2026-01-03T00:00:00Z")], "0123456789abcdef").is_ok());
        assert!(ask(&[("expiration", "tomorrow")], "0123456789abcdef").is_err());
        assert!(ask(&[("usage-bootstrap-authentication", "false")], "0123456789abcdef").is_err());
        assert!(ask(&[("token-id", "abcdee")], "0123456789abcdef").is_err());
    }
}

//! Who asks, and whether they may.
//!
//! Callers prove who they are with a certificate: its CN is the user, its Os are the groups; machines that have none yet
//! with a bootstrap token. What they may is decided here
//! by fixed roles: administrators everything, nodes what concerns their own pods, the system's components what they need,
//! everybody who is known what concerns themselves.

use api::status::{self, Status};
use http::HeaderMap;
use wire::Peer;

use crate::registry::Registry;

pub(crate) mod node;
pub(crate) mod token;

const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known == group)
    }

    fn is_anonymous(&self) -> bool {
        !self.is_in(AUTHENTICATED)
    }
}

/// What a caller wants to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Action {
    /// `get`, `list`, `create` and so on.
    pub(crate) verb: String,
    pub(crate) group: String,
    /// The plural; empty for paths that are no resource's.
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The path, where there is no resource.
    pub(crate) path: String,
    /// What field selectors restrict it to.
    pub(crate) only: Vec<(String, String)>,
}

impl Action {
    fn resource_text(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            sub => format!("{}/{sub}", self.resource),
        }
    }

    fn is_read(&self) -> bool {
        ["get", "list", "watch"].contains(&self.verb.as_str())
    }

    fn describe(&self, user: &User) -> String {
        let user = api::field::quote(&user.name);
        if self.resource.is_empty() {
            return format!("User {user} cannot {} path {}", self.verb, api::field::quote(&self.path));
        }
        let (resource, group) = (api::field::quote(&self.resource_text()), api::field::quote(&self.group));
        let place = match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", api::field::quote(namespace)),
        };
        format!("User {user} cannot {} resource {resource} in API group {group} {place}", self.verb)
    }
}

/// Who asks, by the connection.
pub(crate) fn caller(peer: Option<&Peer>) -> User {
    match peer.and_then(|peer| peer.identity.as_ref()) {
        Some(identity) => {
            let mut groups = identity.groups.clone();
            groups.push(AUTHENTICATED.to_owned());
            User { name: identity.user.clone(), groups }
        }
        None => User { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()] },
    }
}

/// Who asks, after `Impersonate-` headers; these need the right to it.
pub(crate) fn impersonated(user: User, headers: &HeaderMap) -> Result<User, Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let extra = headers.keys().any(|name| name.as_str().starts_with("impersonate-extra-"));
    let groups: Vec<_> = headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok()).collect();
    let Some(name) = text("impersonate-user").filter(|name| !name.is_empty()) else {
        return if groups.is_empty() && !extra && text("impersonate-uid").is_none() {
            Ok(user)
        } else {
            Err(Status::bad_request("impersonation was requested without a user name"))
        };
    };
    if !user.is_in(MASTERS) {
        let action = Action {
            verb: "impersonate".to_owned(),
            resource: "users".to_owned(),
            name: name.to_owned(),
            ..Action::default()
        };
        return Err(forbidden(&user, &action, ""));
    }
    let mut groups: Vec<_> = groups.into_iter().map(str::to_owned).collect();
    groups.extend(implied_groups(name));
    Ok(User { name: name.to_owned(), groups })
}

/// The groups that a user is in by name.
fn implied_groups(name: &str) -> Vec<String> {
    let mut groups = Vec::new();
    if let Some((namespace, _)) = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    groups.push(if name == "system:anonymous" { "system:unauthenticated" } else { AUTHENTICATED }.to_owned());
    groups
}

/// The refusal.
pub(crate) fn forbidden(user: &User, action: &Action, reason: &str) -> Status {
    let mut text = action.describe(user);
    if !reason.is_empty() {
        text.push_str(": ");
        text.push_str(reason);
    }
    Status::forbidden(status::Resource { group: &action.group, name: &action.resource }, &action.name, &text)
}

/// Refuses what the caller may not.
pub(crate) async fn authorize(registry: &Registry, user: &User, action: &Action) -> Result<(), Status> {
    match decide(registry, user, action).await? {
        Decision::Allowed => Ok(()),
        Decision::Denied(reason) => Err(forbidden(user, action, &reason)),
    }
}

/// Whether a caller may do something.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    /// The text says why, where there is more to say than that nothing allows it.
    Denied(String),
}

impl Decision {
    fn of(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Denied(String::new()) }
    }
}

/// Decides.
pub(crate) async fn decide(registry: &Registry, user: &User, action: &Action) -> Result<Decision, Status> {
    if user.is_in(MASTERS) || everyone_may(user, action) {
        return Ok(Decision::Allowed);
    }
    if let Some(node) = user.name.strip_prefix("system:node:").filter(|_| user.is_in("system:nodes")) {
        return node::decide(registry, node, action).await;
    }
    if user.is_in(token::BOOTSTRAPPERS) {
        return Ok(Decision::of(token::may(action)));
    }
    Ok(Decision::of(match user.name.as_str() {
        "system:kube-scheduler" => scheduler_may(action),
        "system:kube-controller-manager" => controllers_may(action),
        _ => false,
    }))
}

/// Health as a whole and the version are for all; its parts, discovery and questions about oneself for all who are known.
fn everyone_may(user: &User, action: &Action) -> bool {
    if !action.resource.is_empty() {
        let group = action.group.as_str();
        let own = ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"];
        let reviews = ["authorization.k8s.io", "authentication.k8s.io"].contains(&group);
        return !user.is_anonymous() && action.verb == "create" && reviews && own.contains(&action.resource.as_str());
    }
    let path = action.path.as_str();
    let under = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let open = ["/healthz", "/livez", "/readyz", "/version", "/version/"].contains(&path);
    let known = ["/healthz", "/livez", "/readyz", "/version", "/api", "/apis", "/openapi"];
    let known = path == "/" || known.into_iter().any(under);
    action.verb == "get" && (open || (known && !user.is_anonymous()))
}

fn is_event_write(action: &Action) -> bool {
    action.resource == "events" && ["create", "patch", "update"].contains(&action.verb.as_str())
}

fn scheduler_may(action: &Action) -> bool {
    let verb = action.verb.as_str();
    match (action.resource.as_str(), action.subresource.as_str()) {
        ("secrets", _) => false,
        (_, "") if action.is_read() => true,
        ("pods", "") => verb == "delete",
        ("pods", "binding") => verb == "create",
        ("pods", "status") => ["patch", "update"].contains(&verb),
        ("leases", "") => action.namespace == "kube-system" && ["create", "update", "patch"].contains(&verb),
        _ => is_event_write(action),
    }
}

/// The controllers empty namespaces, so they may delete everything; they write what they look after.
fn controllers_may(action: &Action) -> bool {
    let verb = action.verb.as_str();
    let deletes = ["delete", "deletecollection"].contains(&verb);
    let written = [
        "certificatesigningrequests",
        "configmaps",
        "events",
        "leases",
        "namespaces",
        "nodes",
        "poddisruptionbudgets",
        "pods",
        "secrets",
        "serviceaccounts",
        "services",
    ];
    let parts = ["", "status", "finalize", "eviction", "ephemeralcontainers", "approval"];
    let subresource = parts.contains(&action.subresource.as_str());
    !action.resource.is_empty()
        && subresource
        && (action.is_read() || deletes || written.contains(&action.resource.as_str()))
}

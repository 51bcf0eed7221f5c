//! Where a request goes: from who sends it and what its path names to the part that answers. No route per kind.

use std::sync::Arc;

use api::kind::{self, Kind};
use api::path::{RequestPath, ResourcePath};
use api::status::Status;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::json;
use wire::{Body, Peer};

use crate::auth::{self, Action};
use crate::call::Call;
use crate::{State, discovery, error, health, negotiate, proxy, render, subresource, verbs};

/// Below this, nodes keep connections ready over which they are asked.
pub(crate) const TUNNELS: &str = "/podling/v1/tunnel/";

/// Answers a request.
pub(crate) async fn answer(state: &Arc<State>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let mut user = auth::caller(request.extensions().get::<Peer>());
    if user.name == "system:anonymous"
        && let Some(bearer) = auth::token::bearer(&state.registry, request.headers()).await?
    {
        user = bearer;
    }
    let user = auth::impersonated(user, request.headers())?;
    let call = Call::new(user, request)?;
    let path = RequestPath::parse(call.path()).map_err(error::of_api)?;
    let mut response = match path {
        RequestPath::Resource(path) => resource(state, call, path).await?,
        RequestPath::Other(path) if path.starts_with(TUNNELS) => return proxy::tunnel(state, call, &path),
        RequestPath::Other(path) => other(state, &call, &path).await?,
    };
    let headers = response.headers_mut();
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
    headers.insert(HeaderName::from_static("audit-id"), audit_id());
    Ok(response)
}

fn audit_id() -> HeaderValue {
    let id = HeaderValue::from_str(&crate::registry::uid());
    let mut id = id.unwrap_or(HeaderValue::from_static("unknown"));
    // No secret, but it never comes again: HTTP/2 need not remember it at both ends.
    id.set_sensitive(true);
    id
}

/// What the method asks of a resource.
fn verb(call: &Call, path: &ResourcePath) -> Option<&'static str> {
    let watch = path.watch || (call.query.is_true("watch") && path.name.is_none());
    Some(match (call.method(), path.name.is_some()) {
        (&Method::GET, _) if watch => "watch",
        (&Method::GET, true) => "get",
        (&Method::GET, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => return None,
    })
}

async fn resource(state: &Arc<State>, call: Call, path: ResourcePath) -> Result<Response<Body>, Status> {
    let verb = verb(&call, &path).ok_or_else(Status::method_not_allowed)?;
    let action = action(&call, &path, verb);
    auth::authorize(&state.registry, &call.user, &action).await?;
    if !discovery::served().contains(&(path.group.as_str(), path.version.as_str())) {
        return Ok(page_not_found());
    }
    let kind = kind::by_resource(&path.group, &path.version, &path.resource).ok_or_else(Status::unknown_path)?;
    match path.subresource.as_deref() {
        Some(name) => {
            let part = kind.subresource(name).ok_or_else(Status::unknown_path)?;
            if !part.verbs.iter().any(|known| known.as_str() == verb) {
                return Err(Status::method_not_allowed());
            }
            subresource::answer(state, call, kind, &path, verb).await
        }
        None => {
            check_verb(kind, &path, verb)?;
            verbs::answer(state, call, kind, &path, verb).await
        }
    }
}

fn check_verb(kind: &Kind, path: &ResourcePath, verb: &str) -> Result<(), Status> {
    let known = kind.verbs.iter().any(|known| known.as_str() == verb);
    let single = ["get", "update", "patch", "delete"].contains(&verb);
    let placed = !kind.is_namespaced() || path.namespace.is_some() || ["list", "watch", "create"].contains(&verb);
    let in_namespace = kind.is_namespaced() || path.namespace.is_none() || kind.kind == "Namespace";
    let lost = kind.is_namespaced() && path.namespace.is_none() && path.name.is_some() && verb != "create";
    if !in_namespace || lost {
        return Err(Status::unknown_path());
    }
    let unnamed_create =
        verb == "create" && (path.name.is_some() || (kind.is_namespaced() && path.namespace.is_none()));
    if !known || !placed || unnamed_create || (single && path.name.is_none()) {
        return Err(Status::method_not_allowed());
    }
    Ok(())
}

fn action(call: &Call, path: &ResourcePath, verb: &str) -> Action {
    let selector = call.query.first("fieldSelector").unwrap_or_default();
    let only = selector
        .split(',')
        .filter_map(|term| term.split_once('='))
        .map(|(name, value)| (name.trim_end_matches('!').to_owned(), value.trim_start_matches('=').to_owned()));
    let name = path.name.clone().unwrap_or_default();
    Action {
        verb: verb.to_owned(),
        group: path.group.clone(),
        resource: path.resource.clone(),
        subresource: path.subresource.clone().unwrap_or_default(),
        namespace: path.namespace.clone().unwrap_or_default(),
        name,
        path: String::new(),
        only: if selector.contains("!=") { Vec::new() } else { only.collect() },
    }
}

const HEALTH: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// Paths that are no resource's.
async fn other(state: &Arc<State>, call: &Call, whole: &str) -> Result<Response<Body>, Status> {
    let verb = call.method().as_str().to_ascii_lowercase();
    let verb = if verb == "head" { "get".to_owned() } else { verb };
    let action = Action { verb, path: whole.to_owned(), ..Action::default() };
    auth::authorize(&state.registry, &call.user, &action).await?;
    if action.verb != "get" {
        return Err(Status::method_not_allowed());
    }
    let is_health =
        |root: &&str| whole.strip_prefix(*root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if HEALTH.iter().any(is_health) {
        // Here a slash at the end begins the name of a check.
        return Ok(found(health::answer(state, whole, &call.query).await));
    }
    match whole.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(whole) {
        "/version" => Ok(version(state)),
        "/" => Ok(discovery::index()),
        path if path.starts_with("/openapi/") => Ok(found(state.openapi.answer(call.headers(), &call.query, path)?)),
        path => Ok(found(state.discovery.answer(call.headers(), path)?)),
    }
}

fn found(response: Option<Response<Body>>) -> Response<Body> {
    response.unwrap_or_else(page_not_found)
}

/// The answer to a path that means nothing at all.
fn page_not_found() -> Response<Body> {
    let mut response = text("404 page not found\n");
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

pub(crate) fn text(content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(wire::body::full(content));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn version(state: &State) -> Response<Body> {
    let cluster = &state.cluster;
    let mut parts = cluster.version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let version = json!({"major": major, "minor": minor, "gitVersion": cluster.version, "gitCommit": cluster.commit,
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture())});
    render::tree(StatusCode::OK, &version)
}

/// The machine's architecture by the name that clients know.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether the caller takes JSON, for answers that have no other form.
pub(crate) fn plain(call: &Call) -> Result<(), Status> {
    negotiate::plain(call.headers())
}

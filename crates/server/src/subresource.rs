//! Parts of objects that have paths of their own.

use std::sync::Arc;

use api::field::{FieldError, Path};
use api::kind::{self, Kind};
use api::path::ResourcePath;
use api::status::Status;
use http::{Response, StatusCode};
use serde_json::Value;
use wire::Body;

use crate::call::Call;
use crate::registry::{Registry, Resource, Target, Update, WriteOptions, now};
use crate::tree::{text, text_at};
use crate::{State, body, error, evict, kinds, options, proxy, render, verbs};

/// Answers a request for a part of an object.
pub(crate) async fn answer(
    state: &Arc<State>,
    call: Call,
    kind: &'static Kind,
    path: &ResourcePath,
    verb: &str,
) -> Result<Response<Body>, Status> {
    let name = path.name.as_deref().ok_or_else(Status::unknown_path)?;
    let target = Target::new(Resource::new(kind), verbs::namespace(path), name);
    let registry = &state.registry;
    match (path.subresource.as_deref().unwrap_or_default(), verb) {
        ("status" | "approval", "get") => verbs::get(registry, &call, &target).await,
        (part @ ("status" | "approval"), "update") => verbs::update(registry, call, &target, part).await,
        (part @ ("status" | "approval"), _) => verbs::patch(registry, call, &target, part).await,
        ("finalize", _) => finalize(registry, call, &target).await,
        ("binding", _) => bind(registry, call, &target).await,
        ("eviction", _) => evict::answer(registry, call, &target).await,
        ("proxy", _) => proxy::node(state, call, &target, &path.rest).await,
        ("log", _) => proxy::log(state, call, &target).await,
        (part @ ("exec" | "attach" | "portforward"), _) => proxy::stream(state, call, &target, part).await,
        ("ephemeralcontainers" | "resize", "get") => verbs::get(registry, &call, &target).await,
        (part, verb) => {
            let named = format!("{}/{part}", kind.plural);
            Err(Status::method_not_supported(api::status::Resource { group: kind.group, name: &named }, verb))
        }
    }
}

async fn finalize(registry: &Registry, mut call: Call, target: &Target) -> Result<Response<Body>, Status> {
    let form = call.form(true)?;
    let unknown = options::unknown(&call.query, "UpdateOptions")?;
    let (mut tree, _) = body::read(&mut call, target.resource.kind, unknown).await?;
    (target.resource.behaviour.defaults)(&mut tree);
    let written = registry.finalize_namespace(target, &tree).await?;
    Ok(render::one(StatusCode::OK, &target.resource, &written.entry, form, now()))
}

/// Gives a pod its node.
pub(crate) async fn bind(registry: &Registry, mut call: Call, target: &Target) -> Result<Response<Body>, Status> {
    let dry_run = options::dry_run(&call.query, "CreateOptions")?;
    let unknown = options::unknown(&call.query, "CreateOptions")?;
    let kind = kind::by_kind("", "v1", "Binding").ok_or_else(Status::unknown_path)?;
    let (binding, _) = body::read(&mut call, kind, unknown).await?;
    let said = text_at(&binding, &["metadata", "name"]);
    if said != target.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let node = text(&binding["target"], "name").to_owned();
    check_binding(&binding, target)?;
    let uid = text_at(&binding, &["metadata", "uid"]).to_owned();
    let change = |old: &Value| {
        if !uid.is_empty() && uid != text_at(old, &["metadata", "uid"]) {
            let cause = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text_at(old, &["metadata", "uid"])
            );
            return Err(conflict(target, &cause));
        }
        let mut new = old.clone();
        kinds::pod::bind(&mut new, &node, &binding, now()).map_err(|cause| conflict(target, &cause))?;
        Ok(new)
    };
    let options = WriteOptions { dry_run };
    let update = Update { target, subresource: "binding", change: &change, uid_is_precondition: false, options };
    registry.update(&update).await?;
    Ok(created())
}

fn conflict(target: &Target, cause: &str) -> Status {
    Status::conflict(api::status::Resource { group: "", name: "pods/binding" }, &target.name, cause)
}

fn check_binding(binding: &Value, target: &Target) -> Result<(), Status> {
    let path = Path::new("target");
    let mut errors = Vec::new();
    let [kind, name] = ["kind", "name"].map(|field| text(&binding["target"], field));
    if !["", "Node"].contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        kinds::check::report(&mut errors, &path.child("name"), name, kinds::check::dns_subdomain(name));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(api::status::Resource { group: "", name: "Binding" }, &target.name, &errors))
}

/// The Status of something that was done and has no object.
pub(crate) fn created() -> Response<Body> {
    let mut status = Status::success();
    status.code = 201;
    error::response(&status)
}

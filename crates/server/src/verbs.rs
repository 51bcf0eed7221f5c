//! What is done to objects: one function per verb, the same for all kinds.

use std::borrow::Cow;
use std::sync::Arc;

use api::kind::Kind;
use api::path::ResourcePath;
use api::selector::{FieldSelector, LabelSelector};
use api::status::Status;
use http::{Response, StatusCode};
use serde_json::Value;
use wire::Body;

use crate::body::{self, Patch};
use crate::call::{Call, warn};
use crate::registry::{
    Registry, Resource, Selection, Target, Update, WriteOptions, check_fields, now, object as stored,
};
use crate::render::{self, Lines};
use crate::stream::Stream;
use crate::tree::{object, set, text_at};
use crate::{State, admit, error, options, review};

/// Answers a request for objects of a kind.
pub(crate) async fn answer(
    state: &Arc<State>,
    call: Call,
    kind: &'static Kind,
    path: &ResourcePath,
    verb: &str,
) -> Result<Response<Body>, Status> {
    if kind.storage.is_none() {
        return review::answer(state, call, kind, path).await;
    }
    let resource = Resource::new(kind);
    let registry = &state.registry;
    if verb == "watch" {
        return watch(registry, &call, resource, path).await;
    }
    let Some(name) = &path.name else {
        return match verb {
            "list" => list(registry, &call, resource, path).await,
            "create" => create(registry, call, resource, path).await,
            _ => delete_collection(registry, call, resource, path).await,
        };
    };
    let target = Target::new(resource, namespace(path), name);
    match verb {
        "get" => get(registry, &call, &target).await,
        "update" => update(registry, call, &target, "").await,
        "patch" => patch(registry, call, &target, "").await,
        _ => delete(registry, call, &target).await,
    }
}

/// The namespace of an object's place. A Namespace object is in none.
pub(crate) fn namespace(path: &ResourcePath) -> &str {
    match path.resource.as_str() {
        "namespaces" => "",
        _ => path.namespace.as_deref().unwrap_or_default(),
    }
}

/// One object.
pub(crate) async fn get(registry: &Registry, call: &Call, target: &Target) -> Result<Response<Body>, Status> {
    let form = call.form(true)?;
    let entry = registry.get_at_least(target, options::get(&call.query)?).await?;
    Ok(render::one(StatusCode::OK, &target.resource, &entry, form, now()))
}

fn selection(call: &Call, resource: Resource, path: &ResourcePath) -> Result<Selection, Status> {
    let labels = match call.query.non_empty("labelSelector") {
        Some(text) => Some(Arc::new(LabelSelector::parse(text).map_err(error::of_api)?)),
        None => None,
    };
    let mut selector = call.query.first("fieldSelector").unwrap_or_default().to_owned();
    if let Some(name) = &path.name {
        // A watch of one object.
        selector = format!("metadata.name={name}");
    }
    let fields = match selector.as_str() {
        "" => None,
        text => Some(Arc::new(FieldSelector::parse(text).map_err(error::of_api)?)),
    };
    if let Some(fields) = &fields {
        check_fields(&resource, fields)?;
    }
    let namespace = Some(namespace(path)).filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(Selection { resource, namespace, labels, fields })
}

async fn list(
    registry: &Registry,
    call: &Call,
    resource: Resource,
    path: &ResourcePath,
) -> Result<Response<Body>, Status> {
    let form = call.form(true)?;
    let options = options::list(&call.query)?;
    let page = registry.list(&selection(call, resource, path)?, &options).await?;
    Ok(render::list(&resource, &page, form, now()))
}

async fn watch(
    registry: &Registry,
    call: &Call,
    resource: Resource,
    path: &ResourcePath,
) -> Result<Response<Body>, Status> {
    let form = call.form(true)?;
    let (options, bookmarks, timeout) = options::watch(&call.query)?;
    let feed = registry.watch(&selection(call, resource, path)?, &options).await?;
    Ok(Stream { feed, lines: Lines::new(resource, form), bookmarks, timeout }.respond())
}

async fn create(
    registry: &Registry,
    mut call: Call,
    resource: Resource,
    path: &ResourcePath,
) -> Result<Response<Body>, Status> {
    let form = call.form(true)?;
    let dry_run = options::dry_run(&call.query, "CreateOptions")?;
    let unknown = options::unknown(&call.query, "CreateOptions")?;
    let (mut tree, mut warnings) = body::read(&mut call, resource.kind, unknown).await?;
    place(&resource, namespace(path), &mut tree)?;
    complete(&resource, &mut tree);
    admit::create(registry, &call.user, &resource, &mut tree).await?;
    let entry = registry.create(resource, tree, WriteOptions { dry_run }).await?;
    warnings.extend((resource.behaviour.warnings)(&stored::tree(&entry)));
    let mut response = render::one(StatusCode::CREATED, &resource, &entry, form, now());
    warn(&mut response, &warnings);
    Ok(response)
}

/// From the served to the stored version, with defaults.
fn complete(resource: &Resource, tree: &mut Value) {
    if let Some(conversion) = resource.conversion {
        (conversion.to_storage)(tree);
    }
    (resource.behaviour.defaults)(tree);
}

/// The namespace of the path and that of the object must agree.
pub(crate) fn place(resource: &Resource, namespace: &str, tree: &mut Value) -> Result<(), Status> {
    let said = text_at(tree, &["metadata", "namespace"]);
    if !resource.kind.is_namespaced() || said == namespace {
        return Ok(());
    }
    if !said.is_empty() {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(message));
    }
    set(object(tree, "metadata"), "namespace", namespace);
    Ok(())
}

/// The name of the path and that of the object must agree.
fn name(target: &Target, tree: &mut Value) -> Result<(), Status> {
    let said = text_at(tree, &["metadata", "name"]);
    if said.is_empty() {
        set(object(tree, "metadata"), "name", target.name.clone());
    } else if said != target.name {
        let message = format!("the name of the object ({said}) does not match the name on the URL ({})", target.name);
        return Err(Status::bad_request(message));
    }
    place(&target.resource, &target.namespace, tree)
}

/// Replaces an object, or its status.
pub(crate) async fn update(
    registry: &Registry,
    mut call: Call,
    target: &Target,
    part: &str,
) -> Result<Response<Body>, Status> {
    let form = call.form(true)?;
    let resource = target.resource;
    let dry_run = options::dry_run(&call.query, "UpdateOptions")?;
    let unknown = options::unknown(&call.query, "UpdateOptions")?;
    let (mut tree, warnings) = body::read(&mut call, resource.kind, unknown).await?;
    if text_at(&tree, &["metadata", "name"]).is_empty() {
        let message =
            format!("the name of the object ({} based on URL) was undeterminable: name must be provided", target.name);
        return Err(Status::bad_request(message));
    }
    name(target, &mut tree)?;
    complete(&resource, &mut tree);
    if part.is_empty() && resource.behaviour.create_on_update && registry.find(target).await?.is_none() {
        admit::create(registry, &call.user, &resource, &mut tree).await?;
        let entry = registry.create(resource, tree, WriteOptions { dry_run }).await?;
        return Ok(render::one(StatusCode::CREATED, &resource, &entry, form, now()));
    }
    let user = call.user;
    let claims = admit::claims(registry, &user, target).await?;
    let change = |old: &Value| {
        admit::update(&user, target, old, &tree, &claims)?;
        Ok(tree.clone())
    };
    let options = WriteOptions { dry_run };
    let update = Update { target, subresource: part, change: &change, uid_is_precondition: true, options };
    let written = admit::write(registry, &user, &claims, &update).await?;
    let mut response = render::one(StatusCode::OK, &resource, &written.entry, form, now());
    warn(&mut response, &warnings);
    Ok(response)
}

/// Changes an object, or its status, as a patch says.
pub(crate) async fn patch(
    registry: &Registry,
    mut call: Call,
    target: &Target,
    part: &str,
) -> Result<Response<Body>, Status> {
    let form = call.form(true)?;
    let resource = target.resource;
    options::not_forced(&call.query)?;
    let dry_run = options::dry_run(&call.query, "PatchOptions")?;
    let unknown = options::unknown(&call.query, "PatchOptions")?;
    let patch = Patch::read(&mut call).await?;
    let user = call.user;
    let claims = admit::claims(registry, &user, target).await?;
    let warnings = std::sync::Mutex::new(Vec::new());
    let change = |old: &Value| {
        let mut served = Cow::Borrowed(old);
        if let Some(conversion) = resource.conversion {
            (conversion.from_storage)(served.to_mut());
        }
        let (mut new, told) = patch.apply(resource.kind, &served, unknown, target)?;
        *warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = told;
        name(target, &mut new)?;
        complete(&resource, &mut new);
        admit::update(&user, target, old, &new, &claims)?;
        Ok(new)
    };
    let options = WriteOptions { dry_run };
    let update = Update { target, subresource: part, change: &change, uid_is_precondition: false, options };
    let written = admit::write(registry, &user, &claims, &update).await?;
    let mut response = render::one(StatusCode::OK, &resource, &written.entry, form, now());
    warn(&mut response, &warnings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    Ok(response)
}

/// Kinds whose deletion is answered with the object even when it is gone at once.
const SHOWN_WHEN_DELETED: [&str; 2] = ["Pod", "ServiceAccount"];

async fn delete(registry: &Registry, mut call: Call, target: &Target) -> Result<Response<Body>, Status> {
    let form = call.form(true)?;
    let body = body::delete_options(&mut call).await?;
    let options = options::delete(&call.query, &body)?;
    admit::delete(target)?;
    let deleted = registry.delete(target, &options).await?;
    if !deleted.gone || SHOWN_WHEN_DELETED.contains(&target.resource.kind.kind) {
        return Ok(render::one(StatusCode::OK, &target.resource, &deleted.entry, form, now()));
    }
    let uid = stored::derived(&deleted.entry).head(&deleted.entry).uid.clone();
    let status = Status::deleted(target.resource.named(), &target.name, &uid);
    Ok(error::response(&status))
}

async fn delete_collection(
    registry: &Registry,
    mut call: Call,
    resource: Resource,
    path: &ResourcePath,
) -> Result<Response<Body>, Status> {
    let body = body::delete_options(&mut call).await?;
    let delete = options::delete(&call.query, &body)?;
    let list = options::list(&call.query)?;
    let deleted = registry.delete_all(&selection(&call, resource, path)?, &list, &delete).await?;
    Ok(render::deleted_list(&resource, &deleted, registry.revision().await?))
}

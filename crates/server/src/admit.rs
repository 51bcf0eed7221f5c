//! Admission: what a new object may be said no to for, and what it gets beyond its defaults, because of other objects.

mod address;
mod node;

use api::status::Status;
use serde_json::Value;

use self::node::Claims;
use crate::auth::User;
use crate::kinds;
use crate::registry::{ListOptions, Registry, Resource, Selection, Target, Update, Written, object as stored};
use crate::tree::{integer, is_set, items, object, set, text};

/// Admits a new object.
pub(crate) async fn create(
    registry: &Registry,
    user: &User,
    resource: &Resource,
    tree: &mut Value,
) -> Result<(), Status> {
    node::create(registry, user, resource, tree).await?;
    if resource.kind.kind == "CertificateSigningRequest" {
        kinds::certificate_signing_request::sign_with_user(tree, user);
    }
    if resource.kind.is_namespaced() {
        namespace(registry, resource, tree).await?;
    }
    if resource.kind.group.is_empty() && resource.kind.kind == "Pod" {
        service_account(registry, tree).await?;
        priority(registry, resource, tree).await?;
        kinds::pod::tolerate_troubles(tree);
        runtime_class(resource, tree)?;
    }
    Ok(())
}

/// Reads what the admission of a change needs to know of other objects.
pub(crate) async fn claims(registry: &Registry, user: &User, target: &Target) -> Result<Claims, Status> {
    Claims::read(registry, user, &target.resource).await
}

/// Admits a changed object: old, new.
pub(crate) fn update(user: &User, target: &Target, old: &Value, new: &Value, claims: &Claims) -> Result<(), Status> {
    node::update(user, target, old, new, claims)
}

/// Writes a change that asks for admission with these claims.
pub(crate) async fn write(
    registry: &Registry,
    user: &User,
    claims: &Claims,
    update: &Update<'_>,
) -> Result<Written, Status> {
    match registry.update(update).await {
        Err(_) if claims.learn(registry, user).await? => registry.update(update).await,
        written => written,
    }
}

/// Admits a deletion: the namespaces that the system lives in stay.
pub(crate) fn delete(target: &Target) -> Result<(), Status> {
    let fixed = ["default", "kube-system", "kube-public"];
    if target.resource.kind.kind == "Namespace" && fixed.contains(&target.name.as_str()) {
        return Err(Status::forbidden(target.resource.named(), &target.name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// The namespace must exist and not be going away.
async fn namespace(registry: &Registry, resource: &Resource, tree: &Value) -> Result<(), Status> {
    let name = text(&tree["metadata"], "namespace");
    match registry.admit_namespace(name).await? {
        Some(true) => Ok(()),
        None => Err(Status::not_found(api::status::Resource { group: "", name: "namespaces" }, name)),
        Some(false) => {
            let cause = format!("unable to create new content in namespace {name} because it is being terminated");
            let object = text(&tree["metadata"], "name");
            let status = Status::forbidden(resource.named(), object, &cause);
            Err(status.with_cause(
                "NamespaceTerminating",
                &format!("namespace {name} is being terminated"),
                "metadata.namespace",
            ))
        }
    }
}

/// Each pod has a service account, and it must exist.
async fn service_account(registry: &Registry, pod: &mut Value) -> Result<(), Status> {
    let (namespace, name) = (text(&pod["metadata"], "namespace").to_owned(), text(&pod["metadata"], "name").to_owned());
    let spec = object(pod, "spec");
    if text(spec, "serviceAccountName").is_empty() {
        set(spec, "serviceAccountName", "default");
        set(spec, "serviceAccount", "default");
    }
    let account = text(spec, "serviceAccountName").to_owned();
    let target = Target::new(Resource::known("", "serviceaccounts"), &namespace, &account);
    let Some(entry) = registry.find(&target).await? else {
        let cause = format!(
            "error looking up service account {namespace}/{account}: serviceaccount {} not found",
            api::field::quote(&account)
        );
        return Err(Status::forbidden(Resource::known("", "pods").named(), &name, &cause));
    };
    let secrets = items(&stored::decode(&entry), "imagePullSecrets").to_vec();
    if items(spec, "imagePullSecrets").is_empty() && !secrets.is_empty() {
        set(spec, "imagePullSecrets", secrets);
    }
    Ok(())
}

/// There are no runtime classes, so none is found.
fn runtime_class(resource: &Resource, pod: &Value) -> Result<(), Status> {
    match text(&pod["spec"], "runtimeClassName") {
        "" => Ok(()),
        class => {
            let cause = format!("pod rejected: RuntimeClass {} not found", api::field::quote(class));
            Err(Status::forbidden(resource.named(), text(&pod["metadata"], "name"), &cause))
        }
    }
}

/// The pod's priority is that of its class, or of the default class.
async fn priority(registry: &Registry, resource: &Resource, pod: &mut Value) -> Result<(), Status> {
    let name = text(&pod["metadata"], "name").to_owned();
    let classes = Resource::known("scheduling.k8s.io", "priorityclasses");
    let wanted = text(&pod["spec"], "priorityClassName").to_owned();
    let class = match wanted.as_str() {
        "" => default_class(registry, classes).await?,
        wanted => {
            let found = registry.find(&Target::new(classes, "", wanted)).await?;
            let found = found.ok_or_else(|| {
                let cause = format!("no PriorityClass with name {wanted} was found");
                Status::forbidden(resource.named(), &name, &cause)
            })?;
            Some(stored::decode(&found))
        }
    };
    let number = class.as_ref().and_then(|class| integer(class, "value")).unwrap_or_default();
    let policy = class.as_ref().map(|class| text(class, "preemptionPolicy")).filter(|policy| !policy.is_empty());
    let spec = object(pod, "spec");
    if let Some(class) = class.as_ref().filter(|_| wanted.is_empty()) {
        set(spec, "priorityClassName", text(&class["metadata"], "name"));
    }
    if integer(spec, "priority").is_some_and(|said| said != number) {
        let cause = format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {number} \
             from the given PriorityClass name",
            integer(spec, "priority").unwrap_or_default()
        );
        return Err(Status::forbidden(resource.named(), &name, &cause));
    }
    let policy = policy.unwrap_or("PreemptLowerPriority");
    let said = text(spec, "preemptionPolicy");
    if !said.is_empty() && said != policy {
        let cause = format!(
            "the string value of PreemptionPolicy ({said}) must not be provided in pod spec; priority admission controller \
             computed {policy} from the given PriorityClass name"
        );
        return Err(Status::forbidden(resource.named(), &name, &cause));
    }
    set(spec, "priority", number);
    set(spec, "preemptionPolicy", policy);
    Ok(())
}

async fn default_class(registry: &Registry, classes: Resource) -> Result<Option<Value>, Status> {
    let page = registry.list(&Selection::all(classes, None), &ListOptions::ALL).await?;
    let trees = page.entries.iter().map(|entry| stored::decode(entry));
    Ok(trees.filter(|class| is_set(class, "globalDefault")).min_by_key(|class| integer(class, "value")))
}

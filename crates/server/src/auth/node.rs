//! What a node's agent may: read its own pods and what they refer to, report on them and on itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::block;
use api::selector::FieldSelector;
use api::status::Status;
use serde_json::Value;

use super::{Action, Decision, is_event_write, token};
use crate::registry::{ListOptions, Registry, Resource, Selection, Target, object};
use crate::tree::{at, entries, items, text, text_at};

/// Decides for the agent of one node.
pub(super) async fn decide(registry: &Registry, node: &str, action: &Action) -> Result<Decision, Status> {
    let verb = action.verb.as_str();
    let is_write = ["create", "update", "patch"].contains(&verb);
    Ok(match (action.resource.as_str(), action.subresource.as_str()) {
        ("nodes", "") if verb == "create" => Decision::Allowed,
        // Each node leads to the others' blocks.
        ("nodes", "") if ["list", "watch"].contains(&verb) => Decision::Allowed,
        ("nodes", "" | "status") => own_node(node, action),
        ("pods", "") if ["update", "patch", "deletecollection"].contains(&verb) => Decision::of(false),
        ("leases", "") if action.namespace == block::NAMESPACE => own_block(registry, node, action).await?,
        ("leases", "") => {
            let own = action.namespace == "kube-node-lease" && [node, ""].contains(&action.name.as_str());
            let known = is_write || ["get", "delete"].contains(&verb);
            own_or(
                own && known && (verb == "create" || !action.name.is_empty()),
                "can only access node lease with the same name as the requesting node",
            )
        }
        ("pods", "") if action.is_read() && action.name.is_empty() => own_pods_only(node, action),
        ("pods", "" | "status" | "eviction")
            if action.is_read() || verb != "create" || action.subresource == "eviction" =>
        {
            own_pod(registry, node, action).await?
        }
        ("certificatesigningrequests", "") => Decision::of(verb == "create" || token::is_one_read(action)),
        ("configmaps", "") if action.namespace == "kube-system" && action.name == token::CLUSTER_FACTS => {
            Decision::of(verb == "get")
        }
        ("secrets" | "configmaps", "") if action.is_read() => referenced(registry, node, action).await?,
        ("serviceaccounts", "" | "token") if verb == "get" || verb == "create" => {
            referenced(registry, node, action).await?
        }
        ("services" | "namespaces" | "priorityclasses", "") if action.is_read() => Decision::Allowed,
        ("subjectaccessreviews" | "tokenreviews", "") if verb == "create" => Decision::Allowed,
        _ => Decision::of(is_event_write(action)),
    })
}

fn own_or(allowed: bool, reason: &str) -> Decision {
    if allowed { Decision::Allowed } else { Decision::Denied(reason.to_owned()) }
}

fn selects(action: &Action, field: &str, value: &str) -> bool {
    action.only.iter().any(|(name, wanted)| name == field && wanted == value)
}

fn own_node(node: &str, action: &Action) -> Decision {
    let named = action.name == node || selects(action, "metadata.name", node);
    let allowed = match action.verb.as_str() {
        "get" | "update" | "patch" => action.name == node,
        // A node that leaves.
        "delete" => action.name == node && action.subresource.is_empty(),
        "list" | "watch" => named,
        _ => false,
    };
    own_or(allowed, &format!("node {} cannot access other nodes", api::field::quote(node)))
}

fn own_pods_only(node: &str, action: &Action) -> Decision {
    let reason = "can only list/watch pods with spec.nodeName field selector";
    own_or(selects(action, "spec.nodeName", node), reason)
}

async fn own_pod(registry: &Registry, node: &str, action: &Action) -> Result<Decision, Status> {
    let pods = Resource::known("", "pods");
    let entry = registry.find(&Target::new(pods, &action.namespace, &action.name)).await?;
    // Each status of each pod passes here: what is derived for watchers already is not decoded anew.
    let is_on_it = |entry: &store::Entry| {
        let derived = object::derived(entry);
        derived.fields(&pods, entry).iter().any(|(field, value)| *field == "spec.nodeName" && value == node)
    };
    let own = entry.is_none_or(|entry| is_on_it(&entry));
    Ok(own_or(own, "no relationship found between node and this object"))
}

/// Claims of addresses: every node sees all, touches its own and gives it back. That one is and stays its own is a matter of admission.
async fn own_block(registry: &Registry, node: &str, action: &Action) -> Result<Decision, Status> {
    match action.verb.as_str() {
        "get" | "list" | "watch" | "create" => return Ok(Decision::Allowed),
        "delete" | "update" | "patch" => {}
        _ => return Ok(Decision::of(false)),
    }
    let leases = Resource::known("coordination.k8s.io", "leases");
    let entry = registry.find(&Target::new(leases, &action.namespace, &action.name)).await?;
    let own = entry.is_none_or(|entry| text_at(&object::decode(&entry), &["spec", "holderIdentity"]) == node);
    Ok(own_or(own, "can only touch or give back blocks that the requesting node holds"))
}

/// Whether one of the node's pods uses the object.
async fn referenced(registry: &Registry, node: &str, action: &Action) -> Result<Decision, Status> {
    let name = match action.name.as_str() {
        "" => action.only.iter().find(|(name, _)| name == "metadata.name").map(|(_, value)| value.as_str()),
        name => Some(name),
    };
    let Some(name) = name else {
        return Ok(Decision::Denied("can only read resources of this type by name".to_owned()));
    };
    let fields = FieldSelector::parse(&format!("spec.nodeName={node}")).map_err(crate::error::of_api)?;
    let pods = Selection {
        fields: Some(Arc::new(fields)),
        ..Selection::all(Resource::known("", "pods"), Some(&action.namespace))
    };
    let page = registry.list(&pods, &ListOptions::ALL).await?;
    let used = page.entries.iter().any(|entry| uses(&object::decode(entry), &action.resource).contains(name));
    let reason = format!("no relationship found between node '{node}' and this object");
    Ok(own_or(used, &reason))
}

/// The names of the objects of a resource that a pod refers to.
fn uses(pod: &Value, resource: &str) -> BTreeSet<String> {
    let spec = &pod["spec"];
    let mut names = BTreeSet::new();
    if resource == "serviceaccounts" {
        names.insert(text(spec, "serviceAccountName").to_owned());
        return names;
    }
    let (key_ref, whole_ref, volume, name) = match resource {
        "secrets" => ("secretKeyRef", "secretRef", "secret", "secretName"),
        _ => ("configMapKeyRef", "configMapRef", "configMap", "name"),
    };
    if resource == "secrets" {
        names.extend(items(spec, "imagePullSecrets").iter().map(|secret| text(secret, "name").to_owned()));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, list) {
            let variables = items(container, "env").iter().filter_map(|variable| at(variable, &["valueFrom", key_ref]));
            names.extend(variables.map(|source| text(source, "name").to_owned()));
            let whole = items(container, "envFrom").iter().filter_map(|source| at(source, &[whole_ref]));
            names.extend(whole.map(|source| text(source, "name").to_owned()));
        }
    }
    for item in items(spec, "volumes") {
        names.extend(at(item, &[volume]).map(|source| text(source, name).to_owned()));
        let sources = at(item, &["projected"]).map(|projected| items(projected, "sources")).unwrap_or_default();
        names.extend(
            sources.iter().filter_map(|source| at(source, &[volume])).map(|source| text(source, "name").to_owned()),
        );
        for (_, source) in entries(item, "csi").filter(|(key, _)| key.ends_with("SecretRef")) {
            names.insert(text(source, "name").to_owned());
        }
    }
    names
}

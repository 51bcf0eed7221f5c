//! What a node's agent may not say, though it may write the object: upstream's NodeRestriction.

use std::collections::BTreeSet;

use api::field::quote;
use api::status::Status;
use serde_json::Value;

use crate::auth::User;
use crate::auth::node::BLOCKS;
use crate::registry::{Resource, Target};
use crate::tree::{entries, items, text, text_at};

/// Labels of Kubernetes' own domains that a node says of itself.
const OWN_LABELS: [&str; 14] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/instance-type",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// The node that a user is the agent of.
fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.is_in("system:nodes"))
}

/// A new object.
pub(super) fn create(user: &User, resource: &Resource, tree: &Value) -> Result<(), Status> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let name = text(&tree["metadata"], "name");
    let refuse = |cause: String| Err(Status::forbidden(resource.named(), name, &cause));
    match resource.kind.kind {
        "Lease" if text(&tree["metadata"], "namespace") == BLOCKS => {
            let holder = text_at(tree, &["spec", "holderIdentity"]);
            if holder == node {
                return Ok(());
            }
            refuse(format!("node {} is not allowed to claim a block for {}", quote(node), quote(holder)))
        }
        "Node" | "Lease" if name != node => {
            let kind = resource.kind.singular;
            refuse(format!("node {} is not allowed to modify {kind} {}", quote(node), quote(name)))
        }
        "Node" => match forbidden_labels(&Value::Null, tree) {
            labels if labels.is_empty() => Ok(()),
            labels => refuse(format!("node {} is not allowed to set the following labels: {labels}", quote(node))),
        },
        _ => Ok(()),
    }
}

/// A changed object.
pub(super) fn update(user: &User, target: &Target, old: &Value, new: &Value) -> Result<(), Status> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let refuse = |cause: String| Err(Status::forbidden(target.resource.named(), &target.name, &cause));
    if target.resource.kind.kind == "Lease" && target.namespace == BLOCKS {
        let holder = text_at(new, &["spec", "holderIdentity"]);
        let stays = holder == node && text_at(old, &["spec", "holderIdentity"]) == node;
        let refusal = || refuse(format!("node {} is not allowed to claim a block for {}", quote(node), quote(holder)));
        return if stays { Ok(()) } else { refusal() };
    }
    if target.resource.kind.kind != "Node" {
        return Ok(());
    }
    if items(&old["spec"], "taints") != items(&new["spec"], "taints") {
        return refuse(format!("node {} is not allowed to modify taints", quote(node)));
    }
    if items(&old["metadata"], "ownerReferences") != items(&new["metadata"], "ownerReferences") {
        return refuse(format!("node {} is not allowed to modify ownerReferences", quote(node)));
    }
    match forbidden_labels(old, new) {
        labels if labels.is_empty() => Ok(()),
        labels => refuse(format!("is not allowed to modify labels: {labels}")),
    }
}

/// The labels that differ and are not for a node to say.
fn forbidden_labels(old: &Value, new: &Value) -> String {
    let all = |node: &Value| entries(&node["metadata"], "labels").map(|(key, _)| key.clone()).collect::<BTreeSet<_>>();
    let label = |node: &Value, key: &str| node["metadata"]["labels"].get(key).cloned();
    let keys: BTreeSet<String> = all(old).union(&all(new)).cloned().collect();
    let changed = keys.into_iter().filter(|key| label(old, key) != label(new, key) && is_reserved(key));
    changed.collect::<Vec<_>>().join(", ")
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |root: &str| domain == root || domain.strip_suffix(root).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let own = OWN_LABELS.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !own
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_says_nothing_of_itself_that_others_decide() {
        let user = User { name: "system:node:n".into(), groups: vec!["system:nodes".into()] };
        let target = Target::new(Resource::known("", "nodes"), "", "n");
        let wrong = |change: &dyn Fn(&mut Value)| {
            let old = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}}, "spec": {}});
            let mut new = old.clone();
            change(&mut new);
            update(&user, &target, &old, &new).err().map(|status| status.message).unwrap_or_default()
        };
        assert_eq!(wrong(&|_| ()), "");
        assert_eq!(wrong(&|node| node["metadata"]["labels"]["own"] = "x".into()), "");
        assert_eq!(wrong(&|node| node["metadata"]["labels"]["kubernetes.io/hostname"] = "x".into()), "");
        let role = "node-role.kubernetes.io/control-plane";
        assert!(wrong(&|node| node["metadata"]["labels"][role] = "".into()).contains(role));
        let zone = "x.node-restriction.kubernetes.io/zone";
        assert!(wrong(&|node| node["metadata"]["labels"][zone] = "".into()).contains(zone));
        assert!(wrong(&|node| node["spec"]["taints"] = json!([{"key": "k"}])).contains("modify taints"));
        assert!(wrong(&|node| node["metadata"]["ownerReferences"] = json!([{}])).contains("ownerReferences"));
    }

    #[test]
    fn a_node_makes_only_what_is_its_own() {
        let user = User { name: "system:node:n".into(), groups: vec!["system:nodes".into()] };
        let lease = |holder: &str| json!({"metadata": {"namespace": BLOCKS, "name": "10.42.0.0-26"}, "spec": {"holderIdentity": holder}});
        let leases = Resource::known("coordination.k8s.io", "leases");
        assert!(create(&user, &leases, &lease("n")).is_ok());
        assert!(create(&user, &leases, &lease("m")).is_err());
        let claim = Target::new(leases, BLOCKS, "10.42.0.0-26");
        let touched = |old: &str, new: &str| update(&user, &claim, &lease(old), &lease(new)).is_ok();
        assert!(touched("n", "n") && !touched("n", "m") && !touched("m", "n"), "a claim changes no hands");
        let node = json!({"metadata": {"name": "m"}});
        assert!(create(&user, &Resource::known("", "nodes"), &node).is_err());
    }
}

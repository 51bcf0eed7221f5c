//! What a node's agent may not say, though it may write the object: upstream's NodeRestriction.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::block;
use api::field::quote;
use api::status::Status;
use serde_json::Value;
use store::Entry;

use super::address::Addresses;
use crate::auth::User;
use crate::auth::token::CLUSTER_FACTS;
use crate::registry::{ListOptions, Registry, Resource, Selection, Target, object as stored};
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

/// What the cluster knows of addresses and blocks of them, as far as a node's request needs it.
#[derive(Default)]
pub(crate) struct Claims {
    /// The blocks that the asking node holds.
    held: BTreeSet<String>,
    /// The ranges of all blocks, one of each family, once they are published.
    ranges: Vec<Range>,
    /// Those by which the other nodes are reached.
    addresses: Addresses,
}

impl Claims {
    /// Reads what a request for such an object needs; nothing for anybody but nodes.
    pub(super) async fn read(registry: &Registry, user: &User, resource: &Resource) -> Result<Self, Status> {
        let mut claims = Self::default();
        let Some(node) = node_of(user) else { return Ok(claims) };
        match resource.kind.kind {
            "Node" => {
                let leases = Selection::all(Resource::known("coordination.k8s.io", "leases"), Some(block::NAMESPACE));
                let page = registry.list(&leases, &ListOptions::ALL).await?;
                let own = page.entries.iter().filter(|lease| *holder(lease) == *node);
                claims.held = own.map(|lease| stored::derived(lease).head(lease).name.clone()).collect();
            }
            "Lease" => {
                let facts = Target::new(Resource::known("", "configmaps"), "kube-system", CLUSTER_FACTS);
                let facts = registry.find(&facts).await?.map(|entry| stored::decode(&entry));
                claims.ranges = facts.map(|facts| ranges(text_at(&facts, &["data", "podCIDR"]))).unwrap_or_default();
            }
            _ => {}
        }
        Ok(claims)
    }

    /// Reads what a refused request needs beyond that, if it was refused for it.
    pub(super) async fn learn(&self, registry: &Registry, user: &User) -> Result<bool, Status> {
        let Some(node) = node_of(user).filter(|_| self.addresses.are_missing()) else { return Ok(false) };
        self.addresses.learn(registry, node).await.map(|()| true)
    }

    /// Whether a node may claim the block that a lease is named after: one of those into which the range is cut, so that no two overlap.
    fn is_block(&self, name: &str) -> bool {
        let Some(block) = claimed(name) else { return false };
        let least = block::bits(block.address) - block::BITS;
        let fits = match self.ranges.iter().find(|all| all.address.is_ipv4() == block.address.is_ipv4()) {
            Some(all) => block.length == all.length.max(least) && block.kept(all.length) == all.kept(all.length),
            // Only the server's own node comes before the ranges are published: others learn them there.
            None => self.ranges.is_empty() && block.length >= least,
        };
        fits && block.kept(block.length) == block::number(block.address)
    }

    /// Why a node may not say the ranges and addresses that are new.
    fn refusal(&self, node: &str, old: &Value, new: &Value) -> Option<String> {
        let range = self.unheld(old, new).map(|range| unclaimed(node, &range));
        range.or_else(|| self.addresses.refusal(node, old, new))
    }

    /// The first range that a node would get without a claim.
    fn unheld(&self, old: &Value, new: &Value) -> Option<String> {
        let before = items(&old["spec"], "podCIDRs");
        let added = items(&new["spec"], "podCIDRs").iter().filter(|range| !before.contains(range));
        let is_held = |range: &Value| {
            let block = range.as_str().and_then(Range::read);
            block.is_some_and(|block| self.held.contains(&block::claim(block.address, block.length)))
        };
        let wrong = added.into_iter().find(|range| !is_held(range))?;
        Some(wrong.as_str().unwrap_or_default().to_owned())
    }
}

/// The node that holds a block.
fn holder(lease: &Entry) -> Arc<String> {
    stored::derived(lease).admission.get_or(|| text_at(&stored::decode(lease), &["spec", "holderIdentity"]).to_owned())
}

/// An address and a length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    address: IpAddr,
    length: u8,
}

impl Range {
    fn read(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let number: u8 = length.parse().ok().filter(|number| *number <= block::bits(address))?;
        // One name for each block: no signs, no zeros in front.
        (number.to_string() == length).then_some(Self { address, length: number })
    }

    /// The address without what comes after a prefix of this length.
    fn kept(self, length: u8) -> u128 {
        let rest = u32::from(block::bits(self.address) - length);
        block::number(self.address).checked_shr(rest).and_then(|kept| kept.checked_shl(rest)).unwrap_or(0)
    }
}

/// The block that a lease of this name claims; each has one name only.
fn claimed(name: &str) -> Option<Range> {
    let (address, length) = block::claimed(name)?;
    (block::claim(address, length) == name).then_some(Range { address, length })
}

/// Those of a cluster, with commas between.
fn ranges(text: &str) -> Vec<Range> {
    text.split(',').filter_map(Range::read).collect()
}

/// Admits a new object.
pub(super) async fn create(registry: &Registry, user: &User, resource: &Resource, tree: &Value) -> Result<(), Status> {
    let claims = Claims::read(registry, user, resource).await?;
    match check_new(user, resource, tree, &claims) {
        Err(_) if claims.learn(registry, user).await? => check_new(user, resource, tree, &claims),
        answer => answer,
    }
}

/// A new object.
fn check_new(user: &User, resource: &Resource, tree: &Value, claims: &Claims) -> Result<(), Status> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let name = text(&tree["metadata"], "name");
    let refuse = |cause: String| Err(Status::forbidden(resource.named(), name, &cause));
    match resource.kind.kind {
        "Lease" if text(&tree["metadata"], "namespace") == block::NAMESPACE => {
            let holder = text_at(tree, &["spec", "holderIdentity"]);
            if holder == node && !claims.is_block(name) {
                return refuse(format!("node {} is not allowed to claim what is no block", quote(node)));
            }
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
            labels if labels.is_empty() => match claims.refusal(node, &Value::Null, tree) {
                None => Ok(()),
                Some(cause) => refuse(cause),
            },
            labels => refuse(format!("node {} is not allowed to set the following labels: {labels}", quote(node))),
        },
        _ => Ok(()),
    }
}

fn unclaimed(node: &str, range: &str) -> String {
    format!("node {} is not allowed to set the pod range {}, which it has not claimed", quote(node), quote(range))
}

/// A changed object.
pub(super) fn update(user: &User, target: &Target, old: &Value, new: &Value, claims: &Claims) -> Result<(), Status> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let refuse = |cause: String| Err(Status::forbidden(target.resource.named(), &target.name, &cause));
    if target.resource.kind.kind == "Lease" && target.namespace == block::NAMESPACE {
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
    if let Some(cause) = claims.refusal(node, old, new) {
        return refuse(cause);
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
            update(&user, &target, &old, &new, &Claims::default())
                .err()
                .map(|status| status.message)
                .unwrap_or_default()
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
        let none = Claims::default();
        let lease = |holder: &str| json!({"metadata": {"namespace": block::NAMESPACE, "name": "10.42.0.0-26"}, "spec": {"holderIdentity": holder}});
        let leases = Resource::known("coordination.k8s.io", "leases");
        assert!(check_new(&user, &leases, &lease("n"), &none).is_ok());
        assert!(check_new(&user, &leases, &lease("m"), &none).is_err());
        let claim = Target::new(leases, block::NAMESPACE, "10.42.0.0-26");
        let touched = |old: &str, new: &str| update(&user, &claim, &lease(old), &lease(new), &none).is_ok();
        assert!(touched("n", "n") && !touched("n", "m") && !touched("m", "n"), "a claim changes no hands");
        let node = json!({"metadata": {"name": "m"}});
        assert!(check_new(&user, &Resource::known("", "nodes"), &node, &none).is_err());
    }

    #[test]
    fn blocks_are_those_of_the_range() {
        let of = |all: &str| Claims { ranges: ranges(all), ..Claims::default() };
        let wide = of("10.42.0.0/16");
        assert!(wide.is_block("10.42.0.0-26") && wide.is_block("10.42.255.192-26"));
        for wrong in
            ["10.42.0.0-16", "10.42.0.0-25", "10.42.0.0-27", "10.42.0.1-26", "10.43.0.0-26", "10.42.0.0-026", "x"]
        {
            assert!(!wide.is_block(wrong), "{wrong}");
        }
        let small = of("10.42.0.0/28");
        assert!(small.is_block("10.42.0.0-28") && !small.is_block("10.42.0.0-26") && !small.is_block("10.42.0.16-28"));
        let both = of("fd42::/56,10.42.0.0/16");
        assert!(both.is_block("10.42.0.64-26") && both.is_block("fd42-0-0-0-0-0-0-40-122"));
        for wrong in ["fd42--40-122", "fd42-0-0-0-0-0-0-40-121", "fd42-0-0-0-0-0-0-41-122", "fd42-0-0-100-0-0-0-40-122"]
        {
            assert!(!both.is_block(wrong), "{wrong}");
        }
        assert!(!wide.is_block("fd42-0-0-0-0-0-0-40-122"), "there is no range of that family");
        let unknown = Claims::default();
        assert!(
            unknown.is_block("10.42.0.0-26") && !unknown.is_block("10.42.0.0-16") && !unknown.is_block("0.0.0.0-0")
        );
    }
}

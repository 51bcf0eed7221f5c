//! Which addresses a node may say of itself: none by which another node is reached, or it would draw the other's pods' traffic.
//!
//! Only a node that is ready holds its addresses: a machine that comes back under another name, or gets the address of one that
//! is gone, waits no longer than the others take to find that one lost. Loopback leads nowhere and belongs to all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use api::field::quote;
use api::status::Status;
use serde_json::Value;

use crate::registry::{ListOptions, Registry, Resource, Selection, object as stored};
use crate::tree::{items, text};

/// The addresses of other nodes. They are read only for a request that needs them: it is refused, and tried again with them.
#[derive(Default)]
pub(super) struct Addresses {
    /// Which node has which.
    taken: OnceLock<BTreeMap<IpAddr, String>>,
    is_asked: AtomicBool,
}

impl Addresses {
    /// Whether a refusal was for not knowing the other nodes.
    pub(super) fn are_missing(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed) && self.taken.get().is_none()
    }

    /// Reads the addresses of all nodes but this one.
    pub(super) async fn learn(&self, registry: &Registry, node: &str) -> Result<(), Status> {
        let page = registry.list(&Selection::all(Resource::known("", "nodes"), None), &ListOptions::ALL).await?;
        let nodes: Vec<Value> = page.entries.iter().map(|entry| stored::decode(entry)).collect();
        self.taken.get_or_init(|| held(&nodes, node));
        Ok(())
    }

    /// Why a node may not say the addresses that are new.
    pub(super) fn refusal(&self, node: &str, old: &Value, new: &Value) -> Option<String> {
        let before = internal(old);
        let added: Vec<IpAddr> = internal(new).into_iter().filter(|address| !before.contains(address)).collect();
        if added.is_empty() {
            return None;
        }
        let Some(taken) = self.taken.get() else {
            self.is_asked.store(true, Ordering::Relaxed);
            return Some("the addresses of the other nodes are yet to be read".to_owned());
        };
        let (address, holder) = added.iter().find_map(|address| Some((address, taken.get(address)?)))?;
        Some(format!(
            "node {} is not allowed to set the address {}, which node {} has as long as it is ready",
            quote(node),
            quote(&address.to_string()),
            quote(holder)
        ))
    }
}

fn held(nodes: &[Value], own: &str) -> BTreeMap<IpAddr, String> {
    let name = |node: &Value| text(&node["metadata"], "name").to_owned();
    let others = nodes.iter().filter(|node| name(node) != own && is_ready(node));
    others.flat_map(|node| internal(node).into_iter().map(move |address| (address, name(node)))).collect()
}

fn is_ready(node: &Value) -> bool {
    let mut conditions = items(&node["status"], "conditions").iter();
    conditions.any(|condition| text(condition, "type") == "Ready" && text(condition, "status") == "True")
}

fn internal(node: &Value) -> Vec<IpAddr> {
    let listed = items(&node["status"], "addresses").iter().filter(|address| text(address, "type") == "InternalIP");
    let parsed = listed.filter_map(|address| text(address, "address").parse::<IpAddr>().ok());
    parsed.map(|address| address.to_canonical()).filter(|address| !address.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, address: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]}})
    }

    #[test]
    fn what_another_ready_node_has_is_refused() {
        let nodes = [node("a", "10.0.0.1", "True"), node("b", "10.0.0.2", "Unknown"), node("n", "10.0.0.9", "True")];
        let (addresses, own) = (Addresses::default(), node("n", "10.0.0.9", "True"));
        let refusal = |address: &str| addresses.refusal("n", &own, &node("n", address, "True"));
        assert_eq!(refusal("10.0.0.9"), None);
        assert!(!addresses.are_missing(), "what stays needs no look at others");
        assert!(refusal("10.0.0.1").is_some() && addresses.are_missing());
        addresses.taken.get_or_init(|| held(&nodes, "n"));
        assert!(!addresses.are_missing());
        for taken in ["10.0.0.1", "::ffff:10.0.0.1"] {
            let told = refusal(taken).unwrap_or_default();
            assert!(told.contains(r#"the address "10.0.0.1", which node "a" has"#), "{told}");
        }
        for free in ["10.0.0.2", "10.0.0.3", "127.0.0.1"] {
            assert_eq!(refusal(free), None, "{free}");
        }
    }
}

//! Which addresses a node may say of itself: none by which another node is reached, or it would draw the other's pods' traffic.
//!
//! Only a node that is ready holds its addresses: a machine that comes back under another name, or gets the address of one that
//! is gone, waits no longer than the others take to find that one lost. Loopback leads nowhere and belongs to all.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use api::field::quote;
use api::status::Status;
use serde_json::Value;
use store::Entry;

use crate::registry::{ListOptions, Registry, Resource, Selection, object as stored};
use crate::tree::{items, text};

/// The addresses of other nodes. They are read only for a request that needs them: it is refused, and tried again with them.
#[derive(Default)]
pub(super) struct Addresses {
    /// What each of the others says.
    others: OnceLock<Vec<(String, Arc<Said>)>>,
    is_asked: AtomicBool,
}

/// The addresses that a node has as long as it is ready.
type Said = Vec<IpAddr>;

impl Addresses {
    /// Whether a refusal was for not knowing the other nodes.
    pub(super) fn are_missing(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed) && self.others.get().is_none()
    }

    /// Reads the addresses of all nodes but this one.
    pub(super) async fn learn(&self, registry: &Registry, node: &str) -> Result<(), Status> {
        let page = registry.list(&Selection::all(Resource::known("", "nodes"), None), &ListOptions::ALL).await?;
        self.others.get_or_init(|| others(&page.entries, node));
        Ok(())
    }

    /// Why a node may not say the addresses that are new.
    pub(super) fn refusal(&self, node: &str, old: &Value, new: &Value) -> Option<String> {
        let before = internal(old);
        let added: Vec<IpAddr> = internal(new).into_iter().filter(|address| !before.contains(address)).collect();
        if added.is_empty() {
            return None;
        }
        let Some(others) = self.others.get() else {
            self.is_asked.store(true, Ordering::Relaxed);
            return Some("the addresses of the other nodes are yet to be read".to_owned());
        };
        let taken = |said: &Said| added.iter().find(|address| said.contains(address)).copied();
        let (address, holder) = others.iter().find_map(|(name, said)| Some((taken(said)?, name)))?;
        Some(format!(
            "node {} is not allowed to set the address {}, which node {} has as long as it is ready",
            quote(node),
            quote(&address.to_string()),
            quote(holder)
        ))
    }
}

fn others(nodes: &[Arc<Entry>], own: &str) -> Vec<(String, Arc<Said>)> {
    let said = nodes.iter().map(|entry| {
        let derived = stored::derived(entry);
        (derived.head(entry).name.clone(), derived.admission.get_or(|| said(&stored::decode(entry))))
    });
    said.filter(|(name, said)| name != own && !said.is_empty()).collect()
}

fn said(node: &Value) -> Said {
    if is_ready(node) { internal(node) } else { Said::new() }
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

    fn entry(node: Value) -> Arc<Entry> {
        stored::unstored("/minions/any".into(), &node, store::Revision(1))
    }

    #[test]
    fn what_another_ready_node_has_is_refused() {
        let nodes = [node("a", "10.0.0.1", "True"), node("b", "10.0.0.2", "Unknown"), node("n", "10.0.0.9", "True")];
        let (addresses, own) = (Addresses::default(), node("n", "10.0.0.9", "True"));
        let refusal = |address: &str| addresses.refusal("n", &own, &node("n", address, "True"));
        assert_eq!(refusal("10.0.0.9"), None);
        assert!(!addresses.are_missing(), "what stays needs no look at others");
        assert!(refusal("10.0.0.1").is_some() && addresses.are_missing());
        addresses.others.get_or_init(|| others(&nodes.map(entry), "n"));
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

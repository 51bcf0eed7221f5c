//! The ways to the other nodes: what their objects say becomes routes and tunnels of this machine.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::time;
use client::cache::{Cache, Change};
use client::{Patch, resource};
use ipnet::IpNet;
use jiff::Timestamp;
use network::Family;
use network::mesh::{Backend, Own, Peer, PeerState, Reach, underlay};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Error;
use crate::agent::{Shared, text};
use crate::disturbance::Disturbance;
use crate::key;
use crate::paths::Paths;

/// What failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the ways true.
pub(crate) struct Peers {
    pub(crate) shared: Arc<Shared>,
    pub(crate) vni: u32,
    pub(crate) backend: Backend,
}

impl Peers {
    /// Follows the nodes until the shutdown.
    pub(crate) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let path = resource::NODES.collection(None);
        let client = self.shared.client.clone();
        let (nodes, mut changes) = Cache::start_trimmed(client, path, Vec::new(), trim, shutdown.clone());
        let mut known: Option<(Own, Vec<Peer>)> = None;
        let (mut is_synced, mut retry) = (false, None);
        let mut paths = Paths::new();
        let mut moves = self.shared.moves();
        let disturbance = match Disturbance::of(&self.shared.addresses) {
            Ok(disturbance) => Some(disturbance),
            Err(error) => {
                tracing::warn!(error = error.chain(), "nobody puts right what others do to the network");
                None
            }
        };
        let disturbed = async || match &disturbance {
            Some(disturbance) => disturbance.of_ways(&self.shared.addresses).await,
            None => std::future::pending().await,
        };
        loop {
            let again = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wire::listen::stopped(&mut shutdown) => return,
                () = again => {}
                () = paths.changed() => {}
                Ok(()) = moves.changed() => {}
                () = disturbed() => known = None,
                change = changes.recv() => match change {
                    Some(Change::Synced) => is_synced = true,
                    Some(_) => {}
                    None => return,
                },
            }
            // Everything that is known already is taken in before anything is changed.
            if !is_synced || !changes.is_empty() {
                continue;
            }
            let listed = nodes.list();
            let mut wanted = self.wanted(&listed);
            paths.want(wanted.1.iter().filter_map(|peer| underlay(&peer.addresses)));
            wanted.1.iter_mut().for_each(|peer| {
                peer.path_mtu = underlay(&peer.addresses).and_then(|address| paths.to(address));
            });
            if known.as_ref() == Some(&wanted) && retry.is_none() && self.is_introduced(&listed) {
                continue;
            }
            retry = match self.lead(&wanted).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "leading to the other nodes");
                    Some(Instant::now() + RETRY)
                }
            };
            known = Some(wanted);
        }
    }

    fn wanted(&self, nodes: &[Arc<Value>]) -> (Own, Vec<Peer>) {
        let name = &self.shared.node_name;
        let own = nodes.iter().find(|node| text(node, "/metadata/name") == name);
        let blocks = own.map(|node| blocks(node)).unwrap_or_default();
        let secret = self.shared.wireguard.as_ref().map(|identity| identity.secret.clone());
        let addresses = self.shared.node_addresses();
        (Own { addresses, blocks, vni: self.vni, secret }, peers(nodes, name))
    }

    async fn lead(&self, (own, peers): &(Own, Vec<Peer>)) -> Result<(), Error> {
        self.shared.reconnect()?;
        let states = self.shared.addresses.lead(own, peers, self.backend)?;
        for state in &states {
            for problem in &state.problems {
                tracing::warn!(peer = state.peer.name, problem, "the way to another node");
            }
        }
        if let Err(error) = self.shared.addresses.offload(&states) {
            tracing::warn!(error = error.chain(), "all packets go by the machine's rules, which is slower");
        }
        let told = self.report(&states).await;
        self.shared.set_ways(states);
        told
    }

    /// Says on the node's object how the others are reached.
    async fn report(&self, states: &[PeerState]) -> Result<(), Error> {
        let name = &self.shared.node_name;
        let path = resource::NODES.object(None, name);
        let present = self.shared.client.get(&path).await?;
        self.introduce(&path, &present).await?;
        let Some(condition) = condition(&present, states, Timestamp::now()) else { return Ok(()) };
        let patch = json!({"status": {"conditions": [condition]}});
        self.shared.client.patch(&format!("{path}/status"), Patch::Strategic, &patch).await?;
        Ok(())
    }

    /// Whether the node's object says the key that counts. A node that is not there will be made anew, which is for others to see to.
    fn is_introduced(&self, nodes: &[Arc<Value>]) -> bool {
        let own = nodes.iter().find(|node| text(node, "/metadata/name") == self.shared.node_name);
        let public = self.shared.wireguard.as_ref().map(|identity| identity.public);
        own.is_none_or(|node| key::said(node) == public)
    }

    /// Says on the node's object by which key others know this one, or that there is none any more.
    async fn introduce(&self, path: &str, present: &Value) -> Result<(), Error> {
        let own = self.shared.wireguard.as_ref().map(|identity| identity.public);
        if key::said(present) == own {
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {key::ANNOTATION: own.map(|own| own.to_string())}}});
        self.shared.client.patch(path, Patch::Merge, &patch).await?;
        Ok(())
    }
}

/// All nodes but this one that others can reach.
fn peers(nodes: &[Arc<Value>], own: &str) -> Vec<Peer> {
    let others = nodes.iter().filter(|node| text(node, "/metadata/name") != own);
    let read = |node: &Arc<Value>| {
        let (addresses, blocks) = (addresses(node), blocks(node));
        let is_whole = !blocks.is_empty() && !addresses.is_empty();
        let (name, key) = (text(node, "/metadata/name").to_owned(), key::said(node));
        is_whole.then_some(Peer { name, addresses, blocks, path_mtu: None, key })
    };
    others.filter_map(read).collect()
}

/// The first one of each family, in the node's order.
fn addresses(node: &Value) -> Vec<IpAddr> {
    let listed = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    let internal = listed.filter(|address| address["type"] == "InternalIP");
    let mut all: Vec<IpAddr> = Vec::new();
    for address in internal.filter_map(|address| address["address"].as_str()?.parse().ok()) {
        if Family::of(address).first(&all).is_none() {
            all.push(address);
        }
    }
    all
}

fn blocks(node: &Value) -> Vec<IpNet> {
    let listed = node.pointer("/spec/podCIDRs").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|block| block.as_str()?.parse().ok()).collect()
}

/// The condition that tells of the ways; `None` if it says so already. A node alone has nothing to tell.
fn condition(node: &Value, states: &[PeerState], now: Timestamp) -> Option<Value> {
    let known = node.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let known = known.into_iter().find(|condition| condition["type"] == "NetworkUnavailable");
    if states.is_empty() && known.is_none() {
        return None;
    }
    // One that cannot be reached may be the one in trouble; where nobody can, it is this one.
    let is_alone = !states.is_empty() && states.iter().all(PeerState::is_lost);
    let (status, reason) = if is_alone { ("True", "NoRoutes") } else { ("False", "RoutesReady") };
    let message = summary(states);
    let is_said = known.is_some_and(|known| known["status"] == status && known["message"] == *message);
    if is_said {
        return None;
    }
    let since = known.filter(|known| known["status"] == status).map(|known| known["lastTransitionTime"].clone());
    Some(json!({
        "type": "NetworkUnavailable",
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": time::format(now),
        "lastTransitionTime": since.unwrap_or_else(|| time::format(now).into()),
    }))
}

/// `3 nodes by routes, 2 by VXLAN, 1 not at all (n4: …)`. A node is counted by the first way that leads to it.
fn summary(states: &[PeerState]) -> String {
    let first = |state: &PeerState| {
        let mut ways = state.ways.iter().map(|way| way.reach.clone());
        ways.find(|reach| *reach != Reach::Nowhere).unwrap_or(Reach::Nowhere)
    };
    let count = |is: fn(&Reach) -> bool| states.iter().map(first).filter(is).count();
    let routed = count(|reach| matches!(reach, Reach::Route { .. }));
    let tunnelled = count(|reach| matches!(reach, Reach::Vxlan { .. }));
    let encrypted = count(|reach| matches!(reach, Reach::WireGuard { .. }));
    let mut text = match encrypted {
        0 => format!("{routed} nodes by routes, {tunnelled} by VXLAN"),
        // It leads to all or to none.
        count => format!("{count} nodes by WireGuard"),
    };
    let lost: Vec<String> = states
        .iter()
        .filter(|state| state.is_lost())
        .map(|state| format!("{}: {}", state.peer.name, state.problems.join("; ")))
        .collect();
    if !lost.is_empty() {
        text.push_str(&format!(", {} not at all ({})", lost.len(), lost.join(", ")));
    }
    text
}

/// Takes out of a node what has nothing to do with ways; a heartbeat is no change then.
fn trim(node: &mut Value) {
    let said = key::said(node);
    let (metadata, blocks) = (node["metadata"].take(), node["spec"]["podCIDRs"].take());
    let addresses = node["status"]["addresses"].take();
    let (name, version) = (&metadata["name"], &metadata["resourceVersion"]);
    let mut metadata = json!({"name": name, "resourceVersion": version});
    if let Some(key) = said {
        metadata["annotations"] = json!({key::ANNOTATION: key.to_string()});
    }
    *node = json!({"metadata": metadata, "spec": {"podCIDRs": blocks}, "status": {"addresses": addresses}});
}

#[cfg(test)]
mod tests {
    use network::mesh::Led;

    use super::*;

    fn node(name: &str, address: &str, blocks: &[&str]) -> Arc<Value> {
        let addresses = json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]);
        Arc::new(json!({"metadata": {"name": name}, "spec": {"podCIDRs": blocks}, "status": {"addresses": addresses}}))
    }

    #[test]
    fn peers_are_the_others_that_can_be_reached() {
        let silent = Arc::new(json!({"metadata": {"name": "c"}, "spec": {"podCIDRs": ["10.42.0.128/26"]}}));
        let nodes = [
            node("a", "192.0.2.1", &["10.42.0.0/26"]),
            node("b", "192.0.2.2", &["10.42.0.64/26"]),
            silent,
            node("d", "192.0.2.4", &[]),
        ];
        let found = peers(&nodes, "a");
        let names: Vec<&str> = found.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["b"]);
        assert_eq!(found[0].blocks, ["10.42.0.64/26".parse().unwrap()]);
        let mut dual = (*nodes[1]).clone();
        let more = ["fd00::2", "192.0.2.9", "fd00::9"].map(|ip| json!({"type": "InternalIP", "address": ip}));
        dual["status"]["addresses"].as_array_mut().unwrap().extend(more);
        let told: Vec<String> = addresses(&dual).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["192.0.2.2", "fd00::2"]);
    }

    #[test]
    fn what_is_trimmed_tells_the_way() {
        let text = format!("{}=", "A".repeat(43));
        let mut whole = (*node("b", "192.0.2.2", &["10.42.0.64/26"])).clone();
        whole["metadata"]["annotations"] = json!({key::ANNOTATION: text, "other": "x"});
        whole["status"]["images"] = json!([{"names": ["x"]}]);
        let before = peers(&[Arc::new(whole.clone())], "a");
        trim(&mut whole);
        assert_eq!(peers(&[Arc::new(whole.clone())], "a"), before);
        assert_eq!(before[0].key.map(|key| key.to_string()), Some(text));
        assert!(whole["status"]["images"].is_null() && whole["metadata"]["annotations"]["other"].is_null());
    }

    #[test]
    fn the_condition_says_how_others_are_reached() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(condition(&json!({}), &[], now), None, "a node alone has nothing to tell");
        let peer = Peer {
            name: "b".into(),
            addresses: vec!["192.0.2.2".parse().unwrap()],
            blocks: Vec::new(),
            path_mtu: None,
            key: None,
        };
        let way = |reach, mtu| vec![Led { family: Family::V4, reach, mtu }];
        let reached = PeerState {
            peer: peer.clone(),
            ways: way(Reach::Route { link: "eth0".into() }, 1500),
            problems: Vec::new(),
        };
        let lost = PeerState { peer, ways: way(Reach::Nowhere, 0), problems: vec!["no route".into()] };
        let told = condition(&json!({}), &[reached.clone(), lost.clone()], now).unwrap();
        assert_eq!(
            (&told["status"], &told["message"]),
            (&json!("False"), &json!("1 nodes by routes, 0 by VXLAN, 1 not at all (b: no route)"))
        );
        let said = json!({"status": {"conditions": [told]}});
        assert_eq!(condition(&said, &[reached, lost.clone()], now), None);
        assert_eq!(condition(&said, std::slice::from_ref(&lost), now).unwrap()["status"], "True");
        let encrypted = PeerState { ways: way(Reach::WireGuard { link: "eth0".into() }, 1440), ..lost };
        assert_eq!(condition(&said, &[encrypted], now).unwrap()["message"], "1 nodes by WireGuard");
    }
}

//! The blocks of addresses that this node holds. A claim is a lease named after the block: a name exists once, so no two nodes hold the
//! same block, however they hurry.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use api::time;
use client::{Client, Patch, resource};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Error;
use crate::agent::text;

const NAMESPACE: &str = "podling-blocks";
/// A block has 64 addresses, unless the whole range has fewer.
const PREFIX: u8 = 26;

/// Claims blocks of a range for one node.
#[derive(Clone)]
pub struct Blocks {
    client: Client,
    node: String,
    range: Ipv4Net,
}

impl Blocks {
    /// Claims for `node`, out of the cluster's `range`.
    pub fn new(client: Client, node: String, range: Ipv4Net) -> Self {
        Self { client, node, range: range.trunc() }
    }

    /// The blocks that the node holds, the first claimed first; claims one if there is none.
    ///
    /// # Errors
    /// [`Error::Api`] when the API refuses, [`Error::Failed`] when all blocks are taken.
    pub async fn open(&self) -> Result<Vec<Ipv4Net>, Error> {
        let leases = self.leases().await?;
        let held = held(&leases, &self.node);
        if held.is_empty() { Ok(vec![self.claim_beside(&leases).await?]) } else { Ok(held) }
    }

    /// Touches the claims of `held`, so that whoever took this node for gone sees that it is not; what was given up meanwhile is claimed
    /// again, if nobody was faster. The answer is what is lost.
    ///
    /// # Errors
    /// [`Error::Api`] when the API refuses.
    pub async fn confirm(&self, held: &[Ipv4Net]) -> Result<Vec<Ipv4Net>, Error> {
        let mut lost = Vec::new();
        for block in held {
            if !self.touch(*block).await? {
                lost.push(*block);
            }
        }
        Ok(lost)
    }

    /// Whether the block is this node's.
    async fn touch(&self, block: Ipv4Net) -> Result<bool, Error> {
        let path = resource::LEASES.object(Some(NAMESPACE), &name(block));
        let now = json!({"spec": {"renewTime": time::format_micro(Timestamp::now())}});
        let refused = match self.client.patch(&path, Patch::Merge, &now).await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_not_found() => {
                match self.client.create(&resource::LEASES.collection(Some(NAMESPACE)), &self.lease(block)).await {
                    Ok(_) => return Ok(true),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        // Nobody may touch what others hold; but that is not the only reason to be refused.
        match self.client.get(&path).await {
            Ok(lease) if text(&lease, "/spec/holderIdentity") != self.node => Ok(false),
            _ => Err(refused.into()),
        }
    }

    /// Claims a further block.
    ///
    /// # Errors
    /// As [`Blocks::open`].
    pub async fn claim(&self) -> Result<Ipv4Net, Error> {
        self.claim_beside(&self.leases().await?).await
    }

    async fn leases(&self) -> Result<Vec<Value>, Error> {
        Ok(self.client.list(&resource::LEASES.collection(Some(NAMESPACE)), &[]).await?.items)
    }

    async fn claim_beside(&self, leases: &[Value]) -> Result<Ipv4Net, Error> {
        let mut taken: BTreeSet<Ipv4Net> = leases.iter().filter_map(block_of).collect();
        while let Some(block) = first_free(self.range, &taken) {
            match self.client.create(&resource::LEASES.collection(Some(NAMESPACE)), &self.lease(block)).await {
                Ok(_) => return Ok(block),
                // Another node was faster.
                Err(error) if error.is_conflict() => taken.insert(block),
                Err(error) => return Err(error.into()),
            };
        }
        let full = format!(
            "all {} blocks of {} are taken: delete nodes that are gone (`kubectl delete node`) or pods that are not needed, or make the \
             cluster anew with a larger --pod-cidr",
            taken.len(),
            self.range
        );
        Err(Error::failed("claiming a block of addresses", full))
    }

    fn lease(&self, block: Ipv4Net) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name(block), "namespace": NAMESPACE},
            "spec": {"holderIdentity": self.node},
        })
    }
}

/// The lease that claims a block.
fn name(block: Ipv4Net) -> String {
    format!("{}-{}", block.network(), block.prefix_len())
}

fn block_of(lease: &Value) -> Option<Ipv4Net> {
    text(lease, "/metadata/name").replace('-', "/").parse().ok()
}

fn held(leases: &[Value], node: &str) -> Vec<Ipv4Net> {
    let own = leases.iter().filter(|lease| text(lease, "/spec/holderIdentity") == node);
    // Claims are touched in the order in which they were made, so of those of one second the version tells which came first.
    let version = |lease: &Value| text(lease, "/metadata/resourceVersion").parse::<u64>().unwrap_or(u64::MAX);
    let made = |lease: &Value| (text(lease, "/metadata/creationTimestamp").to_owned(), version(lease));
    let mut own: Vec<_> = own.filter_map(|lease| Some((made(lease), block_of(lease)?))).collect();
    own.sort_unstable();
    own.into_iter().map(|(_, block)| block).collect()
}

/// The lowest block that overlaps none of those taken.
fn first_free(range: Ipv4Net, taken: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
    let prefix = PREFIX.max(range.prefix_len());
    let mut next = u32::from(range.network());
    let last = u32::from(range.broadcast());
    while next <= last {
        let block = Ipv4Net::new(Ipv4Addr::from(next), prefix).ok()?;
        let in_way = taken.iter().find(|other| other.contains(&block.network()) || block.contains(&other.network()));
        let Some(other) = in_way else { return Some(block) };
        next = u32::from(block.broadcast()).max(u32::from(other.broadcast())).checked_add(1)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a block")
    }

    #[test]
    fn the_lowest_free_block_is_claimed() {
        let free = |range: &str, taken: &[&str]| {
            first_free(net(range), &taken.iter().map(|text| net(text)).collect()).map(|block| block.to_string())
        };
        assert_eq!(free("10.42.0.0/16", &[]).as_deref(), Some("10.42.0.0/26"));
        assert_eq!(free("10.42.0.0/16", &["10.42.0.0/26", "10.42.0.128/26"]).as_deref(), Some("10.42.0.64/26"));
        assert_eq!(free("10.42.0.0/16", &["10.42.0.0/24"]).as_deref(), Some("10.42.1.0/26"));
        assert_eq!(free("10.42.0.0/28", &[]).as_deref(), Some("10.42.0.0/28"));
        assert_eq!(free("10.42.0.0/25", &["10.42.0.0/26", "10.42.0.64/26"]), None);
        assert_eq!(free("255.255.255.192/26", &["255.255.255.192/26"]), None);
    }

    #[test]
    fn a_node_finds_its_blocks_in_the_order_of_its_claims() {
        let lease = |name: &str, holder: &str, version: &str| json!({"metadata": {"name": name, "resourceVersion": version}, "spec": {"holderIdentity": holder}});
        let leases =
            [lease("10.42.0.0-26", "a", "9"), lease("10.42.0.64-26", "b", "5"), lease("10.42.0.128-26", "a", "7")];
        assert_eq!(held(&leases, "a"), [net("10.42.0.128/26"), net("10.42.0.0/26")]);
        assert_eq!(name(net("10.42.0.64/26")), "10.42.0.64-26");
    }
}

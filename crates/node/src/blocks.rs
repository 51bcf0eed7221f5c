//! The blocks of addresses that this node holds. A claim is a lease named after the block: a name exists once, so no two nodes hold the
//! same block, however they hurry.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use api::{block, time};
use client::{Client, Patch, resource};
use ipnet::IpNet;
use jiff::Timestamp;
use network::{Family, Ranges};
use serde_json::{Value, json};

use crate::Error;
use crate::agent::text;

/// Claims blocks of the cluster's ranges for one node.
#[derive(Clone)]
pub struct Blocks {
    client: Client,
    node: String,
    ranges: Ranges,
}

impl Blocks {
    /// Claims for `node`, out of the cluster's ranges.
    pub fn new(client: Client, node: String, ranges: Ranges) -> Self {
        Self { client, node, ranges }
    }

    /// The families of which every pod has an address, in the order in which they are told.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.ranges.families()
    }

    /// The blocks that the node holds, the first claimed first; claims one of each family of which there is none.
    ///
    /// # Errors
    /// [`Error::Api`] when the API refuses, [`Error::Failed`] when all blocks are taken.
    pub async fn open(&self) -> Result<Vec<IpNet>, Error> {
        let leases = self.leases().await?;
        let mut held = held(&leases, &self.node);
        for family in self.families() {
            if !held.iter().any(|block| Family::of_net(block) == family) {
                held.push(self.claim_beside(&leases, family).await?);
            }
        }
        Ok(held)
    }

    /// Touches the claims of `held`, so that whoever took this node for gone sees that it is not; what was given up meanwhile is claimed
    /// again, if nobody was faster. The answer is what is lost.
    ///
    /// # Errors
    /// [`Error::Api`] when the API refuses.
    pub async fn confirm(&self, held: &[IpNet]) -> Result<Vec<IpNet>, Error> {
        let mut lost = Vec::new();
        for block in held {
            if !self.touch(*block).await? {
                lost.push(*block);
            }
        }
        Ok(lost)
    }

    /// Whether the block is this node's.
    async fn touch(&self, block: IpNet) -> Result<bool, Error> {
        let path = resource::LEASES.object(Some(block::NAMESPACE), &name(block));
        let now = json!({"spec": {"renewTime": time::format_micro(Timestamp::now())}});
        let refused = match self.client.patch(&path, Patch::Merge, &now).await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_not_found() => {
                match self.client.create(&resource::LEASES.collection(Some(block::NAMESPACE)), &self.lease(block)).await
                {
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

    /// Claims a further block of this family.
    ///
    /// # Errors
    /// As [`Blocks::open`].
    pub async fn claim(&self, family: Family) -> Result<IpNet, Error> {
        self.claim_beside(&self.leases().await?, family).await
    }

    async fn leases(&self) -> Result<Vec<Value>, Error> {
        Ok(self.client.list(&resource::LEASES.collection(Some(block::NAMESPACE)), &[]).await?.items)
    }

    async fn claim_beside(&self, leases: &[Value], family: Family) -> Result<IpNet, Error> {
        let none = || Error::failed("claiming a block of addresses", format!("the cluster has no range of {family}"));
        let range = self.ranges.of(family).ok_or_else(none)?;
        let of_family = |block: &IpNet| Family::of_net(block) == family;
        let mut taken: BTreeSet<IpNet> = leases.iter().filter_map(block_of).filter(of_family).collect();
        while let Some(block) = first_free(range, &taken) {
            match self.client.create(&resource::LEASES.collection(Some(block::NAMESPACE)), &self.lease(block)).await {
                Ok(_) => return Ok(block),
                // Another node was faster.
                Err(error) if error.is_conflict() => taken.insert(block),
                Err(error) => return Err(error.into()),
            };
        }
        let full = format!(
            "all {} blocks of {range} are taken: delete nodes that are gone (`kubectl delete node`) or pods that are not needed, or make the \
             cluster anew with a larger --pod-cidr",
            taken.len(),
        );
        Err(Error::failed("claiming a block of addresses", full))
    }

    fn lease(&self, block: IpNet) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name(block), "namespace": block::NAMESPACE},
            "spec": {"holderIdentity": self.node},
        })
    }
}

/// The lease that claims a block.
fn name(block: IpNet) -> String {
    block::claim(block.network(), block.prefix_len())
}

fn block_of(lease: &Value) -> Option<IpNet> {
    let (network, length) = block::claimed(text(lease, "/metadata/name"))?;
    IpNet::new(network, length).ok()
}

fn held(leases: &[Value], node: &str) -> Vec<IpNet> {
    let own = leases.iter().filter(|lease| text(lease, "/spec/holderIdentity") == node);
    // Claims are touched in the order in which they were made, so of those of one second the version tells which came first.
    let version = |lease: &Value| text(lease, "/metadata/resourceVersion").parse::<u64>().unwrap_or(u64::MAX);
    let made = |lease: &Value| (text(lease, "/metadata/creationTimestamp").to_owned(), version(lease));
    let mut own: Vec<_> = own.filter_map(|lease| Some((made(lease), block_of(lease)?))).collect();
    own.sort_unstable();
    own.into_iter().map(|(_, block)| block).collect()
}

/// The lowest block that overlaps none of those taken.
fn first_free(range: IpNet, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let prefix = (range.max_prefix_len() - block::BITS).max(range.prefix_len());
    let mut next = block::number(range.network());
    let last = block::number(range.broadcast());
    while next <= last {
        let block = IpNet::new(address(range, next)?, prefix).ok()?;
        let in_way = taken.iter().find(|other| network::overlap(other, &block));
        let Some(other) = in_way else { return Some(block) };
        next = block::number(block.broadcast()).max(block::number(other.broadcast())).checked_add(1)?;
    }
    None
}

/// That of this number, of the same family as `range`.
fn address(range: IpNet, number: u128) -> Option<IpAddr> {
    match range {
        IpNet::V4(_) => u32::try_from(number).ok().map(|number| std::net::Ipv4Addr::from(number).into()),
        IpNet::V6(_) => Some(Ipv6Addr::from(number).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
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
        assert_eq!(free("fd42::/56", &["fd42::/122"]).as_deref(), Some("fd42::40/122"));
        assert_eq!(free("fd42::/124", &[]).as_deref(), Some("fd42::/124"));
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffc0/122";
        assert_eq!(free(last, &[last]), None);
    }

    #[test]
    fn a_node_finds_its_blocks_in_the_order_of_its_claims() {
        let lease = |name: &str, holder: &str, version: &str| json!({"metadata": {"name": name, "resourceVersion": version}, "spec": {"holderIdentity": holder}});
        let leases =
            [lease("10.42.0.0-26", "a", "9"), lease("10.42.0.64-26", "b", "5"), lease("10.42.0.128-26", "a", "7")];
        assert_eq!(held(&leases, "a"), [net("10.42.0.128/26"), net("10.42.0.0/26")]);
        assert_eq!(name(net("10.42.0.64/26")), "10.42.0.64-26");
        assert_eq!(name(net("fd42::40/122")), "fd42-0-0-0-0-0-0-40-122");
        let claim = json!({"metadata": {"name": "fd42-0-0-0-0-0-0-40-122"}});
        assert_eq!(block_of(&claim), Some(net("fd42::40/122")));
    }
}

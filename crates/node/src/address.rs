//! The addresses and host ports of this node's pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use network::mesh::{Backend, Own, Peer, PeerState};
use network::wireguard::{PublicKey, SecretKey};
use network::{Family, HostPort, Pools, Protocol};

use crate::Error;
use crate::blocks::Blocks;
use crate::pod::Pod;

/// Gives addresses out of the node's blocks and leads host ports to them. The truth about who has which is in the sandboxes.
pub struct Addresses {
    host: network::Host,
    blocks: Blocks,
    /// Held while a further block is claimed, so that one claim serves all who wait.
    claiming: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    pools: Pools,
    ports: BTreeMap<String, Vec<HostPort>>,
}

/// The addresses of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocated {
    /// One for each range of the cluster, in their order.
    pub addresses: Vec<IpAddr>,
    /// Whether the node holds a block more since, which its object does not say yet.
    pub has_new_block: bool,
}

impl Addresses {
    /// Addresses of the blocks that the node holds, on `host`.
    ///
    /// # Errors
    /// [`Error::Failed`] when two of them overlap.
    pub fn new(host: network::Host, blocks: Blocks, held: &[IpNet]) -> Result<Self, Error> {
        let mut pools = Pools::default();
        held.iter().try_for_each(|block| add(&mut pools, *block))?;
        Ok(Self {
            host,
            blocks,
            claiming: tokio::sync::Mutex::default(),
            state: Mutex::new(State { pools, ports: BTreeMap::new() }),
        })
    }

    /// The blocks that the node holds, the first claimed first.
    pub fn held(&self) -> Vec<String> {
        self.lock().pools.blocks().map(|block| block.to_string()).collect()
    }

    /// Addresses for a new pod; claims further blocks when those held are full.
    ///
    /// # Errors
    /// [`Error::Failed`] when a whole range is full, [`Error::Api`] when the API refuses.
    pub async fn allocate(&self) -> Result<Allocated, Error> {
        let mut allocated = Allocated { addresses: Vec::new(), has_new_block: false };
        for family in self.blocks.families() {
            match self.allocate_of(family).await {
                Ok((address, has_new_block)) => {
                    allocated.addresses.push(address);
                    allocated.has_new_block |= has_new_block;
                }
                Err(error) => {
                    self.release(&allocated.addresses);
                    return Err(error);
                }
            }
        }
        Ok(allocated)
    }

    /// One address, and whether it took a further block.
    async fn allocate_of(&self, family: Family) -> Result<(IpAddr, bool), Error> {
        if let Some(address) = self.free(family) {
            return Ok((address, false));
        }
        let _turn = self.claiming.lock().await;
        if let Some(address) = self.free(family) {
            return Ok((address, false));
        }
        let block = self.blocks.claim(family).await?;
        tracing::info!(%block, "claimed a further block of addresses");
        add(&mut self.lock().pools, block)?;
        let none = || Error::failed("allocating an address", format!("{block} has none"));
        Ok((self.free(family).ok_or_else(none)?, true))
    }

    /// Makes sure of the blocks, after the cluster may have taken this node for gone: what others have claimed meanwhile is used no more.
    /// True if something was lost.
    ///
    /// # Errors
    /// As [`Addresses::allocate`].
    pub async fn confirm(&self) -> Result<bool, Error> {
        let _turn = self.claiming.lock().await;
        let held: Vec<IpNet> = self.lock().pools.blocks().collect();
        let lost = self.blocks.confirm(&held).await?;
        for block in &lost {
            tracing::warn!(%block, "another node has claimed a block of this node, which was taken for gone");
            self.lock().pools.remove_block(*block);
        }
        for family in self.blocks.families() {
            let has_some = self.lock().pools.blocks().any(|block| Family::of_net(&block) == family);
            if !has_some {
                let block = self.blocks.claim(family).await?;
                add(&mut self.lock().pools, block)?;
            }
        }
        Ok(!lost.is_empty())
    }

    /// Whether an address is of a block that this node holds.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.lock().pools.covers(address)
    }

    fn free(&self, family: Family) -> Option<IpAddr> {
        self.lock().pools.allocate(family).ok()
    }

    /// Notes addresses that a pod of an earlier life of this agent has.
    pub fn reserve(&self, addresses: &[IpAddr]) {
        for address in addresses {
            match self.lock().pools.reserve(*address) {
                Ok(true) => {}
                Ok(false) => tracing::warn!(%address, "an adopted pod's address is in no block of this node"),
                Err(error) => tracing::warn!(%error, "an adopted pod's address"),
            }
        }
    }

    /// Takes addresses back.
    pub fn release(&self, addresses: &[IpAddr]) {
        let mut state = self.lock();
        addresses.iter().for_each(|address| state.pools.release(*address));
    }

    /// By which key others know this machine when it speaks WireGuard.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses.
    pub fn wireguard_key(&self, secret: &SecretKey) -> Result<PublicKey, Error> {
        self.host.wireguard_key(secret).map_err(|error| Error::failed("preparing WireGuard", error))
    }

    /// Leads to the blocks of other nodes.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses.
    pub fn lead(&self, own: &Own, peers: &[Peer], backend: Backend) -> Result<Vec<PeerState>, Error> {
        self.host.mesh(own, peers, backend).map_err(|error| Error::failed("leading to other nodes", error))
    }

    /// Lets known flows to these peers, and among this node's pods, go past the machine's rules.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses; it is not asked again then.
    pub fn offload(&self, peers: &[PeerState]) -> Result<(), Error> {
        self.host.offload(peers).map_err(|error| Error::failed("offloading flows", error))
    }

    /// The same for a pod that was attached since.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses.
    pub fn offload_attachment(&self, sandbox: &str) -> Result<(), Error> {
        self.host.offload_attachment(sandbox).map_err(|error| Error::failed("offloading a pod's flows", error))
    }

    /// Leads to the addresses of these pods again where the machine does not any more.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses.
    pub fn reconnect(&self, sandboxes: &[(String, Vec<IpAddr>)]) -> Result<usize, Error> {
        self.host.reconnect(sandboxes).map_err(|error| Error::failed("leading to this node's pods", error))
    }

    /// Hears when others touch the machine's rules, and its links and routes.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses.
    pub fn monitors(&self) -> Result<[network::Monitor; 2], Error> {
        let failed = |error| Error::failed("watching the machine's network", error);
        Ok([self.host.watch_rules().map_err(failed)?, self.host.watch_routes().map_err(failed)?])
    }

    /// Writes the rules anew if others took something of them away; whether that was so.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses.
    pub fn repair(&self) -> Result<bool, Error> {
        self.host.repair().map_err(|error| Error::failed("writing the node's network rules anew", error))
    }

    /// Chains of others that drop what this machine forwards.
    ///
    /// # Errors
    /// [`Error::Failed`] when the kernel refuses.
    pub fn obstacles(&self) -> Result<Vec<network::Obstacle>, Error> {
        self.host.obstacles().map_err(|error| Error::failed("looking for rules of others", error))
    }

    /// How the sandbox of this name gets these addresses.
    ///
    /// # Errors
    /// [`Error::Failed`] when the machine's network cannot be read.
    pub fn attachment(&self, sandbox: &str, addresses: &[IpAddr]) -> Result<serde_json::Value, Error> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| Error::failed("attaching a pod to the network", e);
        let attachment = self.host.attachment(sandbox, addresses).map_err(|e| failed(e.into()))?;
        serde_json::to_value(attachment).map_err(|e| failed(e.into()))
    }

    /// Leads the pod's host ports to its addresses, and no others any more.
    ///
    /// # Errors
    /// [`Error::Failed`] when the rules cannot be written.
    pub fn open_ports(&self, pod: &Pod, addresses: &[IpAddr]) -> Result<(), Error> {
        let ports: Vec<HostPort> = addresses.iter().flat_map(|address| host_ports(pod, *address)).collect();
        let mut state = self.lock();
        let before = if ports.is_empty() {
            state.ports.remove(pod.uid())
        } else {
            state.ports.insert(pod.uid().to_owned(), ports.clone())
        };
        if before.unwrap_or_default() == ports { Ok(()) } else { self.apply(&state) }
    }

    /// Forgets the host ports of a pod.
    ///
    /// # Errors
    /// [`Error::Failed`] when the rules cannot be written.
    pub fn close_ports(&self, uid: &str) -> Result<(), Error> {
        let mut state = self.lock();
        if state.ports.remove(uid).is_some() { self.apply(&state) } else { Ok(()) }
    }

    /// Writes the machine's rules anew: when the agent begins.
    ///
    /// # Errors
    /// [`Error::Failed`] when the rules cannot be written.
    pub fn set_up(&self) -> Result<(), Error> {
        self.apply(&self.lock())
    }

    /// Removes the links of sandboxes that are not among `keep`.
    ///
    /// # Errors
    /// [`Error::Failed`] when the machine's network cannot be read.
    pub fn collect_garbage(&self, keep: &[String]) -> Result<(), Error> {
        let names: Vec<String> = keep.iter().map(|sandbox| self.host.link_name(sandbox)).collect();
        let removed = self.host.collect_garbage(&names).map_err(|e| Error::failed("removing stale links", e))?;
        if !removed.is_empty() {
            tracing::info!(links = removed.join(" "), "removed links that no pod has");
        }
        Ok(())
    }

    fn apply(&self, state: &State) -> Result<(), Error> {
        let all: Vec<HostPort> = state.ports.values().flatten().cloned().collect();
        self.host.apply(&all).map_err(|e| Error::failed("writing the node's network rules", e))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(pools: &mut Pools, block: IpNet) -> Result<(), Error> {
    pools.add_block(block).map_err(|error| Error::failed("taking a block of addresses into use", error))
}

/// Those that lead to this address: one that names an address of the machine leads to that of the same family only.
fn host_ports(pod: &Pod, address: IpAddr) -> Vec<HostPort> {
    let all =
        pod.init_containers().iter().chain(pod.containers()).flat_map(|container| container.ports.iter().flatten());
    let open = all.filter_map(|port| {
        let host_port = u16::try_from(port.host_port?).ok().filter(|port| *port != 0)?;
        let host_address = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
        if host_address.is_some_and(|it| it.is_ipv4() != address.is_ipv4()) {
            return None;
        }
        Some(HostPort {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            host_address: host_address.filter(|address| !address.is_unspecified()),
            host_port,
            address,
            port: u16::try_from(port.container_port).unwrap_or(0),
        })
    });
    open.collect()
}

//! The agent: follows the pods that are bound to this node and keeps one worker for each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use client::cache::{Cache, Change};
use client::{Client, Patch, resource};
use network::Ranges;
use network::mesh::{Backend, PeerState};
use runtime::Sandbox;
use runtime::image::Store;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Error;
use crate::address::Addresses;
use crate::blocks::Blocks;
use crate::events::Events;
use crate::heart::Heart;
use crate::images::Images;
use crate::key::Identity;
use crate::pod::Pod;
use crate::presence::Presence;
use crate::resources::Capacity;
use crate::spec::{Paths, annotation};
use crate::worker::{Order, Worker};

/// What an agent needs.
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The addresses others know the node by, at most one of each family, the first one first; they may change while the agent runs.
    pub node_addresses: watch::Receiver<Vec<IpAddr>>,
    /// A way to the API, as the node's own identity.
    pub client: Client,
    /// Sandboxes and containers.
    pub runtime: Arc<runtime::Host>,
    /// Images.
    pub images: Arc<Store>,
    /// The machine's network.
    pub network: network::Host,
    /// All addresses of the cluster's pods; the node claims blocks of them.
    pub ranges: Ranges,
    /// Where pods' files and logs lie; survives restarts.
    pub directory: PathBuf,
    /// podling's version, for the node's status.
    pub version: String,
    /// The port on which this node answers for logs and streams.
    pub port: u16,
    /// The cluster takes a node for lost from which it hears nothing for so long.
    pub grace: Duration,
    /// The number of the cluster's tunnel, the same on all nodes.
    pub vni: u32,
    /// Which ways to take to other nodes.
    pub backend: Backend,
}

/// What all workers share.
pub struct Shared {
    pub(crate) node_name: String,
    node_addresses: watch::Receiver<Vec<IpAddr>>,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<runtime::Host>,
    pub(crate) images: Images,
    pub(crate) addresses: Addresses,
    pub(crate) recorder: Events,
    pub(crate) capacity: Capacity,
    pub(crate) directory: PathBuf,
    pub(crate) presence: Presence,
    /// Where the ways are WireGuard's.
    pub(crate) wireguard: Option<Identity>,
    grace: Duration,
    entries: RwLock<HashMap<String, Arc<Entry>>>,
    ways: RwLock<Arc<Vec<PeerState>>>,
}

/// What others may see of a pod's worker.
pub struct Entry {
    state: RwLock<EntryState>,
}

struct EntryState {
    pod: Pod,
    sandbox: Option<Arc<Sandbox>>,
}

impl Entry {
    fn new(pod: Pod) -> Self {
        Self { state: RwLock::new(EntryState { pod, sandbox: None }) }
    }

    /// The newest known state of the pod.
    pub fn pod(&self) -> Pod {
        self.state.read().unwrap_or_else(PoisonError::into_inner).pod.clone()
    }

    /// Its sandbox, if it has one.
    pub fn sandbox(&self) -> Option<Arc<Sandbox>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).sandbox.clone()
    }

    pub(crate) fn set_pod(&self, pod: Pod) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).pod = pod;
    }

    pub(crate) fn set_sandbox(&self, sandbox: Option<Arc<Sandbox>>) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).sandbox = sandbox;
    }
}

impl Shared {
    /// The addresses others know the node by now.
    pub(crate) fn node_addresses(&self) -> Vec<IpAddr> {
        self.node_addresses.borrow().clone()
    }

    /// Tells of each change of the node's addresses.
    pub(crate) fn moves(&self) -> watch::Receiver<Vec<IpAddr>> {
        let mut addresses = self.node_addresses.clone();
        addresses.mark_unchanged();
        addresses
    }

    /// How other nodes are reached.
    pub(crate) fn ways(&self) -> Arc<Vec<PeerState>> {
        self.ways.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_ways(&self, ways: Vec<PeerState>) {
        *self.ways.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ways);
    }

    /// Where the files of a pod lie.
    pub fn paths(&self, pod: &Pod) -> Paths {
        let name = format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid());
        Paths { directory: self.directory.join("pods").join(pod.uid()), logs: self.directory.join("logs").join(name) }
    }

    /// Says on the node's object which blocks it holds.
    pub(crate) async fn tell_blocks(&self) -> Result<(), Error> {
        let held = self.addresses.held();
        let patch = serde_json::json!({"spec": {"podCIDR": held.first(), "podCIDRs": held}});
        self.client.patch(&resource::NODES.object(None, &self.node_name), Patch::Merge, &patch).await?;
        Ok(())
    }

    /// Refuses while it is not certain that the cluster knows this node: what a node holds that is gone goes to others, though not at once.
    pub(crate) async fn ensure_known(&self) -> Result<(), Error> {
        if self.presence.is_fresh(self.grace / 2) {
            return Ok(());
        }
        let begun = Instant::now();
        let node = self.client.get(&resource::NODES.object(None, &self.node_name)).await?;
        let is_known = self.presence.renew(text(&node, "/metadata/uid"), begun);
        let again = || Error::failed("allocating an address", "the node is being registered again");
        if is_known { Ok(()) } else { Err(again()) }
    }

    /// Ends the sandboxes whose addresses this node has lost; their workers make others.
    pub(crate) fn end_strays(&self) {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().filter_map(|entry| entry.sandbox()).for_each(|sandbox| self.end_if_stray(&sandbox));
    }

    /// Leads to this node's own pods again, wherever others, or the loss of an address, have taken the way.
    pub(crate) fn reconnect(&self) -> Result<(), Error> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let attached = |entry: &Arc<Entry>| {
            let state = entry.state.read().unwrap_or_else(PoisonError::into_inner);
            Some((state.pod.uid().to_owned(), addresses_of(state.sandbox.as_deref()?)))
        };
        let attached: Vec<_> = entries.values().filter_map(attached).collect();
        drop(entries);
        match self.addresses.reconnect(&attached)? {
            0 => {}
            count => tracing::warn!(count, "the ways to pods of this node were gone; they are back"),
        }
        Ok(())
    }

    /// Ends a sandbox if its address is not this node's.
    pub(crate) fn end_if_stray(&self, sandbox: &Sandbox) {
        if let Some(address) = addresses_of(sandbox).into_iter().find(|address| !self.addresses.covers(*address)) {
            tracing::warn!(%address, sandbox = sandbox.id(), "ending a pod whose address is not this node's any more");
            sandbox.kill_all();
        }
    }

    /// The pod of this name; the one that is not being deleted, if there are two.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let is_named = |entry: &&Arc<Entry>| {
            let pod = entry.pod();
            pod.namespace() == namespace && pod.name() == name
        };
        entries.values().filter(is_named).min_by_key(|entry| entry.pod().deletion().is_some()).cloned()
    }

    fn sandbox(&self, uid: &str) -> Option<Arc<Sandbox>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(uid)?.sandbox()
    }

    fn insert(&self, uid: &str, entry: Arc<Entry>) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), entry);
    }

    fn remove(&self, uid: &str) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// A node's agent, ready to run.
pub struct Agent {
    shared: Arc<Shared>,
    adopted: HashMap<String, Arc<Sandbox>>,
    pods: mpsc::Receiver<Change>,
    workers: JoinSet<String>,
    /// Whose worker a task is, should it break down.
    tasks: HashMap<tokio::task::Id, String>,
    orders: HashMap<String, watch::Sender<Order>>,
    version: String,
    port: u16,
    grace: Duration,
    /// The number of the cluster's tunnel, and which ways to take.
    ways: (u32, Backend),
}

impl Agent {
    /// Sets up the machine's network, adopts the sandboxes of an earlier agent and registers the node. When this returns, the node is
    /// Ready; [`Agent::run`] then does the work.
    ///
    /// # Errors
    /// [`Error::Failed`] or [`Error::Api`] naming the step.
    pub async fn start(config: Config, shutdown: watch::Receiver<bool>) -> Result<Self, Error> {
        let Config { node_name, client, runtime, directory, ranges, version, port, grace, .. } = config;
        let recorder = Events::new(client::events::Recorder::start(client.clone(), "podling", node_name.clone()));
        let blocks = Blocks::new(client.clone(), node_name.clone(), ranges);
        let held = blocks.open().await?;
        let addresses = Addresses::new(config.network, blocks, &held)?;
        addresses.set_up()?;
        let wireguard = match config.backend {
            Backend::WireGuard => Some(Identity::open(&directory, &addresses)?),
            _ => None,
        };
        let adopted = adopt(&runtime, &addresses).await?;
        let shared = Arc::new(Shared {
            node_name: node_name.clone(),
            node_addresses: config.node_addresses,
            images: Images::new(config.images, client.clone(), recorder.clone()),
            capacity: crate::register::capacity(&directory),
            client: client.clone(),
            runtime,
            addresses,
            recorder,
            directory,
            presence: Presence::default(),
            wireguard,
            grace,
            entries: RwLock::default(),
            ways: RwLock::default(),
        });
        let selector = vec![("fieldSelector".to_owned(), format!("spec.nodeName={node_name}"))];
        let (_, pods) = Cache::start(client, resource::PODS.collection(None), selector, shutdown);
        let (workers, tasks, orders) = (JoinSet::new(), HashMap::new(), HashMap::new());
        let ways = (config.vni, config.backend);
        let agent = Self { shared, adopted, pods, workers, tasks, orders, version, port, grace, ways };
        agent.registration().register().await?;
        agent.adopted.values().for_each(|sandbox| agent.shared.end_if_stray(sandbox));
        Ok(agent)
    }

    fn registration(&self) -> crate::register::Registration {
        crate::register::Registration {
            shared: self.shared.clone(),
            version: self.version.clone(),
            port: self.port,
            grace: self.grace,
        }
    }

    fn peers(&self) -> crate::peers::Peers {
        let (vni, backend) = self.ways;
        crate::peers::Peers { shared: self.shared.clone(), vni, backend }
    }

    /// What answers for logs, exec, attach and port-forward on this node.
    pub fn service(&self) -> Arc<dyn wire::Service> {
        Arc::new(crate::serve::Serve::new(self.shared.clone()))
    }

    /// Works until the shutdown. Pods run on after it.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let heartbeat = tokio::spawn(Heart::new(self.registration()).run(shutdown.clone()));
        let ways = tokio::spawn(self.peers().run(shutdown.clone()));
        let mut moves = self.shared.moves();
        loop {
            tokio::select! {
                // The pods say which node they are on by its address, too.
                Ok(()) = moves.changed() => self.orders.values().for_each(|orders| orders.send_modify(|_| {})),
                () = wire::listen::stopped(&mut shutdown) => break,
                change = self.pods.recv() => match change {
                    Some(change) => self.apply(change, &shutdown).await,
                    None => break,
                },
                Some(ended) = self.workers.join_next_with_id() => self.ended(ended),
            }
        }
        while self.workers.join_next().await.is_some() {}
        for (task, what) in [(heartbeat, "heartbeat"), (ways, "watch over the other nodes")] {
            if let Err(error) = task.await {
                tracing::error!(%error, "the node's {what} broke down");
            }
        }
    }

    /// A worker has ended. One that broke down gets a successor with the next change of its pod, which finds the sandbox in its entry.
    fn ended(&mut self, ended: Result<(tokio::task::Id, String), tokio::task::JoinError>) {
        match ended {
            Ok((id, uid)) => {
                self.tasks.remove(&id);
                self.orders.remove(&uid);
                self.shared.remove(&uid);
            }
            Err(error) => {
                let uid = self.tasks.remove(&error.id()).unwrap_or_default();
                self.orders.remove(&uid);
                tracing::error!(%error, uid, "a pod's worker broke down");
            }
        }
    }

    async fn apply(&mut self, change: Change, shutdown: &watch::Receiver<bool>) {
        match change {
            Change::Set(value) => match Pod::new(value) {
                Ok(pod) => self.set(pod, shutdown),
                Err(error) => tracing::warn!(error = error.chain(), "a pod that cannot be read"),
            },
            Change::Removed(value) => {
                let uid = text(&value, "/metadata/uid").to_owned();
                if !self.orders.contains_key(&uid)
                    && self.shared.sandbox(&uid).is_some()
                    && let Ok(pod) = Pod::new(value)
                {
                    self.set(pod, shutdown);
                }
                if let Some(orders) = self.orders.get(&uid) {
                    orders.send_modify(|order| order.is_gone = true);
                }
            }
            Change::Synced => self.bury_orphans().await,
        }
    }

    fn set(&mut self, pod: Pod, shutdown: &watch::Receiver<bool>) {
        let uid = pod.uid().to_owned();
        if let Some(orders) = self.orders.get(&uid) {
            orders.send_modify(|order| order.pod = pod);
            return;
        }
        let sandbox = self.adopted.remove(&uid).or_else(|| self.shared.sandbox(&uid));
        let entry = Arc::new(Entry::new(pod.clone()));
        self.shared.insert(&uid, entry.clone());
        let (orders, receiver) = watch::channel(Order { pod: pod.clone(), is_gone: false });
        let worker = Worker::new(self.shared.clone(), entry, pod, sandbox);
        let shutdown = shutdown.clone();
        self.orders.insert(uid.clone(), orders);
        let own = uid.clone();
        let task = self.workers.spawn(async move {
            worker.run(receiver, shutdown).await;
            own
        });
        self.tasks.insert(task.id(), uid);
    }

    /// Once all pods are known, a sandbox without one belongs to a pod that was deleted while no agent ran.
    async fn bury_orphans(&mut self) {
        for (uid, sandbox) in std::mem::take(&mut self.adopted) {
            tracing::info!(uid, "removing the sandbox of a pod that has gone");
            let addresses = addresses_of(&sandbox);
            if let Err(error) = sandbox.remove().await {
                tracing::warn!(%error, uid, "removing a sandbox");
                // The next complete view of all pods is the next try.
                self.adopted.insert(uid, sandbox);
                continue;
            }
            self.shared.addresses.release(&addresses);
        }
        let keep: Vec<String> = self.orders.keys().cloned().collect();
        if let Err(error) = self.shared.addresses.collect_garbage(&keep) {
            tracing::warn!(error = error.chain(), "looking for stale links");
        }
        self.remove_stale_files().await;
    }

    /// Removes directories of pods that nobody knows any more.
    async fn remove_stale_files(&self) {
        let is_known = |name: &str| {
            let uid = name.rsplit('_').next().unwrap_or(name);
            self.orders.contains_key(uid)
        };
        for parent in ["pods", "logs"] {
            let entries = std::fs::read_dir(self.shared.directory.join(parent)).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| !is_known(&entry.file_name().to_string_lossy())) {
                if let Err(error) = crate::volume::remove(&entry.path()).await {
                    tracing::warn!(error = error.chain(), "removing the files of a pod that has gone");
                }
            }
        }
    }
}

async fn adopt(runtime: &Arc<runtime::Host>, addresses: &Addresses) -> Result<HashMap<String, Arc<Sandbox>>, Error> {
    let mut adopted = HashMap::new();
    for sandbox in runtime.adopt().await? {
        let annotations = &sandbox.spec().annotations;
        addresses.reserve(&addresses_of(&sandbox));
        let uid = annotations.get(annotation::POD_UID).cloned().unwrap_or_else(|| sandbox.id().to_owned());
        adopted.insert(uid, sandbox);
    }
    Ok(adopted)
}

/// What the sandbox was given when it was made; nothing, if it is in the machine's network.
pub(crate) fn addresses_of(sandbox: &Sandbox) -> Vec<IpAddr> {
    let told = sandbox.spec().annotations.get(annotation::ADDRESSES);
    told.into_iter().flat_map(|all| all.split(',')).filter_map(|address| address.parse().ok()).collect()
}

/// A field of an object, as text.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

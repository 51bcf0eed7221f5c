//! `podling up` and `podling server`: wires everything together in one process and runs it, with a node or without.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use client::cache::{Cache, Change};
use client::kubeconfig::{self, Entry, Kubeconfig};
use client::transport::Local;
use client::{Client, Patch, resource};
use control::signing::{self, Signing};
use network::{Backend, Ranges};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;
use wire::authority::{Authority, write_private};
use wire::identity::Credential;
use wire::listen::{Listener, Strangers};
use wire::{Identity, Service};

use crate::before::Before;
use crate::cluster::{self, Facts, Place, Role};
use crate::door::Door;
use crate::names::{Called, names};
use crate::own::Own;
use crate::progress::Progress;
use crate::signer::KeyHolder;
use crate::state::Home;
use crate::{moves, names, notify, signals, state, token, version};

/// The config map of kube-system by which joining nodes learn what they must know.
pub(crate) const CLUSTER_FACTS: &str = "podling-cluster";
/// After a signal to end, what is under way may take so long.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The options of `up`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Address the API server listens on; port 0 takes a free one. Other machines join at any but a loopback address
    /// [default: 127.0.0.1:6443, or where it listened before]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// A further name or address under which the API server is reached: of a load balancer, say (may be repeated)
    #[arg(long, value_name = "NAME", visible_alias = "tls-san")]
    advertise: Vec<String>,
    /// How long the certificates of nodes hold; they are renewed in time
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = cli::duration)]
    node_certificate_ttl: Duration,
    /// How long the certificates of this server and its administrator hold; they are renewed in time
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = cli::duration)]
    certificate_ttl: Duration,
    /// Range of the pods' addresses, of IPv4 or IPv6, or one of each with a comma between: then pods have both, and the first counts where
    /// only one can be told [default: the first of 10.42.0.0/16 … 10.127.0.0/16 that is free]
    #[arg(long, value_name = "CIDR[,CIDR]", value_parser = cluster::ranges)]
    pod_cidr: Option<Ranges>,
    /// Name of this node [default: the machine's name]
    #[arg(long, value_name = "NAME", value_parser = cluster::node_name)]
    node_name: Option<String>,
    /// Address by which others reach this node, or one of each family with a comma between [default: that of the default route's link, or
    /// the one it had before]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub(crate) node_ip: Vec<IpAddr>,
    /// File to write the kubeconfig into [default: merge it into ~/.kube/config as context podling]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Return once the node is Ready; the log goes to DIR/podling.log
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    state: state::Keeping,
    #[command(flatten)]
    ways: Ways,
    #[command(flatten)]
    registries: Registries,
    /// A node from which nothing is heard for so long is not ready (at least 2s)
    #[arg(long, value_name = "DURATION", default_value = "40s", value_parser = node_grace)]
    node_grace: Duration,
    /// The process was started by `up --detach`
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

/// How other nodes are reached.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Ways {
    /// The way to other nodes: route, vxlan, wireguard, or auto (a plain route to those on a shared link, VXLAN to all others)
    /// [default: what the cluster's server was started with, or auto]
    #[arg(long, value_name = "KIND", value_parser = backend)]
    pub(crate) backend: Option<Backend>,
}

pub(crate) fn backend(text: &str) -> Result<Backend, String> {
    match text {
        "auto" => Ok(Backend::Auto),
        "route" => Ok(Backend::Route),
        "vxlan" => Ok(Backend::Vxlan),
        "wireguard" => Ok(Backend::WireGuard),
        _ => Err("must be auto, route, vxlan or wireguard".to_owned()),
    }
}

/// Refuses the ways that this machine's kernel does not know.
pub(crate) fn ensure_known(backend: Backend) -> anyhow::Result<()> {
    if backend == Backend::WireGuard {
        ensure!(
            network::wireguard::is_there()?,
            "the kernel of this machine has no WireGuard: neither is it built in (CONFIG_WIREGUARD) nor is there a module `wireguard` to load. \
             Run another kernel, or choose --backend auto, route or vxlan for the whole cluster"
        );
    }
    Ok(())
}

/// Where images come from.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Registries {
    /// Speak plain HTTP with the registry at HOST:PORT (may be repeated)
    #[arg(long, value_name = "HOST:PORT")]
    plain_registry: Vec<String>,
    /// Believe registries that this authority vouches for (PEM)
    #[arg(long, value_name = "FILE")]
    registry_ca: Option<PathBuf>,
}

impl Registries {
    pub(crate) fn read(&self) -> anyhow::Result<runtime::image::Registries> {
        let authorities_pem = match &self.registry_ca {
            Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?),
            None => None,
        };
        Ok(runtime::image::Registries { authorities_pem, plain: self.plain_registry.clone() })
    }
}

/// Runs until the process is asked to end.
pub(crate) fn run(options: Options, role: Role, begun: Instant) -> anyhow::Result<()> {
    let (detached, place) = (options.detached, options.place.clone());
    let before = Before::of(&place);
    before.unless_done(&place, block_on(role, detached, serve(options, role, begun)))
}

/// Runs the work of a process that stays.
pub(crate) fn block_on(
    role: Role,
    detached: bool,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    ensure!(is_root, "podling {} makes namespaces, mounts and links: run it as root", role.verb());
    if detached {
        rustix::process::setsid().context("leaving the terminal's session")?;
    }
    start_log();
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(work);
    // Whatever still waits for a peer or a disk does not hold up the end.
    runtime.shutdown_background();
    result
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PODLING_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// The state of a cluster, and what outlives a run of it.
struct Opened {
    store: Arc<dyn store::Store>,
    lock: File,
    facts: Facts,
}

/// Opens the cluster of a directory, or makes one. `None` when the process is asked to end before that could be done.
async fn open(place: &Place, options: &Options, role: Role) -> anyhow::Result<Option<Opened>> {
    place.make()?;
    let known = place.facts()?;
    let home = state::home(&options.state, known.as_ref().map(|facts| &facts.store))?;
    let used = known.as_ref().filter(|facts| facts.kubeconfig.is_some());
    if let Some(facts) = used {
        state::ensure_unmoved(&home, place, facts)?;
        place.ensure_whole(facts)?;
    }
    let store = tokio::select! {
        ended = signals::ended() => return ended.map(|()| None),
        store = state::open(place, &home, used.is_some()) => store?,
    };
    let lock = place.occupy()?;
    if let Some(ranges) = options.pod_cidr.as_ref().filter(|_| known.is_none()) {
        cluster::ensure_free(ranges)?;
    }
    let shared = state::share(&*store, &home, place, known.as_ref(), options.pod_cidr.as_ref()).await?;
    let is_new = known.is_none();
    let facts = Facts { store: home, ..facts(place, known, options, role, shared.as_ref())? };
    // Before anything that can fail: whatever is made from here on can be purged.
    if is_new {
        place.keep(&facts)?;
    }
    if let Some((shared, _)) = &shared {
        shared.keep(place)?;
    }
    Ok(Some(Opened { store, lock, facts }))
}

async fn serve(options: Options, role: Role, begun: Instant) -> anyhow::Result<()> {
    cluster::ensure_own(&options.node_ip)?;
    if role == Role::Up {
        ensure_known(options.ways.backend.unwrap_or_default())?;
    }
    let progress = Progress::of("starting");
    let place = options.place.clone();
    let Some(opened) = open(&place, &options, role).await? else { return Ok(()) };
    let Opened { store, lock, mut facts } = opened;
    // Other servers may be at work on the same state.
    let is_one_of_several = facts.store != Home::Disk;
    let authority = Arc::new(authority(&place, &facts, options.certificate_ttl)?);
    let own = Own::new(authority.clone());
    let called = names(&facts)?;
    let listener = listen(&authority, &own, &options, &mut facts).await?;
    place.keep(&facts)?;
    let (stop, shutdown) = watch::channel(false);
    let door = Arc::new(Door::new(&authority, &own)?);
    let nodes = door.clone();
    let server = server::Server::new(server::Config { store: store.clone(), cluster: shown(&facts), nodes }).await?;
    let itself = local(&server, Identity::new("kube-apiserver", &["system:masters"]));
    door.look_up_with(itself.clone());
    let listening = tokio::spawn(listener.serve(server.clone(), shutdown.clone()));
    let control = control(&server, &authority, &options, called.clone());
    let election = is_one_of_several.then(|| election(&server, &facts));
    let controllers = tokio::spawn(control::run(control, election, shutdown.clone()));
    let published = tokio::spawn(publish(itself.clone(), facts.clone(), called.clone(), options.clone()));
    cluster::claim(&facts)?;
    let mut tasks = vec![controllers, listening];
    if role == Role::Up {
        if is_one_of_several {
            state::claim_name(&*store, &itself, &facts).await?;
        }
        // Other servers reach this node as they reach all others.
        let outer =
            if is_one_of_several { Some(node_listener(&authority, &own, &options, &facts).await?) } else { None };
        let port = outer.as_ref().map_or(Ok(facts.listen), Listener::address)?.port();
        let (addresses, moves) = watch::channel(cluster::node_addresses(&facts, &options.node_ip)?);
        let config = agent(&options, &place, &facts, port, moves, &server)?;
        let agent = node::Agent::start(config, shutdown.clone()).await?;
        if options.node_ip.is_empty() {
            let (host, families) = (facts.network()?, facts.pod_cidr.families().collect::<Vec<_>>());
            let right = facts.pod_cidr.clone();
            let choose = move || cluster::first_address(&right);
            tasks.push(tokio::spawn(moves::follow(host, addresses, families, choose, shutdown.clone())));
        }
        tasks.extend(outer.map(|outer| tokio::spawn(outer.serve(agent.service(), shutdown.clone()))));
        door.open(&facts.node_name, agent.service());
        mark(&itself, &facts.node_name).await?;
        tasks.push(tokio::spawn(keep_marked(itself.clone(), facts.node_name.clone(), shutdown.clone())));
        tasks.insert(0, tokio::spawn(agent.run(shutdown.clone())));
    }
    published.await.context("publishing what nodes must know")??;
    enter(&place, &options, &authority, &mut facts)?;
    keep_entered(&own, &place, &options, &facts);
    let called = Called { client: itself, facts: facts.clone(), options, own: own.clone(), names: called };
    tasks.push(tokio::spawn(called.follow(shutdown.clone())));
    tasks.push(tokio::spawn(own.run(shutdown)));
    drop(progress);
    let (name, listen, took) = (&facts.node_name, facts.listen, begun.elapsed().as_millis());
    match role {
        Role::Up => say!("node {name} is Ready after {took} ms; the API is at https://{listen}"),
        _ => say!("the API is at https://{listen} after {took} ms"),
    }
    notify::ready(&format!("the API is at https://{listen}"));
    signals::ended().await?;
    notify::stopping();
    stop.send_replace(true);
    end(tasks).await?;
    place.leave(lock);
    Ok(())
}

/// Waits for what is under way, but not for ever: who still waits for an etcd that is gone has waited enough, and what is on its way is repeated at
/// the next start.
async fn end(tasks: Vec<JoinHandle<()>>) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + LAST_WORDS;
    for task in tasks {
        match timeout_at(deadline, task).await {
            Ok(ended) => ended.context("ending")?,
            Err(_) => tracing::warn!("ending without what is still under way"),
        }
    }
    Ok(())
}

/// What the server says of itself.
fn shown(facts: &Facts) -> server::Cluster {
    server::Cluster {
        version: version::git_version(),
        commit: version::COMMIT.to_owned(),
        address: facts.listen.ip(),
        port: facts.listen.port(),
        service_address: None,
    }
}

fn authority(place: &Place, facts: &Facts, life: Duration) -> anyhow::Result<Authority> {
    let pki = place.file("pki");
    std::fs::create_dir_all(&pki).with_context(|| format!("making {}", pki.display()))?;
    Ok(Authority::open(&pki, &format!("podling-{}", facts.cluster()))?.with_life(life))
}

/// Where this node answers the servers on other machines.
async fn node_listener(authority: &Authority, own: &Own, options: &Options, facts: &Facts) -> anyhow::Result<Listener> {
    let identity = Identity::new(format!("system:node:{}", facts.node_name), &["system:nodes"]);
    let (then, asked_for) = (facts.clone(), options.clone());
    let keys = own.keys(move |authority| {
        let now = names::current(&then, &asked_for);
        authority.server(&identity, &[now.node_name, now.node_address.to_string()])
    })?;
    let address = match (options.node_ip.is_empty(), facts.node_address) {
        (false, address) => address,
        // The node's address may become another one.
        (true, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (true, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = SocketAddr::from((address, 0));
    Ok(Listener::bind_with(address, keys, authority.certificate_pem(), Strangers::Refused).await?)
}

/// How this server takes part in the choice of the one that runs the controllers.
fn election(server: &Arc<server::Server>, facts: &Facts) -> control::leader::Election {
    let client = local(server, Identity::new("system:kube-controller-manager", &[]));
    control::leader::Election { client, identity: format!("{}_{}", facts.node_name, facts.id) }
}

/// What the scheduler and the controllers need. No node may be called as the API server is.
fn control(
    server: &Arc<server::Server>,
    authority: &Arc<Authority>,
    options: &Options,
    reserved: Vec<String>,
) -> control::Config {
    let signer = Arc::new(KeyHolder(authority.clone()));
    control::Config {
        scheduler: local(server, Identity::new("system:kube-scheduler", &[])),
        controllers: local(server, Identity::new("system:kube-controller-manager", &[])),
        authority_pem: authority.certificate_pem().to_owned(),
        node_grace: options.node_grace,
        signing: Some(Signing {
            signer,
            life: options.node_certificate_ttl,
            reserved,
            others: resource::CONFIG_MAPS.object(Some("kube-system"), CLUSTER_FACTS),
        }),
    }
}

/// Tells joining nodes what they must know of the cluster, and those that sign for nodes what this server is called.
pub(crate) async fn publish(
    client: Client,
    facts: Facts,
    names: Vec<String>,
    options: Options,
) -> Result<(), client::Error> {
    let (grace, backend) = (options.node_grace.as_secs().to_string(), options.ways.backend.unwrap_or_default());
    let mut data =
        json!({"id": facts.cluster(), "podCIDR": facts.pod_cidr, "nodeGraceSeconds": grace, "backend": backend});
    data[format!("{}{}", signing::NAMES, facts.id)] = names.join(",").into();
    data[format!("{}{}", token::URLS, facts.id)] = token::url(&facts).into();
    let is_told =
        |present: &Value| data.as_object().into_iter().flatten().all(|(key, value)| present["data"][key] == *value);
    let path = resource::CONFIG_MAPS.object(Some("kube-system"), CLUSTER_FACTS);
    match client.get(&path).await {
        Ok(present) if is_told(&present) => Ok(()),
        Ok(_) => client.patch(&path, Patch::Merge, &json!({"data": data})).await.map(drop),
        Err(error) if error.is_not_found() => {
            let map =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CLUSTER_FACTS}, "data": data});
            client.create(&resource::CONFIG_MAPS.collection(Some("kube-system")), &map).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Gives the server's own node its role, which no node may give itself.
async fn mark(client: &Client, node: &str) -> Result<(), client::Error> {
    let path = resource::NODES.object(None, node);
    let patch = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    client.patch(&path, Patch::Merge, &patch).await.map(drop)
}

/// Marks the node's object again when it is another: somebody has deleted it, and the agent has made it anew.
async fn keep_marked(client: Client, node: String, shutdown: watch::Receiver<bool>) {
    let own = vec![("fieldSelector".to_owned(), format!("metadata.name={node}"))];
    let (_nodes, mut changes) = Cache::start(client.clone(), resource::NODES.collection(None), own, shutdown);
    let mut marked = None;
    while let Some(change) = changes.recv().await {
        let Change::Set(object) = change else { continue };
        let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
        if marked.as_ref().is_some_and(|marked| *marked != uid)
            && let Err(error) = mark(&client, &node).await
        {
            tracing::warn!(%error, "giving the node its role");
        }
        marked = Some(uid);
    }
}

/// Shorter, and a busy machine would seem lost.
const LEAST_GRACE: Duration = Duration::from_secs(2);

fn node_grace(text: &str) -> Result<Duration, String> {
    let grace = cli::duration(text)?;
    if grace < LEAST_GRACE { Err("must be at least 2s".to_owned()) } else { Ok(grace) }
}

/// The facts of this cluster: those of the last run where the options say nothing else.
fn facts(
    place: &Place,
    known: Option<Facts>,
    options: &Options,
    role: Role,
    shared: Option<&(state::Shared, bool)>,
) -> anyhow::Result<Facts> {
    let mut facts = match known {
        Some(facts) => facts,
        None => new_facts(options, role, shared)?,
    };
    if let Some((shared, _)) = shared {
        (facts.pod_cidr, facts.shared) = (shared.pod_cidr.clone(), Some(shared.id.clone()));
    }
    let (directory, known) = (place.data_dir.display(), facts.role);
    ensure!(known != Role::Node, "{directory} is that of a node: `podling join` resumes it, `podling leave` ends it");
    facts.role = role;
    if let Some(range) = options.pod_cidr.as_ref().filter(|range| **range != facts.pod_cidr) {
        bail!(
            "the cluster in {} has the range {}; {range} would need a new one: `podling down --purge` first",
            place.data_dir.display(),
            facts.pod_cidr
        );
    }
    if let Some(name) = options.node_name.as_ref().filter(|name| **name != facts.node_name) {
        bail!("the node of the cluster in {} is called {}, not {name}", place.data_dir.display(), facts.node_name);
    }
    facts.node_address = node_address(options, &facts.pod_cidr, Some(facts.node_address))?;
    facts.listen = options.listen.unwrap_or(facts.listen);
    if !options.advertise.is_empty() {
        facts.advertise.clone_from(&options.advertise);
    }
    Ok(facts)
}

fn new_facts(options: &Options, role: Role, shared: Option<&(state::Shared, bool)>) -> anyhow::Result<Facts> {
    // Who has made the cluster goes by its id; who comes later has one of its own.
    let id = match shared {
        Some((shared, true)) => shared.id.clone(),
        _ => cluster::new_id()?,
    };
    let node_name = options.node_name.clone().map_or_else(machine_name, Ok)?;
    let pod_cidr = match shared {
        Some((shared, _)) => shared.pod_cidr.clone(),
        None => options.pod_cidr.clone().map_or_else(|| cluster::claim_free_range(&id), Ok)?,
    };
    let node_address = node_address(options, &pod_cidr, None)?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 6443));
    let (kubeconfig, advertise, joined) = (None, Vec::new(), None);
    let (store, shared) = (Home::Disk, None);
    Ok(Facts { id, pod_cidr, node_name, node_address, listen, kubeconfig, role, advertise, joined, store, shared })
}

/// The node's first address: the one it had, for as long as the machine has it.
pub(crate) fn node_address(options: &Options, ranges: &Ranges, before: Option<IpAddr>) -> anyhow::Result<IpAddr> {
    if let Some(address) = options.node_ip.first() {
        return Ok(*address);
    }
    let own = network::addresses().context("listing the machine's addresses")?;
    let chosen = before.filter(|address| own.contains(address));
    chosen.map_or_else(|| cluster::first_address(ranges), Ok)
}

pub(crate) fn machine_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the machine's name")?;
    let name = name.trim().to_ascii_lowercase();
    let is_fine = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'));
    ensure!(is_fine, "the machine's name \"{name}\" is no node name: give one with --node-name");
    Ok(name)
}

async fn listen(authority: &Authority, own: &Own, options: &Options, facts: &mut Facts) -> anyhow::Result<Listener> {
    let (then, options, first) = (facts.clone(), options.clone(), names(facts)?);
    let keys = own.keys(move |authority| {
        // Made anew, it says what the machine is called then.
        let now = names(&names::current(&then, &options)).unwrap_or_else(|_| first.clone());
        authority.server(&Identity::new("kube-apiserver", &[]), &now)
    })?;
    let pem = authority.certificate_pem();
    let listener = Listener::bind_with(facts.listen, keys, pem, Strangers::Served).await?;
    facts.listen = listener.address()?;
    Ok(listener)
}

fn local(server: &Arc<server::Server>, identity: Identity) -> Client {
    let agent = identity.user.trim_start_matches("system:").split(':').next().unwrap_or("podling").to_owned();
    let service: Arc<dyn Service> = server.clone();
    Client::new(Arc::new(Local::new(service, identity)), &agent)
}

fn agent(
    options: &Options,
    place: &Place,
    facts: &Facts,
    port: u16,
    node_addresses: watch::Receiver<Vec<IpAddr>>,
    server: &Arc<server::Server>,
) -> anyhow::Result<node::Config> {
    let registries = options.registries.read()?;
    let identity = Identity::new(format!("system:node:{}", facts.node_name), &["system:nodes"]);
    Ok(node::Config {
        node_name: facts.node_name.clone(),
        node_addresses,
        client: local(server, identity),
        runtime: facts.runtime(place)?,
        images: Arc::new(cluster::images(place, registries)?),
        network: facts.network()?,
        ranges: facts.pod_cidr.clone(),
        directory: place.file("node"),
        version: version::git_version(),
        port,
        grace: options.node_grace,
        vni: network::mesh::vni(facts.cluster()),
        backend: options.ways.backend.unwrap_or_default(),
    })
}

/// Writes the administrator's kubeconfig: beside the state, and where people's clients look.
fn enter(place: &Place, options: &Options, authority: &Authority, facts: &mut Facts) -> anyhow::Result<()> {
    let credential = administrator(place, authority)?;
    let server = server_url(facts.listen);
    let entry =
        |name| Entry { name, server: &server, authority_pem: authority.certificate_pem(), credential: &credential };
    let mut own = Kubeconfig::read(&place.file("no-such-file"))?.at(place.file("kubeconfig"));
    own.set(&entry("podling"));
    own.write()?;
    let path = options.kubeconfig.clone().unwrap_or_else(kubeconfig::default_path);
    let mut shared = Kubeconfig::read(&path)?;
    let is_taken = shared.authority("podling").is_some_and(|pem| pem != authority.certificate_pem());
    let name = if is_taken { format!("podling-{}", facts.cluster()) } else { "podling".to_owned() };
    shared.set(&entry(&name));
    shared.write()?;
    let path = std::path::absolute(&path)?;
    facts.kubeconfig = Some((path, name));
    place.keep(facts)
}

/// Writes it again whenever the certificates are made anew.
fn keep_entered(own: &Own, place: &Place, options: &Options, facts: &Facts) {
    let (place, options, facts) = (place.clone(), options.clone(), facts.clone());
    own.also(move |authority| enter(&place, &options, authority, &mut facts.clone()));
}

/// The administrator's certificate; made anew with each start and in time, so that it never runs out while the cluster is used.
fn administrator(place: &Place, authority: &Authority) -> anyhow::Result<Credential> {
    let credential = authority.client(&Identity::new("kubernetes-admin", &["system:masters"]))?;
    let pki = place.file("pki");
    write_private(&pki.join("admin.crt"), credential.certificate_pem.as_bytes())?;
    write_private(&pki.join("admin.key"), credential.key_pem.as_bytes())?;
    Ok(credential)
}

/// Where clients on this machine reach the API: a listener on all addresses is reached on loopback.
fn server_url(listen: SocketAddr) -> String {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        let loopback: IpAddr =
            if listen.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    format!("https://{address}")
}

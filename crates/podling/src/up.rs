//! `podling up`: wires everything together in one process and runs it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use client::Client;
use client::kubeconfig::{self, Entry, Kubeconfig};
use client::transport::Local;
use ipnet::Ipv4Net;
use tokio::sync::watch;
use wire::authority::{Authority, write_private};
use wire::identity::Credential;
use wire::listen::Listener;
use wire::{Identity, Service};

use crate::cluster::{self, Facts, Place};
use crate::door::LocalDoor;
use crate::progress::Progress;
use crate::{process, signals, version};

/// A process that is about to end lets the store go within this time.
const PREDECESSOR_DEADLINE: Duration = Duration::from_secs(1);

/// The options of `up`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Address the API server listens on; port 0 takes a free one [default: 127.0.0.1:6443, or where it listened before]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Range of the pods' addresses [default: the first of 10.42.0.0/16 … 10.127.0.0/16 that is free]
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<Ipv4Net>,
    /// Name of this node [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// File to write the kubeconfig into [default: merge it into ~/.kube/config as context podling]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Return once the node is Ready; the log goes to DIR/podling.log
    #[arg(long)]
    pub(crate) detach: bool,
    /// Speak plain HTTP with the registry at HOST:PORT (may be repeated)
    #[arg(long, value_name = "HOST:PORT")]
    plain_registry: Vec<String>,
    /// Believe registries that this authority vouches for (PEM)
    #[arg(long, value_name = "FILE")]
    registry_ca: Option<PathBuf>,
    /// A node from which nothing is heard for so long is not ready (at least 2s)
    #[arg(long, value_name = "DURATION", default_value = "40s", value_parser = node_grace)]
    node_grace: Duration,
    /// The process was started by `up --detach`
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

/// Runs until the process is asked to end.
pub(crate) fn run(options: Options, begun: Instant) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "podling up makes namespaces, mounts and links: run it as root");
    if options.detached {
        rustix::process::setsid().context("leaving the terminal's session")?;
    }
    start_log();
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(serve(options, begun));
    // Whatever still waits for a peer or a disk does not hold up the end.
    runtime.shutdown_background();
    result
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PODLING_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

async fn serve(options: Options, begun: Instant) -> anyhow::Result<()> {
    let progress = Progress::of("starting");
    let place = options.place.clone();
    place.make()?;
    if let Some(facts) = place.facts()? {
        place.ensure_whole(&facts)?;
    }
    let store = open_store(&place).await?;
    let lock = place.occupy()?;
    let mut facts = facts(&place, &options)?;
    // Before anything that can fail: whatever is made from here on can be purged.
    if place.facts()?.is_none() {
        place.keep(&facts)?;
    }
    let pki = place.file("pki");
    std::fs::create_dir_all(&pki).with_context(|| format!("making {}", pki.display()))?;
    let authority = Authority::open(&pki, &format!("podling-{}", facts.id))?;
    let listener = listen(&authority, &mut facts).await?;
    place.keep(&facts)?;
    let (stop, shutdown) = watch::channel(false);
    let door = Arc::new(LocalDoor::default());
    let server = server::Server::new(server::Config {
        store: Arc::new(store),
        cluster: server::Cluster {
            version: version::git_version(),
            commit: version::COMMIT.to_owned(),
            address: facts.listen.ip(),
            port: facts.listen.port(),
            service_address: None,
        },
        nodes: door.clone(),
    })
    .await?;
    let listening = tokio::spawn(listener.serve(server.clone(), shutdown.clone()));
    let control = control::Config {
        scheduler: local(&server, Identity::new("system:kube-scheduler", &[])),
        controllers: local(&server, Identity::new("system:kube-controller-manager", &[])),
        authority_pem: authority.certificate_pem().to_owned(),
        node_grace: options.node_grace,
    };
    let controllers = tokio::spawn(control::run(control, shutdown.clone()));
    let agent_config = agent(&options, &place, &facts, &server)?;
    cluster::claim(&facts)?;
    let agent = node::Agent::start(agent_config, shutdown.clone()).await?;
    door.open(&facts.node_name, agent.service());
    let running = tokio::spawn(agent.run(shutdown));
    enter(&place, &options, &authority, &mut facts)?;
    drop(progress);
    let (name, listen) = (&facts.node_name, facts.listen);
    say!("node {name} is Ready after {} ms; the API is at https://{listen}", begun.elapsed().as_millis());
    signals::ended().await?;
    stop.send_replace(true);
    for task in [running, controllers, listening] {
        task.await.context("ending")?;
    }
    place.leave(lock);
    Ok(())
}

/// Shorter, and a busy machine would seem lost.
const LEAST_GRACE: Duration = Duration::from_secs(2);

fn node_grace(text: &str) -> Result<Duration, String> {
    let grace = cli::duration(text)?;
    if grace < LEAST_GRACE { Err("must be at least 2s".to_owned()) } else { Ok(grace) }
}

/// Opens the store. One that a process holds which is just ending, as after a `kill -9`, is waited for.
async fn open_store(place: &Place) -> anyhow::Result<store::Disk> {
    let open = || store::Disk::open(store::Config::new(place.file("store")));
    match (open(), place.process()) {
        (Err(store::Error::Busy { .. }), Some(pid)) => {
            if !process::has_ended(pid, PREDECESSOR_DEADLINE).await? {
                bail!("a cluster runs in {} already (process {pid})", place.data_dir.display());
            }
        }
        (result, _) => return Ok(result?),
    }
    Ok(open()?)
}

/// The facts of this cluster: those of the last run where the options say nothing else.
fn facts(place: &Place, options: &Options) -> anyhow::Result<Facts> {
    let known = place.facts()?;
    let mut facts = match known {
        Some(facts) => facts,
        None => new_facts(options)?,
    };
    if let Some(range) = options.pod_cidr.filter(|range| *range != facts.pod_cidr) {
        bail!(
            "the cluster in {} has the range {}; {range} would need a new one: `podling down --purge` first",
            place.data_dir.display(),
            facts.pod_cidr
        );
    }
    if let Some(name) = options.node_name.as_ref().filter(|name| **name != facts.node_name) {
        bail!("the node of the cluster in {} is called {}, not {name}", place.data_dir.display(), facts.node_name);
    }
    facts.listen = options.listen.unwrap_or(facts.listen);
    Ok(facts)
}

fn new_facts(options: &Options) -> anyhow::Result<Facts> {
    let id = cluster::new_id()?;
    let node_name = options.node_name.clone().map_or_else(machine_name, Ok)?;
    let node_address = network::node_address().context("finding the machine's address")?;
    let pod_cidr = options.pod_cidr.map_or_else(|| cluster::claim_free_range(&id), Ok)?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 6443));
    Ok(Facts { id, pod_cidr, node_name, node_address, listen, kubeconfig: None })
}

fn machine_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the machine's name")?;
    let name = name.trim().to_ascii_lowercase();
    let is_fine = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'));
    ensure!(is_fine, "the machine's name \"{name}\" is no node name: give one with --node-name");
    Ok(name)
}

async fn listen(authority: &Authority, facts: &mut Facts) -> anyhow::Result<Listener> {
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        &facts.node_name,
        &facts.node_address.to_string(),
        &facts.listen.ip().to_string(),
    ];
    let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    let credential = authority.server(&Identity::new("kube-apiserver", &[]), &names)?;
    let listener = Listener::bind(facts.listen, &credential, authority.certificate_pem()).await?;
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
    server: &Arc<server::Server>,
) -> anyhow::Result<node::Config> {
    let authorities_pem = match &options.registry_ca {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?),
        None => None,
    };
    let registries = runtime::image::Registries { authorities_pem, plain: options.plain_registry.clone() };
    let identity = Identity::new(format!("system:node:{}", facts.node_name), &["system:nodes"]);
    Ok(node::Config {
        node_name: facts.node_name.clone(),
        node_address: facts.node_address,
        client: local(server, identity),
        runtime: facts.runtime(place)?,
        images: Arc::new(cluster::images(place, registries)?),
        network: facts.network()?,
        block: facts.pod_cidr,
        directory: place.file("node"),
        version: version::git_version(),
        port: facts.listen.port(),
        grace: options.node_grace,
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
    let name = if is_taken { format!("podling-{}", facts.id) } else { "podling".to_owned() };
    shared.set(&entry(&name));
    shared.write()?;
    let path = std::path::absolute(&path)?;
    facts.kubeconfig = Some((path, name));
    place.keep(facts)
}

/// The administrator's certificate; made anew with each start, so that it never runs out while the cluster is used.
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

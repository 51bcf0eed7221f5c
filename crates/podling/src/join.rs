//! `podling join`: makes this machine a node of a cluster whose API server is elsewhere, and runs the node.

mod enroll;
mod presence;
mod renew;
mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use client::Client;
use client::transport::Several;
use http::Uri;
use network::Ranges;
use tokio::sync::watch;
use wire::authority::{Usage, write_private};
use wire::dial::{Dialer, Trust};
use wire::identity::Credential;
use wire::keys::Keys;
use wire::listen::{Listener, Strangers};

use crate::before::Before;
use crate::cluster::{self, Facts, Joined, Place, Role};
use crate::progress::Progress;
use crate::state::Home;
use crate::token::{self, Token};
use crate::up::{Registries, Ways, backend, block_on, ensure_known, machine_name};
use crate::{install, moves, notify, signals, version};
use presence::Presence;
use renew::Renewal;

/// The options of `join`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Options {
    /// The cluster's API server: https://HOST:PORT, or several of them with commas between [default: what was joined before]
    #[arg(value_name = "SERVER", value_delimiter = ',', value_parser = server_url)]
    servers: Vec<String>,
    #[command(flatten)]
    pub(crate) place: Place,
    /// What `podling token create` printed on the server; needed once
    #[arg(long, value_name = "TOKEN")]
    token: Option<Token>,
    /// Name of this node [default: the machine's name]
    #[arg(long, value_name = "NAME", value_parser = cluster::node_name)]
    node_name: Option<String>,
    /// Address by which others reach this node, or one of each family with a comma between [default: the one that leads to the server]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Port on which the node answers the API server [default: a free one, or the one it had before]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Return once the node is Ready; the log goes to DIR/podling.log
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    ways: Ways,
    #[command(flatten)]
    registries: Registries,
    /// The process was started by `join --detach`
    #[arg(long, hide = true)]
    detached: bool,
}

/// Runs until the process is asked to end.
pub(crate) fn run(options: Options, begun: Instant) -> anyhow::Result<()> {
    let (detached, place) = (options.detached, options.place.clone());
    let before = Before::of(&place);
    before.unless_done(&place, block_on(Role::Node, detached, serve(options, begun)))
}

/// What a node has of its own.
pub(crate) struct Membership {
    /// A way to the API as the node.
    pub(crate) client: Client,
    authority_pem: String,
    credential: Credential,
    keys: Arc<Keys>,
    trust: Trust,
}

async fn serve(mut options: Options, begun: Instant) -> anyhow::Result<()> {
    if options.token.is_none() {
        options.token = token_of_service()?;
    }
    cluster::ensure_own(&options.node_ip)?;
    options.ways.backend.map_or(Ok(()), ensure_known)?;
    let progress = Progress::of("joining");
    let place = options.place.clone();
    place.make()?;
    if let Some(pid) = place.process() {
        bail!("a node runs in {} already (process {pid})", place.data_dir.display());
    }
    let lock = place.occupy()?;
    let mut facts = match place.facts()? {
        Some(facts) => resumed(&place, &options, facts)?,
        None => enter(&place, &options).await?,
    };
    let member = membership(&place, &facts)?;
    tokio::select! {
        ended = signals::ended() => return ended,
        told = await_server(&member.client, &mut facts) => told?,
    }
    let ways = facts.joined.as_ref().map(|joined| joined.backend).unwrap_or_default();
    ensure_known(options.ways.backend.unwrap_or(ways))?;
    let (stop, shutdown) = watch::channel(false);
    let own = cluster::node_addresses(&facts, &options.node_ip)?;
    let names = renew::names(&facts.node_name, &own);
    let (serving, serving_keys) = serving(&place, &facts, &member, &names).await?;
    let listener =
        Listener::bind_with(facts.listen, serving_keys.clone(), &member.authority_pem, Strangers::Refused).await?;
    facts.listen = listener.address()?;
    place.keep(&facts)?;
    cluster::claim(&facts)?;
    let (addresses, moves) = watch::channel(own);
    let config = agent(&options, &place, &facts, &member, moves.clone())?;
    let agent = node::Agent::start(config, shutdown.clone()).await?;
    let presence = Presence {
        place: place.clone(),
        facts: facts.clone(),
        service: agent.service(),
        keys: serving_keys.clone(),
        authority_pem: member.authority_pem.clone(),
        dialer: Dialer::new(&member.trust)?,
        reception: listener.reception(agent.service()),
    };
    let present = tokio::spawn(presence.run(listener, moves.clone(), shutdown.clone()));
    let following = tokio::spawn(follow(&options, &facts, addresses, shutdown.clone())?);
    let renewal = |usage, addresses, file: &str, keys: &Arc<Keys>| Renewal {
        client: member.client.clone(),
        node: facts.node_name.clone(),
        usage,
        addresses,
        file: pki(&place).join(file),
        keys: keys.clone(),
    };
    let own = renewal(Usage::Client, None, OWN, &member.keys).run(member.credential.clone(), shutdown.clone());
    let others = renewal(Usage::Server, Some(moves), SERVING, &serving_keys).run(serving, shutdown.clone());
    let renewing = [tokio::spawn(own), tokio::spawn(others)];
    let running = tokio::spawn(agent.run(shutdown));
    drop(progress);
    let server = facts.joined.as_ref().map(Joined::shown).unwrap_or_default();
    say!("node {} is Ready after {} ms; it belongs to {server}", facts.node_name, begun.elapsed().as_millis());
    notify::ready(&format!("node {} is Ready; it belongs to {server}", facts.node_name));
    signals::ended().await?;
    notify::stopping();
    stop.send_replace(true);
    for task in [running, present, following].into_iter().chain(renewing) {
        task.await.context("ending")?;
    }
    place.leave(lock);
    Ok(())
}

/// Follows the machine's address, unless the node was told one.
fn follow(
    options: &Options,
    facts: &Facts,
    addresses: watch::Sender<Vec<IpAddr>>,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let host = options.node_ip.is_empty().then(|| facts.network()).transpose()?;
    let servers = facts.joined.as_ref().map(|joined| joined.servers.clone()).unwrap_or_default();
    let families = facts.pod_cidr.families().collect();
    Ok(async move {
        if let Some(host) = host {
            moves::follow(host, addresses, families, || address_towards(&servers), shutdown).await;
        }
    })
}

/// The token that a service was installed with: no word of the process, which everybody on the machine could read.
fn token_of_service() -> anyhow::Result<Option<Token>> {
    let Ok(text) = std::env::var(install::TOKEN) else { return Ok(None) };
    text.parse().map(Some).map_err(|error: String| anyhow::anyhow!("{}: {error}", install::TOKEN))
}

/// A server that does not answer is asked again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// The node's own certificate with its key, the one it listens with, and the authority's.
const OWN: &str = "node.pem";
const SERVING: &str = "serving.pem";
const AUTHORITY: &str = "ca.crt";

fn pki(place: &Place) -> PathBuf {
    place.file("pki")
}

/// A node that joined before goes on as what it was.
fn resumed(place: &Place, options: &Options, mut facts: Facts) -> anyhow::Result<Facts> {
    let directory = place.data_dir.display();
    ensure!(facts.role == Role::Node, "{directory} is that of a server: `podling {}` resumes it", facts.role.verb());
    let leave = "`podling leave` first, or name another --data-dir";
    if let Some(token) = &options.token {
        let authority = read_authority(place)?;
        let known = token::digest(&wire::identity::certificates(&authority)?[0]);
        ensure!(known == token.digest, "{directory} is that of a node of another cluster: {leave}");
    }
    if let Some(name) = options.node_name.as_ref().filter(|name| **name != facts.node_name) {
        bail!("the node in {directory} is called {}, not {name}: {leave}", facts.node_name);
    }
    if let Some(joined) = facts.joined.as_mut().filter(|_| !options.servers.is_empty()) {
        joined.servers.clone_from(&options.servers);
    }
    facts.node_address = match options.node_ip.first() {
        Some(address) => *address,
        None => address_towards(facts.joined.as_ref().map_or(&[][..], |joined| &joined.servers))?,
    };
    facts.listen = SocketAddr::from((facts.node_address, options.port.unwrap_or(facts.listen.port())));
    place.keep(&facts)?;
    Ok(facts)
}

/// Waits until the server answers, however long that takes: the pods of this machine run on meanwhile. What it says of the cluster now counts.
async fn await_server(client: &Client, facts: &mut Facts) -> anyhow::Result<()> {
    let mut has_told = false;
    loop {
        match enroll::facts(client, None).await {
            Ok(told) => {
                let grace = told["nodeGraceSeconds"].as_str().and_then(|text| text.parse().ok());
                if let Some(joined) = &mut facts.joined {
                    joined.grace_seconds = grace.unwrap_or(joined.grace_seconds);
                    joined.backend = told["backend"].as_str().map_or(Ok(joined.backend), backend).unwrap_or_default();
                }
                return Ok(());
            }
            Err(error) if !enroll::may_pass(&error) => return Err(error),
            Err(error) if !std::mem::replace(&mut has_told, true) => {
                tracing::warn!("waiting for the server: {error:#}");
                notify::status("waiting for the server");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The first time: everything that needs the token.
async fn enter(place: &Place, options: &Options) -> anyhow::Result<Facts> {
    let servers = options.servers.clone();
    ensure!(!servers.is_empty(), "name the server to join: https://HOST:PORT");
    let token =
        options.token.as_ref().context("joining needs --token: `podling token create` on the server makes one")?;
    let node_name = options.node_name.clone().map_or_else(machine_name, Ok)?;
    let (server, authority_pem) = enroll::meet(&servers, token).await?;
    let client = enroll::stranger(&server, &authority_pem, token)?;
    enroll::compare_clocks(&client, &server, token).await?;
    let told = enroll::facts(&client, Some(token)).await?;
    let told_ranges = told["podCIDR"].as_str().unwrap_or_default().parse::<Ranges>();
    let pod_cidr = told_ranges.map_err(|error| anyhow::anyhow!("reading the cluster's range: {error}"))?;
    cluster::ensure_free(&pod_cidr)?;
    // Before the cluster knows of this machine.
    let ways = told["backend"].as_str().map_or(Ok(network::Backend::default()), backend).unwrap_or_default();
    ensure_known(options.ways.backend.unwrap_or(ways))?;
    let credential = enroll::certificate(&client, &node_name, Usage::Client, &[], Some(token)).await?;
    let node_address = options.node_ip.first().copied().map_or_else(|| address_towards(&servers), Ok)?;
    let joined = Joined {
        servers,
        cluster: told["id"].as_str().unwrap_or_default().to_owned(),
        grace_seconds: told["nodeGraceSeconds"].as_str().and_then(|text| text.parse().ok()).unwrap_or(40),
        backend: network::Backend::default(),
    };
    let facts = Facts {
        id: cluster::new_id()?,
        pod_cidr,
        node_name,
        node_address,
        listen: SocketAddr::from((node_address, options.port.unwrap_or(0))),
        kubeconfig: None,
        role: Role::Node,
        advertise: Vec::new(),
        joined: Some(joined),
        store: Home::Disk,
        shared: None,
    };
    let pki = pki(place);
    std::fs::create_dir_all(&pki).with_context(|| format!("making {}", pki.display()))?;
    write_private(&pki.join(AUTHORITY), authority_pem.as_bytes())?;
    enroll::write(&pki.join(OWN), &credential)?;
    place.keep(&facts)?;
    Ok(facts)
}

/// The address of this machine on its way to the first of the servers whose name means something.
fn address_towards(servers: &[String]) -> anyhow::Result<IpAddr> {
    let mut failed = None;
    for server in servers {
        match address_towards_one(server) {
            Ok(address) => return Ok(address),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.context("this node knows no server: name one")?)
}

fn address_towards_one(server: &str) -> anyhow::Result<IpAddr> {
    let uri: Uri = server.parse().with_context(|| format!("reading the server's address \"{server}\""))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let doing = || format!("finding the way to {host}");
    let mut failed = None;
    for server in (host, uri.port_u16().unwrap_or(6443)).to_socket_addrs().with_context(doing)? {
        match own_end(server) {
            Ok(IpAddr::V6(address)) if address.is_unicast_link_local() => {}
            Ok(address) => return Ok(address),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(error).with_context(doing),
        None => bail!("the way to {host} begins at an address of the link only: name another with --node-ip"),
    }
}

/// Where a connection would begin. Nothing is sent: the kernel only chooses the way.
fn own_end(server: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

/// A server as it is written on the command line.
fn server_url(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) if !host.is_empty() => {
            // Without a port, the usual one is meant, not that of web pages.
            let port = if uri.port().is_none() { ":6443" } else { "" };
            Ok(format!("{}{port}", text.trim_end_matches('/')))
        }
        _ => Err("the server's address is https://HOST:PORT".to_owned()),
    }
}

fn read_authority(place: &Place) -> anyhow::Result<String> {
    let path = pki(place).join(AUTHORITY);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// What the node of a directory has.
pub(crate) fn membership(place: &Place, facts: &Facts) -> anyhow::Result<Membership> {
    let joined = facts.joined.as_ref().context("this node has joined no cluster")?;
    let credential = enroll::read(&pki(place).join(OWN))?.context("this node has lost its certificate")?;
    let (_, until) = credential.validity()?;
    if until < SystemTime::now() {
        bail!(
            "the certificate of node {0} has run out: `podling down --purge` here, `kubectl delete node {0}` there, and join \
             again with a token",
            facts.node_name
        );
    }
    let authority_pem = read_authority(place)?;
    let keys = Keys::new(&credential)?;
    let trust = Trust { authorities_pem: Some(authority_pem.clone()), keys: Some(keys.clone()), ..Trust::default() };
    // Even if it is one: a connection that has become silent, as when an address was lost, is given up within seconds.
    let client = Client::new(Arc::new(Several::new(&joined.servers, &facts.node_name, &trust)?), "podling");
    Ok(Membership { client, authority_pem, credential, keys, trust })
}

/// The certificate that the node listens with: the one it has, or a new one if its addresses have changed or its time is over.
async fn serving(
    place: &Place,
    facts: &Facts,
    member: &Membership,
    names: &[String],
) -> anyhow::Result<(Credential, Arc<Keys>)> {
    let path = pki(place).join(SERVING);
    let is_good = |credential: &Credential| {
        let names_fit = credential.names().is_ok_and(|held| held == names);
        names_fit && credential.validity().is_ok_and(|(_, until)| until > SystemTime::now())
    };
    let credential = match enroll::read(&path)?.filter(is_good) {
        Some(credential) => credential,
        None => {
            let made = enroll::certificate(&member.client, &facts.node_name, Usage::Server, names, None).await?;
            enroll::write(&path, &made)?;
            made
        }
    };
    let keys = Keys::new(&credential)?;
    Ok((credential, keys))
}

fn agent(
    options: &Options,
    place: &Place,
    facts: &Facts,
    member: &Membership,
    node_addresses: watch::Receiver<Vec<IpAddr>>,
) -> anyhow::Result<node::Config> {
    let joined = facts.joined.as_ref().context("this node has joined no cluster")?;
    Ok(node::Config {
        node_name: facts.node_name.clone(),
        node_addresses,
        client: member.client.clone(),
        runtime: facts.runtime(place)?,
        images: Arc::new(cluster::images(place, options.registries.read()?)?),
        network: facts.network()?,
        ranges: facts.pod_cidr.clone(),
        directory: place.file("node"),
        version: version::git_version(),
        port: facts.listen.port(),
        grace: Duration::from_secs(joined.grace_seconds),
        vni: network::mesh::vni(&joined.cluster),
        backend: options.ways.backend.unwrap_or(joined.backend),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_people_write_them() {
        assert_eq!(server_url("https://a").as_deref(), Ok("https://a:6443"));
        assert_eq!(server_url("https://192.0.2.1:7443/").as_deref(), Ok("https://192.0.2.1:7443"));
        assert_eq!(server_url("https://[2001:db8::1]").as_deref(), Ok("https://[2001:db8::1]:6443"));
        for bad in ["http://a:6443", "a:6443", "a", "", "https://"] {
            assert!(server_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_that_joined_one_server_still_knows_it() {
        let joined = |server: &str| -> Joined {
            serde_json::from_str(&format!("{{{server}, \"cluster\": \"12345678\", \"grace_seconds\": 40}}"))
                .expect("facts")
        };
        let one = joined("\"server\": \"https://a:6443\"");
        assert_eq!(one.shown(), "https://a:6443");
        let two = joined("\"servers\": [\"https://a:6443\", \"https://b:6443\"]");
        assert_eq!(two.shown(), "https://a:6443,https://b:6443");
        let again: Joined = serde_json::from_value(serde_json::to_value(&two).expect("JSON")).expect("facts");
        assert_eq!(again, two);
    }
}

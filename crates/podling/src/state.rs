//! Where a cluster keeps its state: in its directory, or in etcd, which several servers may share. What all servers of one cluster must agree on lies
//! in etcd too, and the first one makes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use client::{Client, resource};
use network::Ranges;
use serde::{Deserialize, Serialize};
use store::{Store, Txn, Value, etcd};
use wire::authority::{Authority, write_private};
use wire::identity::Credential;

use crate::cluster::{self, Facts, Place, absolute};
use crate::process;

/// Under the prefix, beside the objects: which cluster this is, and its authority.
const IDENTITY: &str = "/podling/cluster";
/// A process that is about to end lets the store go within this time.
const PREDECESSOR_DEADLINE: Duration = Duration::from_secs(1);
/// Who has taken a name makes its node within this time.
const REGISTERING: Duration = Duration::from_secs(3);
/// An etcd that cannot be reached is tried again after this time.
const RETRY: Duration = Duration::from_millis(500);

/// The options that say where the state is.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Keeping {
    /// Where the state is: "disk", in the cluster's directory, or etcd=https://HOST:2379[,…], which several servers may share
    /// [default: disk, or where it was before]
    #[arg(long, value_name = "ENGINE")]
    store: Option<Engine>,
    #[command(flatten)]
    etcd: EtcdOptions,
}

/// How etcd is spoken with.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct EtcdOptions {
    /// The certificate of etcd's authority (PEM)
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    etcd_cafile: Option<PathBuf>,
    /// The certificate to show to etcd (PEM)
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile", value_parser = absolute)]
    etcd_certfile: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "etcd_certfile", value_parser = absolute)]
    etcd_keyfile: Option<PathBuf>,
    /// Where in etcd the keys lie: one place for each cluster [default: /registry]
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    etcd_prefix: Option<String>,
}

fn prefix(text: &str) -> Result<String, String> {
    let is_fine = text.len() > 1 && text.starts_with('/') && !text.ends_with('/') && !text.contains("//");
    if is_fine { Ok(text.to_owned()) } else { Err("must be like /registry".to_owned()) }
}

/// An engine by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The disk log.
    Disk,
    /// etcd at these members.
    Etcd(Vec<String>),
}

impl std::str::FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "disk" => Ok(Self::Disk),
            Some(("etcd", members)) => {
                let scheme = members.split_once("://").map_or("https", |(scheme, _)| scheme);
                Ok(Self::Etcd(members.split(',').map(|text| member(text, scheme)).collect::<Result<_, _>>()?))
            }
            _ => Err("must be disk or etcd=https://HOST:2379[,…]".to_owned()),
        }
    }
}

/// The address of a member. Scheme and port may be left out, as in `etcd=https://a,b,c`.
fn member(text: &str, scheme: &str) -> Result<String, String> {
    let (scheme, host) = text.split_once("://").unwrap_or((scheme, text));
    let is_fine = !host.is_empty() && !host.contains('/') && matches!(scheme, "http" | "https");
    let has_port = host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) && host.contains(':');
    match (is_fine, has_port) {
        (false, _) => Err(format!("\"{text}\" is not an address such as https://10.0.0.1:2379")),
        (true, true) => Ok(format!("{scheme}://{host}")),
        (true, false) => Ok(format!("{scheme}://{host}:2379")),
    }
}

/// Where a cluster's state is, as its directory remembers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Home {
    /// In the directory.
    #[default]
    Disk,
    /// In etcd.
    Etcd(Etcd),
}

impl std::fmt::Display for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk => f.write_str("its store"),
            Self::Etcd(etcd) => etcd.fmt(f),
        }
    }
}

/// A place in etcd, and how to get there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Etcd {
    members: Vec<String>,
    prefix: String,
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Etcd {
    /// What the options say, and what was known before where they say nothing.
    pub(crate) fn new(members: Vec<String>, options: &EtcdOptions, known: Option<&Self>) -> Self {
        let choose = |said: &Option<PathBuf>, before: fn(&Self) -> &Option<PathBuf>| {
            said.clone().or_else(|| known.and_then(|known| before(known).clone()))
        };
        let prefix = options.etcd_prefix.clone().or_else(|| known.map(|known| known.prefix.clone()));
        Self {
            members,
            prefix: prefix.unwrap_or_else(|| "/registry".to_owned()),
            authority: choose(&options.etcd_cafile, |known| &known.authority),
            certificate: choose(&options.etcd_certfile, |known| &known.certificate),
            key: choose(&options.etcd_keyfile, |known| &known.key),
        }
    }

    fn config(&self) -> anyhow::Result<etcd::Config> {
        for member in self.members.iter().filter(|member| member.starts_with("http://")) {
            let host = member.trim_start_matches("http://");
            if !host.starts_with("127.") && !host.starts_with("localhost") && !host.starts_with("[::1]") {
                tracing::warn!("all secrets of the cluster go to {member} in the clear: give etcd certificates");
            }
        }
        let read = |path: &Option<PathBuf>| path.as_deref().map(read_pem).transpose();
        Ok(etcd::Config {
            prefix: self.prefix.clone(),
            authority_pem: read(&self.authority)?,
            identity: read(&self.certificate)?.zip(read(&self.key)?),
            read: Arc::new(read_value),
            ..etcd::Config::new(self.members.clone())
        })
    }

    /// Opens the store that is there.
    pub(crate) async fn open(&self) -> anyhow::Result<store::Etcd> {
        store::Etcd::open(self.config()?).await.with_context(|| format!("opening the state in {self}"))
    }
}

impl std::fmt::Display for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "etcd at {} under {}", self.members.join(", "), self.prefix)
    }
}

/// A file that must hold what it is said to hold: TLS without would only fail, and not say why.
fn read_pem(path: &Path) -> anyhow::Result<String> {
    let text = read_text(path)?;
    ensure!(text.contains("-----BEGIN "), "{} holds neither a certificate nor a key (PEM)", path.display());
    Ok(text)
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// All below `/podling/` is ours and no object.
fn read_value(key: &str, bytes: bytes::Bytes) -> Option<Value> {
    if key.starts_with("/podling/") { Some(Value::plain(bytes)) } else { server::stored(bytes) }
}

/// Where the state is to be.
pub(crate) fn home(options: &Keeping, known: Option<&Home>) -> anyhow::Result<Home> {
    let before = known.and_then(|home| match home {
        Home::Etcd(etcd) => Some(etcd),
        Home::Disk => None,
    });
    let engine = match (&options.store, before) {
        (Some(engine), _) => engine.clone(),
        (None, Some(etcd)) => Engine::Etcd(etcd.members.clone()),
        (None, None) => Engine::Disk,
    };
    Ok(match engine {
        Engine::Etcd(members) => Home::Etcd(Etcd::new(members, &options.etcd, before)),
        Engine::Disk => {
            let etcd = &options.etcd;
            let is_set = etcd.etcd_cafile.is_some() || etcd.etcd_certfile.is_some() || etcd.etcd_prefix.is_some();
            ensure!(!is_set, "the options for etcd mean nothing without --store etcd=…");
            Home::Disk
        }
    })
}

/// Refuses to go on with another state than the one that the directory's cluster has: only a move takes it elsewhere.
pub(crate) fn ensure_unmoved(home: &Home, place: &Place, known: &Facts) -> anyhow::Result<()> {
    let (directory, before) = (place.data_dir.display(), &known.store);
    match (before, home) {
        (Home::Disk, Home::Etcd(_)) => bail!(
            "the state of the cluster in {directory} is on its disk: `podling store migrate --from {directory} --to etcd=…` takes it to etcd"
        ),
        (Home::Etcd(etcd), Home::Disk) => bail!(
            "the state of the cluster in {directory} is in {etcd}: `podling store migrate --from etcd=… --to {directory}` takes it to the disk"
        ),
        _ => Ok(()),
    }
}

/// Opens the state, wherever it is. A cluster that has been there before waits for its etcd: machines that start together come up in any order.
pub(crate) async fn open(place: &Place, home: &Home, is_known: bool) -> anyhow::Result<Arc<dyn Store>> {
    match home {
        Home::Disk => Ok(Arc::new(open_disk(place).await?)),
        Home::Etcd(etcd) => {
            ensure_idle(place).await?;
            let store = if is_known { await_etcd(etcd).await? } else { etcd.open().await? };
            Ok(Arc::new(store))
        }
    }
}

async fn await_etcd(etcd: &Etcd) -> anyhow::Result<store::Etcd> {
    let mut has_told = false;
    loop {
        match store::Etcd::open(etcd.config()?).await {
            Err(error @ store::Error::Unavailable { .. }) => {
                if !std::mem::replace(&mut has_told, true) {
                    tracing::warn!(%error, "waiting for etcd");
                }
            }
            result => return result.with_context(|| format!("opening the state in {etcd}")),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Opens the disk log. One that a process holds which is just ending, as after a `kill -9`, is waited for.
async fn open_disk(place: &Place) -> anyhow::Result<store::Disk> {
    let open = || store::Disk::open(store::Config::new(place.file("store")));
    match open() {
        Err(store::Error::Busy { .. }) => ensure_idle(place).await?,
        result => return Ok(result?),
    }
    Ok(open()?)
}

/// Waits for a process that is just ending, and refuses to go on beside one that is not.
pub(crate) async fn ensure_idle(place: &Place) -> anyhow::Result<()> {
    if let Some(pid) = place.process()
        && !process::has_ended(pid, PREDECESSOR_DEADLINE).await?
    {
        bail!("a cluster runs in {} already (process {pid})", place.data_dir.display());
    }
    Ok(())
}

/// What all servers of a cluster have in common.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shared {
    /// The cluster's id.
    pub(crate) id: String,
    /// The ranges of all pod addresses.
    pub(crate) pod_cidr: Ranges,
    /// PEM of the authority.
    certificate: String,
    key: String,
}

/// What the servers of the cluster in the store have in common, and whether this one has just made it. A state on a disk, which nobody shares, has
/// this only if it was brought from elsewhere.
pub(crate) async fn share(
    store: &dyn Store,
    home: &Home,
    place: &Place,
    known: Option<&Facts>,
    wanted: Option<&Ranges>,
) -> anyhow::Result<Option<(Shared, bool)>> {
    // A first start that was cut off has left nothing that counts.
    let known = known.filter(|facts| facts.kubeconfig.is_some());
    let mut present = store.get(IDENTITY).await?.entry;
    if present.is_none() && *home == Home::Disk {
        return Ok(None);
    }
    if present.is_none() {
        let made = make(store, place, known, wanted).await?;
        let value = Value::plain(serde_json::to_vec(&made)?);
        match store.commit(Txn::create(IDENTITY.into(), value)).await {
            Ok(_) => return Ok(Some((made, true))),
            // Another server was faster.
            Err(store::Error::Conflict { current, .. }) => present = current,
            Err(error) => return Err(error.into()),
        }
    }
    let present = present.context("the cluster in etcd has just been removed")?;
    let shared: Shared = serde_json::from_slice(&present.value).context("reading whose state this is")?;
    check(&shared, home, place, known, wanted)?;
    Ok(Some((shared, false)))
}

/// A new cluster.
async fn make(
    store: &dyn Store,
    place: &Place,
    known: Option<&Facts>,
    wanted: Option<&Ranges>,
) -> anyhow::Result<Shared> {
    let objects = store.list(store::Range { limit: Some(1), ..store::Range::prefix("/") }).await?;
    ensure!(
        objects.entries.is_empty(),
        "there are objects in etcd, but nothing that says of which cluster: name another --etcd-prefix, or restore a backup there"
    );
    ensure!(
        known.is_none(),
        "etcd has lost all that the cluster in {} knew: restore a backup there",
        place.data_dir.display()
    );
    let id = cluster::new_id()?;
    let pod_cidr = wanted.cloned().map_or_else(|| cluster::claim_free_range(&id), Ok)?;
    let (_, Credential { certificate_pem, key_pem }) = Authority::create(&format!("podling-{id}"))?;
    Ok(Shared { id, pod_cidr, certificate: certificate_pem, key: key_pem })
}

/// Refuses a directory that is another cluster's.
fn check(
    shared: &Shared,
    home: &Home,
    place: &Place,
    known: Option<&Facts>,
    wanted: Option<&Ranges>,
) -> anyhow::Result<()> {
    let directory = place.data_dir.display();
    if let Some(facts) = known.filter(|facts| facts.cluster() != shared.id) {
        bail!(
            "{directory} is of cluster {}, but {home} holds cluster {}: name another --data-dir or --etcd-prefix",
            facts.cluster(),
            shared.id
        );
    }
    if let Some(range) = wanted.filter(|range| **range != shared.pod_cidr) {
        bail!("the cluster in {home} has the range {}, not {range}", shared.pod_cidr);
    }
    Ok(())
}

impl Shared {
    /// What a directory's cluster has, for others to share.
    pub(crate) fn of(place: &Place, facts: &Facts) -> anyhow::Result<Self> {
        let (certificate, key) = files(place);
        let (certificate, key) = (read_text(&certificate)?, read_text(&key)?);
        Ok(Self { id: facts.cluster().to_owned(), pod_cidr: facts.pod_cidr.clone(), certificate, key })
    }

    /// Writes the authority to the directory, where other commands look for it.
    pub(crate) fn keep(&self, place: &Place) -> anyhow::Result<()> {
        let pki = place.file("pki");
        std::fs::create_dir_all(&pki).with_context(|| format!("making {}", pki.display()))?;
        let (certificate, key) = files(place);
        write_private(&certificate, self.certificate.as_bytes())?;
        Ok(write_private(&key, self.key.as_bytes())?)
    }

    /// Refuses a backup of another cluster than the directory's.
    pub(crate) fn ensure_same(backup: &store::Backup, facts: &Facts) -> anyhow::Result<()> {
        let entry = backup.entries.iter().find(|entry| &*entry.key == IDENTITY);
        let entry = entry.context("nothing says of which cluster this state is")?;
        let shared: Self = serde_json::from_slice(&entry.value).context("reading whose state this is")?;
        let own = facts.cluster();
        ensure!(shared.id == own, "this is the state of cluster {}, and the directory is of cluster {own}", shared.id);
        Ok(())
    }

    /// Adds it to a backup that has none.
    pub(crate) fn enter(&self, backup: &mut store::Backup) -> anyhow::Result<()> {
        let place = backup.entries.partition_point(|entry| &*entry.key < IDENTITY);
        if backup.entries.get(place).is_some_and(|entry| &*entry.key == IDENTITY) {
            return Ok(());
        }
        let (at, value) = (backup.revision, serde_json::to_vec(self)?.into());
        let (key, memo) = (IDENTITY.into(), store::Memo::default());
        let entry = store::Entry { key, value, created: at, modified: at, stamp: None, memo };
        backup.entries.insert(place, Arc::new(entry));
        Ok(())
    }
}

/// Takes the name of this machine's node, if no other machine has it: two agents of one name would run each pod twice. The name of a machine that is
/// gone is free once its node is deleted.
pub(crate) async fn claim_name(store: &dyn Store, client: &Client, facts: &Facts) -> anyhow::Result<()> {
    let name = &facts.node_name;
    let key: store::Key = format!("/podling/nodes/{name}").into();
    let value = Value::plain(facts.id.clone().into_bytes());
    let present = store.get(&key).await?.entry;
    if present.as_ref().is_some_and(|entry| entry.value == facts.id.as_bytes()) {
        return Ok(());
    }
    let taken = || {
        anyhow::anyhow!(
            "node {name} is another machine's: give this one a name with --node-name, or, if that machine is gone, \
             `kubectl delete node {name}`"
        )
    };
    if present.is_some() {
        // Another machine may have taken it a moment ago and be about to register.
        tokio::time::sleep(REGISTERING).await;
    }
    match client.get(&resource::NODES.object(None, name)).await {
        // A state that came from the disk has the node of this very machine.
        Ok(_) if present.is_none() && facts.kubeconfig.is_some() => {}
        Ok(_) => return Err(taken()),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let txn = match present {
        Some(entry) => Txn::update(key, entry.modified, value),
        None => Txn::create(key, value),
    };
    match store.commit(txn).await {
        Ok(_) => Ok(()),
        Err(store::Error::Conflict { .. }) => Err(taken()),
        Err(error) => Err(error.into()),
    }
}

fn files(place: &Place) -> (PathBuf, PathBuf) {
    let pki = place.file("pki");
    (pki.join("ca.crt"), pki.join("ca.key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_named_as_people_write_them() {
        let members = |text: &str| match text.parse::<Engine>() {
            Ok(Engine::Etcd(members)) => members.join(" "),
            other => format!("{other:?}"),
        };
        assert_eq!(members("etcd=https://a,b,c"), "https://a:2379 https://b:2379 https://c:2379");
        assert_eq!(members("etcd=http://127.0.0.1:23790,[::1]:1"), "http://127.0.0.1:23790 http://[::1]:1");
        assert_eq!("disk".parse::<Engine>(), Ok(Engine::Disk));
        for wrong in ["", "etcd", "etcd=", "etcd=https://a/b", "etcd=ftp://a", "redis=x", "disk=x"] {
            assert!(wrong.parse::<Engine>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn prefixes_are_paths() {
        assert_eq!(prefix("/a/b").as_deref(), Ok("/a/b"));
        for wrong in ["", "/", "a", "/a/", "//a"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
    }
}

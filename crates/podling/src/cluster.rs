//! One cluster's place on this machine: its directory, and the facts that outlive a run.

use std::fs::{File, TryLockError};
use std::io::ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound, ResourceBusy};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use network::{Family, Ranges};
use serde::{Deserialize, Serialize};

use crate::state::Home;

/// Where clusters keep what must not survive a reboot.
const RUN: &str = "/run/podling";

/// All that a cluster keeps in its directory; what is called otherwise is somebody else's.
const ENTRIES: [&str; 13] = [
    "cluster.json",
    "cluster.new",
    "kubeconfig",
    "kubeconfig.new",
    "node",
    "pki",
    "podling.log",
    "podling.new",
    "podling.pid",
    "runtime",
    "store",
    "store.new",
    "store.old",
];

/// Names the process that runs the cluster, which holds a lock on it.
const PID: &str = "podling.pid";

/// How the commands that act on the machine find their cluster.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Place {
    /// Directory of the cluster's state
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/podling", value_parser = absolute)]
    pub(crate) data_dir: PathBuf,
}

/// A directory is meant from here, wherever the processes of the cluster go later.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// What is decided once for a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Tells this cluster's links, tables and cgroups from those of others.
    pub(crate) id: String,
    /// The ranges of all pod addresses.
    pub(crate) pod_cidr: Ranges,
    /// The node's name.
    pub(crate) node_name: String,
    /// The node's first address; see [`node_addresses`].
    pub(crate) node_address: IpAddr,
    /// Where the API server listens, while it runs, or listened.
    pub(crate) listen: SocketAddr,
    /// The kubeconfig that the cluster was entered in, and under which name.
    pub(crate) kubeconfig: Option<(PathBuf, String)>,
    /// What of a cluster runs here.
    #[serde(default)]
    pub(crate) role: Role,
    /// Further names under which the API server is reached.
    #[serde(default)]
    pub(crate) advertise: Vec<String>,
    /// The cluster that the node has joined.
    #[serde(default)]
    pub(crate) joined: Option<Joined>,
    /// Where the state is.
    #[serde(default)]
    pub(crate) store: Home,
    /// The id of the cluster that several servers share; [`Facts::id`] is this machine's own.
    #[serde(default)]
    pub(crate) shared: Option<String>,
}

/// What of a cluster runs on this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// The control plane and a node.
    #[default]
    Up,
    /// The control plane alone.
    Server,
    /// A node alone.
    Node,
}

impl Role {
    /// The command that starts it.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Server => "server",
            Self::Node => "join",
        }
    }
}

/// A cluster whose servers are elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joined {
    /// Where its API is: `https://host:port`, of each of its servers.
    #[serde(alias = "server", deserialize_with = "one_or_several")]
    pub(crate) servers: Vec<String>,
    /// Its id; [`Facts::id`] is this machine's own.
    pub(crate) cluster: String,
    /// After how many seconds of silence it takes a node for lost.
    pub(crate) grace_seconds: u64,
    /// Which ways its nodes take to each other, unless they are told otherwise.
    #[serde(default)]
    pub(crate) backend: network::Backend,
}

impl Joined {
    /// Its servers, as they are written on the command line.
    pub(crate) fn shown(&self) -> String {
        self.servers.join(",")
    }
}

/// Nodes of earlier versions know one server.
fn one_or_several<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Written::deserialize(value)? {
        Written::One(server) => vec![server],
        Written::Several(servers) => servers,
    })
}

impl Place {
    /// Makes the directory, for its owner only. One that others use is refused: a purge would take their files for a cluster's.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let directory = self.data_dir.display();
        builder.create(&self.data_dir).with_context(|| format!("making {directory}"))?;
        match self.stranger()? {
            Some(name) if self.facts()?.is_none() => {
                bail!(
                    "{directory} is in use for something else (there is {name:?}): name a directory for the cluster alone"
                )
            }
            _ => self.shut(),
        }
    }

    /// Keys and secrets lie in the directory: it must be nobody else's, and nobody else may look into it.
    fn shut(&self) -> anyhow::Result<()> {
        let (directory, own) = (self.data_dir.display(), rustix::process::geteuid().as_raw());
        let found = std::fs::metadata(&self.data_dir).with_context(|| format!("reading {directory}"))?;
        ensure!(
            found.uid() == own,
            "{directory} belongs to user {}, who could change what podling trusts",
            found.uid()
        );
        if found.mode() & 0o077 != 0 {
            let shut = std::fs::set_permissions(&self.data_dir, std::fs::Permissions::from_mode(0o700));
            shut.with_context(|| format!("closing {directory} for others"))?;
        }
        Ok(())
    }

    /// Something in the directory that is no cluster's.
    fn stranger(&self) -> anyhow::Result<Option<String>> {
        let doing = || format!("reading {}", self.data_dir.display());
        for entry in std::fs::read_dir(&self.data_dir).with_context(doing)? {
            let name = entry.with_context(doing)?.file_name().to_string_lossy().into_owned();
            // Every fresh ext4 has the latter.
            if !ENTRIES.contains(&name.as_str()) && name != "lost+found" {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Removes what a cluster kept in its directory, and the directory if that was all.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        self.clear()?;
        match std::fs::remove_dir(&self.data_dir) {
            // Somebody else's files, file system or link.
            Err(error) if matches!(error.kind(), DirectoryNotEmpty | ResourceBusy | NotADirectory) => Ok(()),
            removed => unless_missing(removed).with_context(|| format!("removing {}", self.data_dir.display())),
        }
    }

    /// Removes what a cluster kept in its directory.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        for path in ENTRIES.map(|name| self.file(name)) {
            let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
            let remove = if is_directory { std::fs::remove_dir_all } else { std::fs::remove_file };
            unless_missing(remove(&path)).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Names the process that runs the cluster.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.file(PID)
    }

    /// A file of the cluster.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.data_dir.join(name)
    }

    /// The facts, if there is a cluster.
    pub(crate) fn facts(&self) -> anyhow::Result<Option<Facts>> {
        let path = self.file("cluster.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let facts: Facts =
                    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?;
                // It becomes part of paths that are removed.
                let is_sound = facts.id.len() == 8 && facts.id.bytes().all(|byte| byte.is_ascii_hexdigit());
                ensure!(is_sound, "{} is damaged: {:?} is no cluster's id", path.display(), facts.id);
                Ok(Some(facts))
            }
            Err(error) if error.kind() == NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Refuses to go on with a cluster that has lost its state or its authority: it would begin as an empty one, which ends the pods that still
    /// run, or trust nobody whom it trusted before.
    pub(crate) fn ensure_whole(&self, facts: &Facts) -> anyhow::Result<()> {
        // The first start was cut off before anybody could use the cluster.
        if facts.kubeconfig.is_none() || facts.store != Home::Disk {
            return Ok(());
        }
        let directory = self.data_dir.display();
        let is_kept = |entry: std::fs::DirEntry| entry.metadata().is_ok_and(|found| found.is_file() && found.len() > 0);
        let store = std::fs::read_dir(self.file("store"));
        ensure!(
            store.is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_kept))),
            "{directory}/store has lost all that the cluster knew: put it back, or end the cluster with `podling down --purge`"
        );
        for name in ["ca.crt", "ca.key"] {
            let path = self.file("pki").join(name);
            ensure!(
                path.exists(),
                "{} is missing, which all clients trust: put it back, or end the cluster with `podling down --purge`",
                path.display()
            );
        }
        Ok(())
    }

    /// The facts of a cluster that must be there.
    pub(crate) fn existing(&self) -> anyhow::Result<Facts> {
        match self.facts()? {
            Some(facts) => Ok(facts),
            None => {
                let directory = self.data_dir.display();
                bail!(
                    "there is no cluster in {directory}: start one with `podling up`, or join one with `podling join`"
                )
            }
        }
    }

    /// Writes the facts.
    pub(crate) fn keep(&self, facts: &Facts) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(facts)?;
        Ok(wire::authority::write_private(&self.file("cluster.json"), &bytes)?)
    }

    /// Says that this process runs the cluster, for as long as it lives and keeps the answer.
    pub(crate) fn occupy(&self) -> anyhow::Result<File> {
        let path = self.pid_file();
        wire::authority::write_private(&path, format!("{}\n", std::process::id()).as_bytes())?;
        let doing = || format!("locking {}", path.display());
        let file = File::open(&path).with_context(doing)?;
        file.lock().with_context(doing)?;
        Ok(file)
    }

    /// Says that no process runs the cluster any more.
    pub(crate) fn leave(&self, lock: File) {
        // One that is left lying says nothing: nobody holds its lock.
        drop(std::fs::remove_file(self.pid_file()));
        drop(lock);
    }

    /// The process that runs the cluster, if one does. The lock tells: the number may have become another process's.
    pub(crate) fn process(&self) -> Option<i32> {
        let mut file = File::open(self.pid_file()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}

/// What is not there needs not be removed.
pub(crate) fn unless_missing(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|error| if error.kind() == NotFound { Ok(()) } else { Err(error) })
}

impl Facts {
    /// The id of the cluster, the same on all its machines.
    pub(crate) fn cluster(&self) -> &str {
        let joined = self.joined.as_ref().map(|joined| joined.cluster.as_str());
        joined.or(self.shared.as_deref()).unwrap_or(&self.id)
    }

    /// Where what must not survive a reboot lies.
    pub(crate) fn run_directory(&self) -> PathBuf {
        Path::new(RUN).join(&self.id)
    }

    /// The cluster's cgroup subtree.
    pub(crate) fn cgroup(&self) -> String {
        format!("podling-{}", self.id)
    }

    /// The cluster's part of the machine's network.
    pub(crate) fn network(&self) -> anyhow::Result<network::Host> {
        let config = network::Config {
            prefix: format!("p{}", &self.id[..4]),
            table: format!("podling-{}", self.id),
            ranges: self.pod_cidr.clone(),
        };
        network::Host::open(config).context("opening the machine's network")
    }

    /// The cluster's containers.
    pub(crate) fn runtime(&self, place: &Place) -> anyhow::Result<std::sync::Arc<runtime::Host>> {
        static SHIM: &[u8] = include_bytes!(env!("PODLING_SHIM"));
        let config = runtime::Config {
            root: place.file("runtime"),
            state: self.run_directory(),
            cgroup: self.cgroup(),
            shim: SHIM,
        };
        runtime::Host::open(config).context("opening the container runtime")
    }
}

/// The image store of a data directory.
pub(crate) fn images(place: &Place, registries: runtime::image::Registries) -> anyhow::Result<runtime::image::Store> {
    runtime::image::Store::open(&place.file("runtime"), registries).context("opening the image store")
}

/// A node's name, which becomes part of names everywhere: refused before anything is made for it.
pub(crate) fn node_name(text: &str) -> Result<String, String> {
    api::name::dns_subdomain(text).into_iter().next().map_or_else(|| Ok(text.to_owned()), Err)
}

/// Ranges, as they are written on the command line.
pub(crate) fn ranges(text: &str) -> Result<Ranges, String> {
    text.parse()
}

/// The address by which a node of a cluster with these ranges is known: of the first family of which the machine has one.
pub(crate) fn first_address(ranges: &Ranges) -> anyhow::Result<IpAddr> {
    let doing = "finding the machine's address";
    for family in ranges.families().chain(Family::ALL) {
        if let Some(address) = network::node_address_of(family).context(doing)? {
            return Ok(address);
        }
    }
    Ok(Ipv4Addr::LOCALHOST.into())
}

/// All addresses by which a node is known: the first one, and one of each further family of which the cluster has a range, where the machine
/// has one. Those that were asked for are all there are.
pub(crate) fn node_addresses(facts: &Facts, asked_for: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
    if !asked_for.is_empty() {
        return Ok(asked_for.to_vec());
    }
    let own = network::addresses().context("listing the machine's addresses")?;
    let families: Vec<Family> = facts.pod_cidr.families().collect();
    Ok(crate::moves::beside(facts.node_address, &own, &[], &families))
}

/// Addresses that the machine has, at most one of each family: others would look for the node elsewhere.
pub(crate) fn ensure_own(addresses: &[IpAddr]) -> anyhow::Result<()> {
    if let [one, other, ..] = addresses {
        let is_pair = addresses.len() == 2 && one.is_ipv4() != other.is_ipv4();
        ensure!(is_pair, "--node-ip takes one address, or one of IPv4 and one of IPv6");
    }
    let own = network::addresses().context("listing the machine's addresses")?;
    let Some(address) = addresses.iter().find(|address| !own.contains(address)) else { return Ok(()) };
    let shown: Vec<String> = own.iter().filter(|own| !own.is_loopback()).map(ToString::to_string).collect();
    bail!(
        "--node-ip {address} is no address of this machine, which has {}: name one of these, or leave the option out",
        if shown.is_empty() { "none but loopback".to_owned() } else { shown.join(", ") }
    )
}

/// A fresh id: eight hexadecimal digits.
pub(crate) fn new_id() -> anyhow::Result<String> {
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    Ok(format!("{:08x}", u32::from_be_bytes(random)))
}

/// Tells clusters that start later which range this one has: without pods, no route of the machine does.
pub(crate) fn claim(facts: &Facts) -> anyhow::Result<()> {
    let path = facts.run_directory().join("range");
    let doing = || format!("making {}", facts.run_directory().display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(facts.run_directory()).with_context(doing)?;
    std::fs::write(&path, facts.pod_cidr.to_string()).with_context(|| format!("writing {}", path.display()))
}

/// Finds a free range and claims it. Clusters that start at the same moment do so one after the other, or they would take the same.
pub(crate) fn claim_free_range(id: &str) -> anyhow::Result<Ranges> {
    let directory = Path::new(RUN).join(id);
    let doing = || format!("claiming a range in {}", directory.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).with_context(doing)?;
    let turn = std::fs::File::open(RUN).with_context(doing)?;
    turn.lock().with_context(doing)?;
    let range = free_range()?;
    std::fs::write(directory.join("range"), range.to_string()).with_context(doing)?;
    Ok(range.into())
}

/// The ranges of the clusters that were started on this machine since it booted.
fn claims() -> impl Iterator<Item = IpNet> {
    let clusters = std::fs::read_dir(RUN).into_iter().flatten().flatten();
    let told = clusters.filter_map(|cluster| std::fs::read_to_string(cluster.path().join("range")).ok());
    let ranges = told.filter_map(|text| text.parse::<Ranges>().ok());
    ranges.flat_map(|ranges| ranges.iter().collect::<Vec<_>>())
}

/// A range that this machine uses otherwise would make one of the two unreachable.
pub(crate) fn ensure_free(ranges: &Ranges) -> anyhow::Result<()> {
    let used = network::used_ranges().context("reading the machine's routes")?;
    for range in ranges.iter() {
        if let Some(other) = used.iter().find(|other| network::overlap(other, &range)) {
            bail!(
                "the cluster's pods have addresses of {range}, but this machine reaches {other} otherwise: the cluster needs \
                 another --pod-cidr, or this machine another network"
            );
        }
    }
    Ok(())
}

/// The first range of 65 536 addresses that nothing on this machine uses.
fn free_range() -> anyhow::Result<IpNet> {
    let mut used = network::used_ranges().context("reading the machine's routes")?;
    used.extend(claims());
    let candidates =
        (42..=127).filter_map(|number| Ipv4Net::new(Ipv4Addr::new(10, number, 0, 0), 16).ok()).map(IpNet::from);
    let mut free = candidates.filter(|range| !used.iter().any(|other| network::overlap(other, range)));
    free.next().context("no range of 10.42.0.0/16 to 10.127.0.0/16 is free: name one with --pod-cidr")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(names: &[&str]) -> (tempfile::TempDir, Place) {
        let directory = tempfile::tempdir().expect("tempdir");
        for name in names {
            std::fs::create_dir(directory.path().join(name)).expect("mkdir");
        }
        let data_dir = directory.path().to_owned();
        (directory, Place { data_dir })
    }

    #[test]
    fn a_directory_of_others_is_no_place_for_a_cluster() {
        let (_directory, ours) = place(&["store", "lost+found"]);
        ours.make().expect("a start that was cut off goes on");
        let (_directory, theirs) = place(&["store", "src"]);
        assert!(theirs.make().expect_err("it is theirs").to_string().contains("\"src\""));
    }

    #[test]
    fn nobody_else_gets_into_the_directory() {
        let (directory, place) = place(&[]);
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
        place.make().expect("it is ours");
        assert_eq!(std::fs::metadata(directory.path()).expect("metadata").mode() & 0o777, 0o700);
        if std::os::unix::fs::chown(directory.path(), Some(65534), None).is_err() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        assert!(place.make().expect_err("it is theirs").to_string().contains("belongs to user 65534"));
    }

    #[test]
    fn an_id_leads_nowhere_else() {
        let (_directory, place) = place(&[]);
        for id in ["", "12", "../../..", "123456789"] {
            let facts = serde_json::json!({"id": id, "pod_cidr": "10.42.0.0/16", "node_name": "n",
                "node_address": "192.0.2.1", "listen": "127.0.0.1:1", "kubeconfig": null});
            std::fs::write(place.file("cluster.json"), facts.to_string()).expect("a file");
            assert!(place.facts().expect_err(id).to_string().contains("no cluster's id"));
        }
    }

    #[test]
    fn facts_of_earlier_versions_are_read() {
        let facts = |range: &str| -> Facts {
            serde_json::from_value(serde_json::json!({"id": "12345678", "pod_cidr": range, "node_name": "n",
                "node_address": "192.0.2.1", "listen": "127.0.0.1:1", "kubeconfig": null}))
            .expect("facts")
        };
        for range in ["10.42.0.0/16", "10.42.0.0/16,fd42::/56", "fd42::/56"] {
            let read = facts(range);
            assert_eq!(read.pod_cidr.to_string(), range);
            let again: Facts = serde_json::from_value(serde_json::to_value(&read).expect("JSON")).expect("facts");
            assert_eq!((again.pod_cidr, again.node_address), (read.pod_cidr, read.node_address));
        }
    }

    #[test]
    fn a_cluster_that_lost_its_state_is_not_begun_anew() {
        let (_directory, place) = place(&["store", "pki"]);
        let facts = |kubeconfig: serde_json::Value| -> Facts {
            serde_json::from_value(serde_json::json!({"id": "12345678", "pod_cidr": "10.42.0.0/16", "node_name": "n",
                "node_address": "192.0.2.1", "listen": "127.0.0.1:1", "kubeconfig": kubeconfig}))
            .expect("facts")
        };
        place.ensure_whole(&facts(serde_json::Value::Null)).expect("it was never used");
        let used = facts(serde_json::json!(["/k", "podling"]));
        let why = |place: &Place| place.ensure_whole(&used).expect_err("something is missing").to_string();
        assert!(why(&place).contains("store has lost"));
        std::fs::write(place.file("store").join("log-1"), "x").expect("a file");
        std::fs::write(place.file("pki").join("ca.crt"), "x").expect("a file");
        assert!(why(&place).contains("ca.key is missing"));
        std::fs::write(place.file("pki").join("ca.key"), "x").expect("a file");
        place.ensure_whole(&used).expect("all is there");
    }

    #[test]
    fn only_what_is_ours_is_removed() {
        let (directory, place) = place(&["store", "node", "theirs"]);
        place.remove().expect("it can be removed");
        let left: Vec<_> = std::fs::read_dir(directory.path()).expect("dir").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["theirs"]);
    }

    #[test]
    fn only_a_process_that_holds_the_lock_runs_the_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place { data_dir: directory.path().to_owned() };
        assert_eq!(place.process(), None);
        let lock = place.occupy().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(place.process(), Some(own));
        drop(lock);
        assert_eq!(place.process(), None, "a number that a dead process left");
        place.leave(place.occupy().unwrap());
        assert!(!place.pid_file().exists());
    }
}

//! One cluster's place on this machine: its directory, and the facts that outlive a run.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Where clusters keep what must not survive a reboot.
const RUN: &str = "/run/podling";

/// How the commands that act on the machine find their cluster.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Place {
    /// Directory of the cluster's state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podling", value_parser = absolute)]
    pub(crate) data_dir: PathBuf,
}

/// A directory is meant from here, wherever the processes of the cluster go later.
fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// What is decided once for a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Tells this cluster's links, tables and cgroups from those of others.
    pub(crate) id: String,
    /// The range of all pod addresses.
    pub(crate) pod_cidr: Ipv4Net,
    /// The node's name.
    pub(crate) node_name: String,
    /// The node's address.
    pub(crate) node_address: Ipv4Addr,
    /// Where the API server listens, while it runs, or listened.
    pub(crate) listen: SocketAddr,
    /// The kubeconfig that the cluster was entered in, and under which name.
    pub(crate) kubeconfig: Option<(PathBuf, String)>,
}

impl Place {
    /// Makes the directory, for its owner only.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.data_dir).with_context(|| format!("making {}", self.data_dir.display()))
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
                let facts = serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?;
                Ok(Some(facts))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// The facts of a cluster that must be there.
    pub(crate) fn existing(&self) -> anyhow::Result<Facts> {
        match self.facts()? {
            Some(facts) => Ok(facts),
            None => bail!("there is no cluster in {}: start one with `podling up`", self.data_dir.display()),
        }
    }

    /// Writes the facts.
    pub(crate) fn keep(&self, facts: &Facts) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(facts)?;
        Ok(wire::authority::write_private(&self.file("cluster.json"), &bytes)?)
    }

    /// The process that runs the cluster, if one does.
    pub(crate) fn process(&self) -> Option<i32> {
        let pid = std::fs::read_to_string(self.file("podling.pid")).ok()?.trim().parse::<i32>().ok()?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "podling").then_some(pid)
    }
}

impl Facts {
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
            range: self.pod_cidr,
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

/// A fresh id: eight hexadecimal digits.
pub(crate) fn new_id() -> anyhow::Result<String> {
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    Ok(format!("{:08x}", u32::from_be_bytes(random)))
}

/// Tells clusters that start later which range this one has: without pods, no route of the machine does.
pub(crate) fn claim(facts: &Facts) -> anyhow::Result<()> {
    let path = facts.run_directory().join("range");
    std::fs::write(&path, facts.pod_cidr.to_string()).with_context(|| format!("writing {}", path.display()))
}

/// The ranges of the clusters that were started on this machine since it booted.
fn claims() -> impl Iterator<Item = Ipv4Net> {
    let clusters = std::fs::read_dir(RUN).into_iter().flatten().flatten();
    clusters.filter_map(|cluster| std::fs::read_to_string(cluster.path().join("range")).ok()?.parse().ok())
}

/// The first range of 65 536 addresses that nothing on this machine uses.
pub(crate) fn free_range() -> anyhow::Result<Ipv4Net> {
    let mut used = network::used_ranges().context("reading the machine's routes")?;
    used.extend(claims());
    let overlaps =
        |range: &Ipv4Net| used.iter().any(|other| other.contains(&range.network()) || range.contains(&other.network()));
    let candidates = (42..=127).filter_map(|number| Ipv4Net::new(Ipv4Addr::new(10, number, 0, 0), 16).ok());
    let mut free = candidates.filter(|range| !overlaps(range));
    free.next().context("no range of 10.42.0.0/16 to 10.127.0.0/16 is free: name one with --pod-cidr")
}

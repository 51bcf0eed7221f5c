//! etcd from Debian's package, one member or several on loopback, to be stopped, killed and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use wire::Identity;
use wire::authority::Authority;
use wire::identity::Credential;

use crate::eventually;

const PROGRAM: &str = "/usr/bin/etcd";

/// How an [`Etcd`] is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many members it has.
    pub members: usize,
    /// Whether members and clients show certificates to each other.
    pub tls: bool,
    /// The size in bytes beyond which its database takes nothing more.
    pub quota: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { members: 1, tls: false, quota: None }
    }
}

/// The certificates with which clients and members speak to each other.
pub struct Tls {
    /// PEM of the authority of all.
    pub authority_pem: String,
    /// What a client shows.
    pub client: Credential,
}

/// A running etcd. It ends, and its data with it, when this is dropped.
pub struct Etcd {
    members: Vec<Member>,
    tls: Option<Tls>,
    _directory: TempDir,
}

struct Member {
    url: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    /// Whether this machine has etcd. Without it, says that the test is skipped.
    #[expect(clippy::print_stderr, reason = "who reads the tests must see what was not tested")]
    pub fn is_here() -> bool {
        let is_here = Path::new(PROGRAM).exists();
        if !is_here {
            eprintln!("SKIPPED: {PROGRAM} is missing (Debian's etcd-server)");
        }
        is_here
    }

    /// Starts an empty one and waits until all its members listen.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("making a directory")?;
        let tls = options.tls.then(|| tls(directory.path())).transpose()?;
        let scheme = if options.tls { "https" } else { "http" };
        let ports = free_ports(2 * options.members)?;
        let url = |scheme, port: &u16| format!("{scheme}://127.0.0.1:{port}");
        let peers = ports[options.members..].iter().map(|port| url("http", port));
        let peers: Vec<(String, String)> = peers.enumerate().map(|(n, url)| (format!("m{n}"), url)).collect();
        let cluster = peers.iter().map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(",");
        let members = ports.iter().zip(&peers).map(|(port, (name, peer))| {
            let url = url(scheme, port);
            let arguments = arguments(directory.path(), options, name, &url, peer, &cluster);
            Member { url, arguments, log: directory.path().join(format!("{name}.log")), child: None }
        });
        let mut etcd = Self { members: members.collect(), tls, _directory: directory };
        for number in 0..options.members {
            etcd.run(number)?;
        }
        for number in 0..options.members {
            etcd.listens(number).await?;
        }
        Ok(etcd)
    }

    /// Where clients reach the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url.clone()).collect()
    }

    /// What clients need to be let in, if it asks for that.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Kills a member as if its machine had lost its power.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let Some(mut child) = self.members[number].child.take() else { return Ok(()) };
        child.kill().context("killing a member")?;
        child.wait().context("waiting for a member").map(drop)
    }

    /// Starts a member again on the data that it has.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn run(&mut self, number: usize) -> anyhow::Result<()> {
        let member = &mut self.members[number];
        ensure!(member.child.is_none(), "member {number} runs already");
        let log = std::fs::File::options().create(true).append(true).open(&member.log).context("opening a log")?;
        let mut command = Command::new(PROGRAM);
        command.args(&member.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        member.child = Some(command.spawn().context("running etcd")?);
        Ok(())
    }

    /// Takes all that a member has, which must not run: it begins anew, as after a restored backup.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn wipe(&self, number: usize) -> anyhow::Result<()> {
        let member = &self.members[number];
        ensure!(member.child.is_none(), "member {number} runs");
        std::fs::remove_dir_all(member.log.with_extension("")).context("removing a member's data")
    }

    /// Waits until a member takes connections.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn listens(&self, number: usize) -> anyhow::Result<()> {
        let member = &self.members[number];
        let address = member.url.rsplit('/').next().unwrap_or_default();
        let listening = eventually("a member of etcd", || async { tokio::net::TcpStream::connect(address).await.ok() });
        let said = || std::fs::read_to_string(&member.log).unwrap_or_default();
        listening.await.map(drop).with_context(said)
    }

    /// Stops a member in its tracks, or lets it go on: it is there and does not answer.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self, number: usize, frozen: bool) -> anyhow::Result<()> {
        let child = self.members[number].child.as_ref().context("the member does not run")?;
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(child), signal).context("signalling a member")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            // What is left is taken away with the test's process group.
            let _ = self.kill(number);
        }
    }
}

fn arguments(directory: &Path, options: &Options, name: &str, url: &str, peer: &str, cluster: &str) -> Vec<String> {
    let file = |name: &str| directory.join(name).display().to_string();
    let mut arguments: Vec<String> = [
        ("name", name),
        ("data-dir", &file(name)),
        ("listen-client-urls", url),
        ("advertise-client-urls", url),
        ("listen-peer-urls", peer),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster", cluster),
        ("initial-cluster-state", "new"),
        ("log-level", "warn"),
    ]
    .iter()
    .map(|(option, value)| format!("--{option}={value}"))
    .collect();
    arguments.extend(options.quota.map(|bytes| format!("--quota-backend-bytes={bytes}")));
    if options.tls {
        let files = [("cert-file", "server.crt"), ("key-file", "server.key"), ("trusted-ca-file", "ca.crt")];
        arguments.extend(files.map(|(option, name)| format!("--{option}={}", file(name))));
        arguments.push("--client-cert-auth".to_owned());
    }
    arguments
}

fn tls(directory: &Path) -> anyhow::Result<Tls> {
    let (authority, _) = Authority::create("etcd")?;
    let server = authority.server(&Identity::new("etcd", &[]), &["127.0.0.1".to_owned()])?;
    let files = [
        ("ca.crt", authority.certificate_pem()),
        ("server.crt", &server.certificate_pem),
        ("server.key", &server.key_pem),
    ];
    for (name, content) in files {
        std::fs::write(directory.join(name), content).with_context(|| format!("writing {name}"))?;
    }
    let client = authority.client(&Identity::new("podling", &[]))?;
    Ok(Tls { authority_pem: authority.certificate_pem().to_owned(), client })
}

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)));
    let listeners = listeners.collect::<Result<Vec<_>, _>>().context("finding free ports")?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

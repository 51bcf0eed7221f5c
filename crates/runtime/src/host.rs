//! The door: one directory, one cgroup subtree and one shim program on this host, and the sandboxes that live in them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mount::UnmountFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::cgroup::{self, Cgroups};
use crate::error::{Doing, Error, Result};
use crate::link::Link;
use crate::sandbox::Sandbox;
use crate::spec::{Network, PidNamespace, SandboxSpec};

/// Where everything of one host object lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// Survives a reboot: writable layers and records of sandboxes, below `sandboxes/`. Made if missing.
    pub root: PathBuf,
    /// Gone after a reboot, as /run: sockets. Made if missing.
    pub state: PathBuf,
    /// Name of the cgroup subtree, as `podling-ab12`.
    pub cgroup: String,
    /// The static shim program; it is executed from sealed memory, out of reach of any container.
    pub shim: &'static [u8],
}

/// The sandboxes of this host.
#[derive(Debug)]
pub struct Host {
    config: Config,
    pub(crate) cgroups: Cgroups,
    /// Readable only: a program that someone may write to cannot be executed.
    program: File,
}

impl Host {
    /// Prepares directories, cgroups and the shim. Starts and adopts nothing.
    pub fn open(config: Config) -> Result<Arc<Host>> {
        check_name(&config.cgroup)?;
        for directory in [&config.root.join("sandboxes"), &config.state] {
            let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            make.doing(|| format!("make {}", directory.display()))?;
        }
        let cgroups = Cgroups::open(Path::new(cgroup::ROOT), &config.cgroup)?;
        let program = seal(config.shim).doing(|| "keep the shim in memory".into())?;
        Ok(Arc::new(Host { config, cgroups, program }))
    }

    /// Starts a sandbox; its network is attached when this returns.
    pub async fn create_sandbox(self: &Arc<Host>, spec: SandboxSpec) -> Result<Arc<Sandbox>> {
        check_name(&spec.id)?;
        let dir = self.sandbox_dir(&spec.id);
        let state = self.state_dir(&spec.id);
        if dir.exists() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists)).doing(|| format!("create sandbox {}", spec.id));
        }
        let host = Arc::clone(self);
        let id = spec.id.clone();
        let spawned = tokio::task::spawn_blocking(move || host.spawn(spec, &dir, &state)).await;
        let spawned = spawned.map_err(io::Error::other).doing(|| "start a shim".into()).and_then(|result| result);
        match spawned {
            Ok((spec, socket, child)) => Sandbox::begin(self, spec, socket, child).await,
            Err(error) => {
                self.clean_up(&id).await?;
                Err(error)
            }
        }
    }

    fn spawn(&self, spec: SandboxSpec, dir: &Path, state: &Path) -> Result<(SandboxSpec, OwnedFd, Child)> {
        for directory in [dir.to_owned(), dir.join("c"), state.to_owned()] {
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(&directory)
                .doing(|| format!("make {}", directory.display()))?;
        }
        save(&dir.join("spec.json"), &spec)?;
        self.cgroups.create_sandbox(&spec.id, &spec.resources)?;
        let doing = || format!("start the shim of sandbox {}", spec.id);
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).doing(doing)?;
        shim::packet::send(&ours, &self.shim_spec(&spec, state), &[]).doing(doing)?;
        let log = File::create(dir.join("shim.log")).doing(doing)?;
        let child = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0("podling-shim")
            .arg(&spec.id)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .doing(doing)?;
        Ok((spec, ours, child))
    }

    fn shim_spec(&self, spec: &SandboxSpec, state: &Path) -> shim::spec::Sandbox {
        let own = |attachment: Option<&serde_json::Value>| {
            Some(shim::spec::Network { hostname: spec.hostname.clone(), attachment: attachment.cloned() })
        };
        let (cgroup_joins, birth_cgroup) = self.cgroups.shim_place();
        shim::spec::Sandbox {
            id: spec.id.clone(),
            state: state.to_owned(),
            network: match &spec.network {
                Network::Host => None,
                Network::Isolated => own(None),
                Network::Attached(attachment) => own(Some(attachment)),
            },
            host_ipc: spec.host_ipc,
            share_process: spec.pid == PidNamespace::Shared,
            host_pid: spec.pid == PidNamespace::Host,
            sysctls: spec.sysctls.clone(),
            cgroup_joins,
            birth_cgroup,
            oom_score_adj: spec.oom_score_adj,
        }
    }

    /// Finds every sandbox on disk, living (its shim answers) or dead (what was recorded is shown).
    pub async fn adopt(self: &Arc<Host>) -> Result<Vec<Arc<Sandbox>>> {
        let mut names = directories(&self.config.root.join("sandboxes"))?;
        // A shim whose record was lost is found by its socket.
        names.extend(directories(&self.config.state)?);
        let mut specs = Vec::new();
        for id in names {
            match load::<SandboxSpec>(&self.sandbox_dir(&id).join("spec.json")) {
                Ok(spec) => specs.push(spec),
                // It died before it was anything, or nobody knows any more what it was.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, id, "removing the remains of a sandbox");
                    if let Ok(socket) = Link::connect(&id, &self.state_dir(&id)) {
                        kill_peer(&socket);
                    }
                    self.clean_up(&id).await?;
                }
            }
        }
        // All at once: shims that hang hold nobody up twice.
        let adopt = |spec| {
            let host = Arc::clone(self);
            tokio::spawn(async move { host.adopt_one(spec).await })
        };
        let adoptions: Vec<_> = specs.into_iter().map(adopt).collect();
        let mut sandboxes = Vec::new();
        for adoption in adoptions {
            sandboxes.push(adoption.await.map_err(io::Error::other).doing(|| "adopt a sandbox".into())??);
        }
        Ok(sandboxes)
    }

    async fn adopt_one(self: &Arc<Host>, spec: SandboxSpec) -> Result<Arc<Sandbox>> {
        let socket = match Link::connect(&spec.id, &self.state_dir(&spec.id)) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, id = spec.id, "a sandbox is dead");
                return Ok(self.bury(spec));
            }
        };
        let peer = socket.try_clone().doing(|| "copy a descriptor".into())?;
        match Sandbox::adopt(self, spec.clone(), socket).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                tracing::warn!(%error, id = spec.id, "a shim does not answer, it is killed");
                kill_peer(&peer);
                Ok(self.bury(spec))
            }
        }
    }

    /// Its processes ended with it; should one have got away, it ends now.
    fn bury(self: &Arc<Host>, spec: SandboxSpec) -> Arc<Sandbox> {
        self.cgroups.kill(&spec.id, None);
        Sandbox::dead(self, spec)
    }

    /// Takes the cgroup subtree and the directories `sandboxes` and `state` away. All sandboxes must have been removed.
    pub fn remove(&self) -> Result<()> {
        self.cgroups.remove_all()?;
        for directory in [&self.config.root.join("sandboxes"), &self.config.state] {
            remove_dir(directory)?;
        }
        Ok(())
    }

    /// Takes away whatever there is of a sandbox that does not run.
    pub(crate) async fn clean_up(&self, id: &str) -> Result<()> {
        self.cgroups.kill(id, None);
        self.cgroups.remove_sandbox(id).await?;
        // On most kernels there is no such mount.
        rustix::mount::unmount(self.state_dir(id).join(shim::protocol::SHM), UnmountFlags::DETACH).unwrap_or_default();
        remove_dir_aside(self.state_dir(id)).await?;
        remove_dir_aside(self.sandbox_dir(id)).await
    }

    pub(crate) fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.config.root.join("sandboxes").join(id)
    }

    fn state_dir(&self, id: &str) -> PathBuf {
        self.config.state.join(id)
    }
}

/// Ends the shim at the other end of a socket. It may have ended in the meantime.
fn kill_peer(socket: &OwnedFd) {
    if let Ok(credentials) = rustix::net::sockopt::socket_peercred(socket) {
        rustix::process::kill_process(credentials.pid, rustix::process::Signal::KILL).unwrap_or_default();
    }
}

fn directories(parent: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(parent).doing(|| format!("list {}", parent.display()))?;
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Names become directories and cgroups, so they must be no way out of them.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_sound = (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_letter);
    if is_sound {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidInput)).doing(|| format!("use {name:?} as a name"))
    }
}

/// Linux' `F_SEAL_EXEC`: the permission to execute stays as it is.
const SEAL_EXEC: u32 = 0x20;

/// A program that nobody can change any more.
fn seal(program: &[u8]) -> io::Result<File> {
    let mut memory = File::from(memfd_create("podling-shim", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    memory.write_all(program)?;
    // Before Linux 6.3 nothing keeps root in a container from making it unexecutable.
    if fcntl_add_seals(&memory, SealFlags::from_bits_retain(SEAL_EXEC)).is_err() {
        tracing::debug!("this kernel cannot seal the mode of the shim");
    }
    fcntl_add_seals(&memory, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
}

/// The same where it may take long and others must not wait for it: a writable layer may hold a million files.
pub(crate) async fn remove_dir_aside(path: PathBuf) -> Result<()> {
    let removed = tokio::task::spawn_blocking(move || remove_dir(&path)).await;
    removed.map_err(io::Error::other).doing(|| "remove a directory".into())?
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", path.display())),
    }
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn save<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let fresh = path.with_extension("new");
    fs::write(&fresh, serde_json::to_vec(value).doing(doing)?).doing(doing)?;
    fs::rename(fresh, path).doing(doing)
}

pub(crate) fn load<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).doing(|| format!("read {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::NotFound { what: path.display().to_string() })
        }
        Err(error) => Err(error).doing(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_changes_a_sealed_program() {
        let file = seal(b"program").expect("a sealed program");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        if let Ok(mut writable) = File::options().write(true).open(&path) {
            writable.write_all(b"x").expect_err("it was overwritten");
            writable.set_len(0).expect_err("it was truncated");
        }
        let seals = rustix::fs::fcntl_get_seals(&file).expect("seals");
        if seals.bits() & SEAL_EXEC == 0 {
            eprintln!("SKIPPED: the kernel cannot seal modes");
            return;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect_err("it cannot be executed any more");
    }
}

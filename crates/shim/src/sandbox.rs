//! Becoming a sandbox: leaving the host's namespaces and setting up the new ones.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Signal, set_child_subreaper};
use rustix::thread::UnshareFlags;

use crate::init::{privilege, rootfs};
use crate::protocol::{SHM, SOCKET};
use crate::spec;
use crate::sys;

/// What a sandbox holds.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Where later agents knock.
    pub(crate) listener: OwnedFd,
    /// Mounted as /dev/shm in each container.
    pub(crate) shm: rootfs::Shm,
    /// The pid namespace of the shim itself, to come back to.
    pub(crate) own_pids: File,
    /// Process 1 of the shared pid namespace, and that namespace.
    pub(crate) init: Option<(u32, File)>,
}

impl Sandbox {
    /// Carries out a spec, once, at the start of the process.
    pub(crate) fn set_up(spec: &spec::Sandbox) -> io::Result<Sandbox> {
        for path in &spec.cgroup_joins {
            fs::write(path, "0").map_err(|error| about(error, path))?;
        }
        privilege::adjust_oom_score(spec.oom_score_adj);
        set_child_subreaper(Some(rustix::process::getpid()))?;
        let own_pids = File::open("/proc/self/ns/pid")?;
        leave_host(spec)?;
        for (name, value) in &spec.sysctls {
            write_sysctl(name, value)?;
        }
        let shm = if spec.host_ipc {
            rootfs::Shm::Attached("/dev/shm".into())
        } else {
            rootfs::Shm::new(&spec.state.join(SHM))?
        };
        let init = if spec.share_process { Some(start_init(&spec.state)?) } else { None };
        Ok(Sandbox { listener: open_listener(&spec.state)?, shm, own_pids, init })
    }
}

fn about(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn leave_host(spec: &spec::Sandbox) -> io::Result<()> {
    let ipc = if spec.host_ipc { UnshareFlags::empty() } else { UnshareFlags::NEWIPC };
    let Some(network) = &spec.network else {
        return sys::unshare(ipc);
    };
    // Opened before leaving: it speaks for the host ever after.
    let host = network::Socket::route()?;
    sys::unshare(ipc | UnshareFlags::NEWNET | UnshareFlags::NEWUTS)?;
    rustix::system::sethostname(network.hostname.as_bytes())?;
    match &network.attachment {
        Some(attachment) => {
            let attachment: network::Attachment = serde_json::from_value(attachment.clone())?;
            network::attach::perform(&host, &attachment).map_err(chain)
        }
        None => network::attach::loopback().map_err(chain),
    }
}

fn chain(error: network::Error) -> io::Error {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    io::Error::other(format!("{error}{cause}"))
}

/// Only below the directories of what was unshared, wherever a name may try to lead.
fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    let is_sound = name.split(['.', '/']).all(|part| !part.is_empty() && part != "..");
    if !is_sound {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("sysctl {name:?} is no name")));
    }
    // A dot within a link's name is written as a slash, as sysctl(8) does.
    let swap = |letter: char| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path =
        if name.contains('/') && !name.contains('.') { name.to_owned() } else { name.chars().map(swap).collect() };
    fs::write(Path::new("/proc/sys").join(&path), value)
        .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}: {error}")))
}

/// The socket's path may be longer than an address holds, so it is bound by way of its directory.
fn open_listener(state: &Path) -> io::Result<OwnedFd> {
    let directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(state)
        .map_err(|error| about(error, state))?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&directory));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 16)?;
    Ok(socket)
}

/// Process 1 of a shared pid namespace: reaps whatever is left to it. It keeps no rights, no files and no memory of the shim's doings.
fn start_init(place: &Path) -> io::Result<(u32, File)> {
    let pid = sys::clone_child(sys::NEW_PID | sys::NEW_MOUNT, None, || match settle(place) {
        Ok(signals) => reap_for_ever(&signals),
        Err(_) => 1,
    })?;
    let namespace = File::open(format!("/proc/{pid}/ns/pid"))?;
    Ok((pid, namespace))
}

fn settle(place: &Path) -> io::Result<OwnedFd> {
    sys::close_from(3)?;
    rootfs::enter_void(place)?;
    sys::prctl(libc::PR_SET_PDEATHSIG, Signal::KILL.as_raw() as u64, 0)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
    privilege::bound(0).map_err(|_| io::ErrorKind::PermissionDenied)?;
    sys::set_capabilities(0)?;
    sys::child_signals()
}

fn reap_for_ever(signals: &OwnedFd) -> i32 {
    loop {
        while sys::reap(false).is_some() {}
        let mut poll = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
        if rustix::event::poll(&mut poll, None).is_ok() {
            drain(signals);
        }
    }
}

/// Empties a signal descriptor: what it says is only "look".
pub(crate) fn drain(signals: &OwnedFd) {
    let mut buffer = [0u8; 1024];
    while rustix::io::read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
}

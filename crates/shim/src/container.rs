//! One container as its parent sees it: its process, its streams, its record on disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::init;
use crate::log::Log;
use crate::packet;
use crate::protocol::{Exit, Failure, Record};
use crate::sandbox::Sandbox;
use crate::spec::{Cgroup, Container};
use crate::stdio::{Output, pipe, set_nonblocking};
use crate::sys;

/// File in a container's directory that holds its [`Record`].
pub const RECORD: &str = "record.json";

/// A container that was asked for and not forgotten.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) spec: Container,
    pub(crate) record: Record,
    /// Until it is reaped.
    pub(crate) pid: Option<u32>,
    /// Until its process is executed or refused.
    pub(crate) start: Option<Start>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) log: Option<Log>,
}

/// A start that is under way, and who waits for it.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) report: OwnedFd,
    pub(crate) agent: u64,
    pub(crate) seq: u64,
    /// The child's terminal, if it sent one.
    pub(crate) terminal: Option<OwnedFd>,
}

/// What a child said about its start.
pub(crate) enum Progress {
    /// Nothing yet.
    Pending,
    /// The image's program runs.
    Executed,
    /// It does not, because of this.
    Refused(Failure),
}

impl Start {
    /// Reads what the child says, without waiting.
    pub(crate) fn advance(&mut self) -> Progress {
        loop {
            match packet::receive::<Option<Failure>>(&self.report) {
                Ok(Some((Some(failure), _))) => return Progress::Refused(failure),
                Ok(Some((None, mut fds))) => self.terminal = fds.pop(),
                Ok(None) => return Progress::Executed,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Progress::Pending;
                }
                Err(_) => return Progress::Executed,
            }
        }
    }
}

/// (the parent's end, the child's end) of the channel on which a child says why it could not start. Exec closes it.
pub(crate) fn report_channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_nonblocking(&ours)?;
    Ok((ours, theirs))
}

/// Forks into another pid namespace and comes back to the own one.
pub(crate) fn clone_into(
    pids: Option<BorrowedFd<'_>>,
    own: &File,
    flags: u64,
    cgroup: Option<&Path>,
    child: impl FnOnce() -> i32,
) -> io::Result<u32> {
    let directory = cgroup
        .map(|path| rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()));
    let directory = directory.transpose()?;
    if let Some(pids) = pids {
        sys::setns(pids, libc::CLONE_NEWPID)?;
    }
    let result = sys::clone_child(flags, directory.as_ref().map(|fd| fd.as_fd()), child);
    if pids.is_some() {
        sys::setns(own, libc::CLONE_NEWPID)?;
    }
    result
}

impl Running {
    /// Forks the container's process; what becomes of it is seen later.
    pub(crate) fn start(
        spec: Container,
        sandbox: &Sandbox,
        host_pid: bool,
        agent: u64,
        seq: u64,
    ) -> io::Result<Running> {
        let log = spec.log_path.as_deref().map(Log::open).transpose()?;
        let (report, theirs) = report_channel()?;
        let (stdio, outputs, stdin) = if spec.tty { (None, Vec::new(), None) } else { pipes(&spec)? };
        let own_pids = if host_pid || sandbox.init.is_some() { 0 } else { sys::NEW_PID };
        let shared = sandbox.init.as_ref().map(|(_, namespace)| namespace.as_fd());
        let unified = spec.cgroup.unified.as_deref();
        let pid = clone_into(shared, &sandbox.own_pids, own_pids | sys::NEW_MOUNT, unified, || {
            init::run_container(&spec, &spec.cgroup.tasks, stdio, &theirs, &sandbox.shm)
        })?;
        // Only the child needed these; a sandbox is idle nearly all its life, and there may be many.
        let spec = what_is_kept(spec);
        let record = Record { container: spec.id.clone(), pid, started_ns: now_ns(), exit: None };
        let start = Some(Start { report, agent, seq, terminal: None });
        Ok(Running { spec, record, pid: Some(pid), start, outputs, stdin, terminal: None, log })
    }

    /// Writes the record so that it is there whole or not at all.
    pub(crate) fn save(&self) {
        let path = self.spec.dir.join(RECORD);
        let write = || -> io::Result<()> {
            let fresh = path.with_extension("new");
            fs::write(&fresh, serde_json::to_vec(&self.record)?)?;
            fs::rename(fresh, &path)
        };
        if let Err(error) = write() {
            crate::complain(&format!("write {}: {error}", path.display()));
        }
    }

    /// Takes over the terminal that the child opened inside.
    pub(crate) fn adopt_terminal(&mut self, terminal: OwnedFd) -> io::Result<()> {
        self.outputs = vec![Output::new(terminal.try_clone()?, "stdout")?];
        self.terminal = Some(terminal);
        Ok(())
    }

    /// What a wait status and the cgroup's counter say.
    pub(crate) fn exit_of(&self, status: i32) -> Exit {
        Exit { oom_killed: self.was_short_of_memory(), ..exit_of(status) }
    }

    fn was_short_of_memory(&self) -> bool {
        let Some(path) = &self.spec.cgroup.oom else {
            return false;
        };
        let text = fs::read_to_string(path).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }

    /// Kills each process of its cgroup.
    pub(crate) fn kill_all(&self) {
        if let Some(pid) = self.pid {
            report_missing(sys::kill(pid as i32, libc::SIGKILL));
        }
        if let Some(kill) = &self.spec.cgroup.kill {
            report_missing(fs::write(kill, "1"));
        } else if let Some(tasks) = self.spec.cgroup.tasks.first() {
            kill_listed(tasks);
        }
    }
}

fn kill_listed(tasks: &PathBuf) {
    for pid in fs::read_to_string(tasks).unwrap_or_default().lines().filter_map(|line| line.parse().ok()) {
        report_missing(sys::kill(pid, libc::SIGKILL));
    }
}

/// Who is gone needs no signal; anything else belongs into the log.
fn report_missing(result: io::Result<()>) {
    match result {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) && error.kind() != io::ErrorKind::NotFound => {
            crate::complain(&format!("kill: {error}"));
        }
        _ => {}
    }
}

/// Of a spec, what the parent asks for later.
fn what_is_kept(spec: Container) -> Container {
    Container {
        id: spec.id,
        dir: spec.dir,
        cgroup: Cgroup { views: Vec::new(), ..spec.cgroup },
        tty: spec.tty,
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        ..Container::default()
    }
}

type Pipes = (init::Stdio, Vec<Output>, Option<OwnedFd>);

fn pipes(spec: &Container) -> io::Result<Pipes> {
    let (stdin, ours) = if spec.stdin {
        let (theirs, ours) = pipe()?;
        (theirs, Some(ours))
    } else {
        (rustix::fs::openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, None)
    };
    let (stdout_ours, stdout) = pipe()?;
    let (stderr_ours, stderr) = pipe()?;
    let outputs = vec![Output::new(stdout_ours, "stdout")?, Output::new(stderr_ours, "stderr")?];
    Ok((Some([stdin, stdout, stderr]), outputs, ours))
}

/// Translates a wait status.
pub(crate) fn exit_of(status: i32) -> Exit {
    let signal = if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 };
    let code = if signal == 0 { libc::WEXITSTATUS(status) } else { 128 + signal };
    Exit { code, signal, oom_killed: false, finished_ns: now_ns() }
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

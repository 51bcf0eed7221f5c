//! What happens between clone and exec, in the order it happens. Nothing else runs there.
//!
//! The child of a single-threaded process may allocate; it does so only where paths must be put together.

mod mount;
pub(crate) mod privilege;
mod program;
pub(crate) mod rootfs;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::packet;
use crate::protocol::{Failure, FailureClass, StartFailure};
use crate::spec::{Container, Process, WindowSize};
use crate::sys;

/// What keeps a process from starting.
#[derive(Debug)]
pub(crate) struct Refusal {
    class: StartFailure,
    message: String,
}

impl Refusal {
    pub(crate) fn new(class: StartFailure, message: impl Into<String>) -> Refusal {
        Refusal { class, message: message.into() }
    }

    pub(crate) fn failure(&self) -> Failure {
        Failure { class: FailureClass::Start(self.class), message: self.message.clone() }
    }
}

/// Adds a class and what was attempted to an operating system's error.
pub(crate) trait Refuse<T> {
    fn refuse(self, class: StartFailure, what: impl FnOnce() -> String) -> Result<T, Refusal>;
}

impl<T, E: Into<io::Error>> Refuse<T> for Result<T, E> {
    fn refuse(self, class: StartFailure, what: impl FnOnce() -> String) -> Result<T, Refusal> {
        self.map_err(|error| Refusal { class, message: format!("{}: {}", what(), reason(&error.into())) })
    }
}

/// An error in the words of users: without Rust's number behind it, and in lower case.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

/// The three standard streams; none means a terminal, made inside.
pub(crate) type Stdio = Option<[OwnedFd; 3]>;

/// The child's side of a start: never comes back, and says through `report` why not.
pub(crate) fn run_container(
    spec: &Container,
    tasks: &[PathBuf],
    stdio: Stdio,
    report: &OwnedFd,
    shm: &rootfs::Shm,
) -> i32 {
    let outcome = container_steps(spec, tasks, stdio, report, shm);
    fail(report, &outcome)
}

fn container_steps(spec: &Container, tasks: &[PathBuf], stdio: Stdio, report: &OwnedFd, shm: &rootfs::Shm) -> Refusal {
    let steps = || -> Result<Refusal, Refusal> {
        begin(tasks, &spec.process)?;
        rootfs::enter(spec, shm)?;
        let console = connect(stdio, report, None)?;
        if let Some(console) = console {
            rootfs::bind_console(&console)?;
        }
        rootfs::close(spec)?;
        Ok(finish(&spec.process))
    };
    steps().unwrap_or_else(|refusal| refusal)
}

/// The child's side of a further process: as above.
pub(crate) fn run_exec(
    process: &Process,
    tasks: &[PathBuf],
    target: &OwnedFd,
    stdio: Stdio,
    report: &OwnedFd,
    size: Option<WindowSize>,
) -> i32 {
    let steps = || -> Result<Refusal, Refusal> {
        begin(tasks, process)?;
        let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
        sys::setns(target, kinds).refuse(StartFailure::Other, || "join the container".into())?;
        connect(stdio, report, size)?;
        Ok(finish(process))
    };
    fail(report, &steps().unwrap_or_else(|refusal| refusal))
}

fn fail(report: &OwnedFd, refusal: &Refusal) -> i32 {
    // The parent is gone if this cannot be said, and so soon are we.
    match packet::send(report, &refusal.failure(), &[]) {
        Ok(()) => 1,
        Err(_) => 2,
    }
}

/// Before anything costs: into the cgroups, so that all that follows is accounted there.
fn begin(tasks: &[PathBuf], process: &Process) -> Result<(), Refusal> {
    sys::reset_signals();
    // Until exec this process holds descriptors of ours, among processes of the image: none of them may look into it.
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).refuse(StartFailure::Other, || "hide from others".into())?;
    for path in tasks {
        std::fs::write(path, "0").refuse(StartFailure::Other, || format!("join cgroup {}", path.display()))?;
    }
    rustix::process::setsid().refuse(StartFailure::Other, || "begin a session".into())?;
    privilege::adjust_oom_score(process.oom_score_adj);
    privilege::set_rlimits(&process.rlimits)
}

/// Makes the given streams, or a new terminal of the container, the standard ones. Gives back the path of the terminal.
fn connect(stdio: Stdio, report: &OwnedFd, size: Option<WindowSize>) -> Result<Option<PathBuf>, Refusal> {
    let doing = || "connect stdio".to_owned();
    if let Some(streams) = stdio {
        for (target, stream) in streams.into_iter().enumerate() {
            sys::set_stdio(stream, target as i32).refuse(StartFailure::Other, doing)?;
        }
        return Ok(None);
    }
    let (master, slave, path) = rootfs::open_terminal(size).refuse(StartFailure::Other, || "open a terminal".into())?;
    packet::send(report, &(), &[master.as_fd()]).refuse(StartFailure::Other, doing)?;
    for target in 0..3 {
        sys::set_stdio(&slave, target).refuse(StartFailure::Other, doing)?;
    }
    sys::take_terminal().refuse(StartFailure::Other, || "take the terminal".into())?;
    Ok(Some(path))
}

/// From here on it is the process of the image that acts: user, capabilities, filter, exec.
fn finish(process: &Process) -> Refusal {
    let steps = || -> Result<Refusal, Refusal> {
        privilege::own_stdio(process.user.uid);
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        program::enter_cwd(&process.cwd)?;
        let words = program::Words::new(process)?;
        privilege::drop(process)?;
        // Looked up as the user it will run as, who may not see what root sees.
        let path = program::find(process)?;
        sys::close_on_exec_from(3).refuse(StartFailure::Other, || "mark descriptors".into())?;
        Ok(words.execute(&path, &process.argv))
    };
    steps().unwrap_or_else(|refusal| refusal)
}

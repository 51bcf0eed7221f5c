//! The wire to one shim: requests go out, replies find who asked, events find the sandbox.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use shim::packet;
use shim::protocol::{Call, Exit, Failure, FailureClass, Message, Record, Reply, Request, SOCKET};
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use crate::error::{Doing, Error, Result};

/// How long a shim may take for what it does at once.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    sandbox: String,
    socket: AsyncFd<File>,
    next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    /// Processes started by `Exec`, from their reply on, so that an end that follows at once is not missed.
    extras: HashMap<u64, watch::Sender<Option<Exit>>>,
    is_closed: bool,
}

/// What comes back for a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) result: Result<Reply, Failure>,
    pub(crate) fds: Vec<OwnedFd>,
    /// To `Exec`: how it ends.
    pub(crate) exit: Option<watch::Receiver<Option<Exit>>>,
}

/// What a shim says on its own.
#[derive(Debug)]
pub(crate) enum Event {
    Started(Record),
    Exited(Record),
}

impl Link {
    /// Takes over a connected socket.
    pub(crate) fn new(sandbox: &str, socket: OwnedFd) -> Result<Link> {
        let doing = || format!("watch sandbox {sandbox}");
        rustix::io::ioctl_fionbio(&socket, true).doing(doing)?;
        let socket = crate::sys::register(socket).doing(doing)?;
        Ok(Link { sandbox: sandbox.to_owned(), socket, next: AtomicU64::new(1), state: Mutex::default() })
    }

    /// Connects to the shim that listens in this directory; the path may be longer than an address holds.
    pub(crate) fn connect(sandbox: &str, state: &Path) -> io::Result<OwnedFd> {
        let directory = File::open(state)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&directory));
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        tracing::debug!(sandbox, "connected to a shim");
        Ok(socket)
    }

    /// Asks, and waits for the answer, with descriptors both ways.
    pub(crate) async fn ask(&self, call: Call, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.is_closed {
                return Err(self.dead());
            }
            state.waiting.insert(seq, sender);
        }
        if let Err(error) = self.send(&Request { seq, call }, fds).await {
            self.lock().waiting.remove(&seq);
            return Err(error);
        }
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.dead()),
            Err(_) => {
                self.lock().waiting.remove(&seq);
                Err(io::Error::from(io::ErrorKind::TimedOut))
                    .doing(|| format!("wait for the shim of sandbox {}", self.sandbox))
            }
        }
    }

    /// The same, with a refusal as an error.
    pub(crate) async fn call(&self, call: Call, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Answer)> {
        let mut answer = self.ask(call, fds).await?;
        let result = std::mem::replace(&mut answer.result, Ok(Reply::Done));
        Ok((result.map_err(translate)?, answer))
    }

    async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        loop {
            let doing = || format!("speak to the shim of sandbox {}", self.sandbox);
            let mut guard = self.socket.writable().await.doing(doing)?;
            match guard.try_io(|socket| packet::send(socket.as_fd(), request, fds)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(self.dead());
                }
                Ok(result) => return result.doing(doing),
                Err(_would_block) => {}
            }
        }
    }

    /// Hears what the shim says, until it is gone.
    pub(crate) async fn listen(&self, mut heard: impl FnMut(Event)) {
        while let Some((message, fds)) = self.receive().await {
            match message {
                Message::Reply { seq, result } => self.settle(seq, result, fds),
                Message::Started(record) => heard(Event::Started(record)),
                Message::Exited(record) => heard(Event::Exited(record)),
                Message::ExecExited { exec, exit } => {
                    if let Some(sender) = self.lock().extras.remove(&exec) {
                        sender.send_replace(Some(exit));
                    }
                }
            }
        }
        let mut state = self.lock();
        state.is_closed = true;
        // Whoever waits sees that nobody answers any more.
        state.waiting.clear();
        state.extras.clear();
    }

    async fn receive(&self) -> Option<(Message, Vec<OwnedFd>)> {
        loop {
            let mut guard = self.socket.readable().await.ok()?;
            match guard.try_io(|socket| packet::receive(socket.as_fd())) {
                Ok(Ok(message)) => return message,
                Ok(Err(error)) => {
                    tracing::warn!(%error, sandbox = self.sandbox, "a shim was lost");
                    return None;
                }
                Err(_would_block) => {}
            }
        }
    }

    fn settle(&self, seq: u64, result: Result<Reply, Failure>, fds: Vec<OwnedFd>) {
        let mut state = self.lock();
        let exit = match &result {
            Ok(Reply::Exec { exec, .. }) => {
                let (sender, receiver) = watch::channel(None);
                state.extras.insert(*exec, sender);
                Some(receiver)
            }
            _ => None,
        };
        if let Some(sender) = state.waiting.remove(&seq) {
            // Who gave up waiting does not want it any more.
            drop(sender.send(Answer { result, fds, exit }));
        }
    }

    fn dead(&self) -> Error {
        Error::Dead { sandbox: self.sandbox.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A shim's refusal as ours.
fn translate(failure: Failure) -> Error {
    let Failure { class, message } = failure;
    match class {
        FailureClass::NotFound => Error::NotFound { what: message.trim_end_matches(" not found").to_owned() },
        FailureClass::NotRunning => {
            let container = message.trim_start_matches("container ").trim_end_matches(" is not running");
            Error::NotRunning { container: container.to_owned() }
        }
        FailureClass::Start(class) => Error::Start { class, message },
        FailureClass::Os(number) => Error::Failed { doing: message, source: io::Error::from_raw_os_error(number) },
    }
}

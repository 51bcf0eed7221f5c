//! A container's output: from its pipes or terminal into its log and to the clients that joined.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::log::{Log, Stream};

/// What is read at once. The pages are touched only as far as there is data.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// One stream of a container.
#[derive(Debug)]
pub(crate) struct Output {
    /// None when it ended.
    pub(crate) source: Option<OwnedFd>,
    stream: Stream,
    clients: Vec<Client>,
    next_client: u64,
}

/// Who joined a stream. While one is behind, the stream is not read: the process waits for its reader, as on any pipe.
#[derive(Debug)]
struct Client {
    id: u64,
    sink: OwnedFd,
    pending: VecDeque<u8>,
}

/// A pipe whose ends are closed by exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// Lets calls return rather than wait.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

impl Output {
    pub(crate) fn new(source: OwnedFd, name: &'static str) -> io::Result<Output> {
        set_nonblocking(&source)?;
        // A fuller pipe means fewer turns between writer and reader. A terminal is no pipe, and has no such size.
        rustix::pipe::fcntl_setpipe_size(&source, READ_BYTES).unwrap_or_default();
        Ok(Output { source: Some(source), stream: Stream::new(name), clients: Vec::new(), next_client: 0 })
    }

    /// A new client's end.
    pub(crate) fn join(&mut self) -> io::Result<OwnedFd> {
        let (theirs, ours) = pipe()?;
        set_nonblocking(&ours)?;
        if self.source.is_some() {
            self.clients.push(Client { id: self.next_client, sink: ours, pending: VecDeque::new() });
            self.next_client += 1;
        }
        Ok(theirs)
    }

    /// What to wait for: the source if nobody is behind.
    pub(crate) fn readable(&self) -> Option<&OwnedFd> {
        if self.clients.iter().any(|client| !client.pending.is_empty()) { None } else { self.source.as_ref() }
    }

    /// What to wait for: the clients that are behind, and those that may leave.
    pub(crate) fn sinks(&self) -> impl Iterator<Item = (u64, &OwnedFd, bool)> {
        self.clients.iter().map(|client| (client.id, &client.sink, !client.pending.is_empty()))
    }

    /// Moves what is there, once. Answers how much it was.
    pub(crate) fn pump(&mut self, log: &mut Option<Log>, buffer: &mut [u8]) -> usize {
        let Some(source) = &self.source else {
            return 0;
        };
        match rustix::io::read(source, &mut *buffer) {
            Ok(0) | Err(Errno::IO) => {
                self.end(log);
                0
            }
            Ok(count) => {
                self.deliver(log, &buffer[..count]);
                count
            }
            Err(_) => 0,
        }
    }

    /// Takes what is left after the process ended. Clients that are behind keep what they have not read.
    pub(crate) fn drain(&mut self, log: &mut Option<Log>, buffer: &mut [u8]) {
        while let Some(source) = &self.source {
            match rustix::io::read(source, &mut *buffer) {
                Ok(0) | Err(Errno::IO | Errno::AGAIN) => break,
                Ok(count) => self.deliver(log, &buffer[..count]),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.end(log);
    }

    fn deliver(&mut self, log: &mut Option<Log>, bytes: &[u8]) {
        if let Some(log) = log {
            complain(log.append(&mut self.stream, bytes, SystemTime::now()));
        }
        self.clients.retain_mut(|client| client.give(bytes));
    }

    fn end(&mut self, log: &mut Option<Log>) {
        self.source = None;
        if let Some(log) = log {
            complain(log.finish(&mut self.stream, SystemTime::now()));
        }
        self.clients.retain(|client| !client.pending.is_empty());
    }

    /// Gives clients what they are behind by; those that left are forgotten, and at the end all that have everything.
    pub(crate) fn catch_up(&mut self) {
        let is_over = self.source.is_none();
        self.clients.retain_mut(|client| client.give(&[]) && !(is_over && client.pending.is_empty()));
    }

    /// A client closed its end.
    pub(crate) fn forget(&mut self, id: u64) {
        self.clients.retain(|client| client.id != id);
    }
}

impl Client {
    /// False if nobody reads any more.
    fn give(&mut self, bytes: &[u8]) -> bool {
        self.pending.extend(bytes);
        while !self.pending.is_empty() {
            let (first, _) = self.pending.as_slices();
            match rustix::io::write(&self.sink, first) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// A full disk must not stop the container; the shim's own log says what is missing.
fn complain(result: io::Result<()>) {
    if let Err(error) = result {
        crate::complain(&format!("write the log: {error}"));
    }
}

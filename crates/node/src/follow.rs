//! Sends a log to whoever asked for it, and goes on as it grows.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe;

use crate::agent::Entry;
use crate::logs::{Options, Reader};
use crate::observe;

/// Where a log goes.
pub trait Sink: Send + Sync {
    /// Sends a piece; false when the reader has gone.
    fn put(&self, piece: Bytes) -> BoxFuture<'_, bool>;
    /// Resolves when the reader has gone.
    fn gone(&self) -> BoxFuture<'_, ()>;
}

impl Sink for wire::body::Sender {
    fn put(&self, piece: Bytes) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.send(piece).await.is_ok() })
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.closed())
    }
}

impl Sink for wire::upgrade::Output {
    fn put(&self, piece: Bytes) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.send(piece).await.is_ok() })
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.gone())
    }
}

/// One request for a log.
pub struct Follower {
    path: PathBuf,
    options: Options,
    entry: Arc<Entry>,
    container: String,
}

impl Follower {
    /// The log at `path`, which `container` of the entry's sandbox writes.
    pub(crate) fn new(path: PathBuf, options: Options, entry: Arc<Entry>, container: String) -> Self {
        Self { path, options, entry, container }
    }

    /// Sends the log. Ends with it, with its container if it is followed, or with the reader.
    pub async fn send(self, sink: &dyn Sink) {
        if let Err(error) = self.try_send(sink).await {
            tracing::debug!(%error, log = %self.path.display(), "sending a log");
        }
    }

    async fn try_send(&self, sink: &dyn Sink) -> std::io::Result<()> {
        // The watch begins before the first read, so nothing that is written after it is missed.
        let growth = if self.options.follow { Some(Growth::of(&self.path)?) } else { None };
        let mut reader = Reader::open(&self.path, self.options.clone())?;
        loop {
            let changes = self.entry.sandbox().map(|sandbox| sandbox.changes());
            let has_ended = self.has_ended();
            loop {
                let piece = reader.read()?;
                if piece.is_empty() {
                    break;
                }
                if !sink.put(piece).await {
                    return Ok(());
                }
            }
            let Some(growth) = growth.as_ref().filter(|_| !has_ended && !reader.is_exhausted()) else { return Ok(()) };
            tokio::select! {
                grown = growth.wait() => grown?,
                () = changed(changes) => {}
                () = sink.gone() => return Ok(()),
            }
        }
    }

    fn has_ended(&self) -> bool {
        let state = self.entry.sandbox().and_then(|sandbox| sandbox.container(&self.container));
        state.is_none_or(|state| observe::exit_code(&state).is_some())
    }
}

async fn changed(changes: Option<tokio::sync::watch::Receiver<u64>>) {
    if let Some(mut changes) = changes {
        // A sandbox that has gone is a change too.
        drop(changes.changed().await);
    }
}

/// Tells when something in a directory was written, made or renamed.
struct Growth(pipe::Receiver);

impl Growth {
    fn of(log: &std::path::Path) -> std::io::Result<Self> {
        let directory = log.parent().unwrap_or(log);
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, directory, flags)?;
        // An inotify descriptor is read as a pipe is.
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(watch)?))
    }

    async fn wait(&self) -> std::io::Result<()> {
        self.0.readable().await?;
        let mut events = [0u8; 4096];
        // What happened does not matter, only that something did: all pending events are taken.
        while let Ok(1..) = self.0.try_read(&mut events) {}
        Ok(())
    }
}

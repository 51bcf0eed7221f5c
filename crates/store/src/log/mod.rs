//! The disk log: one thread writes all transactions that wait into one frame, syncs once, and only then lets them be
//! seen. Frames go to segment files; snapshots in the background keep the log short.

mod block;
mod faults;
mod frame;
mod recover;
mod segment;
pub(crate) mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use crate::memory::{Memory, Retention};
use crate::{Commit, Error, Got, Listing, Op, Progress, Range, Result, Revision, Store, Txn, Watch};
use faults::Faults;
pub(crate) use recover::view;
use writer::{Job, Writer};

/// How many transactions may wait for the writer before callers wait.
const QUEUE: usize = 4096;
/// The largest transaction: a frame must stay well below what recovery believes.
const MAX_TXN: usize = 16 << 20;

/// How a [`Disk`] store is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory, which is the store's alone. It is created if it is missing.
    pub dir: PathBuf,
    /// A segment file that is larger than this is followed by a new one.
    pub segment_bytes: u64,
    /// After so many bytes of log, a snapshot is written.
    pub snapshot_bytes: u64,
    /// How long the history is kept.
    pub history_age: Duration,
    /// How large the history may grow.
    pub history_bytes: usize,
}

impl Config {
    /// The settings for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let Retention { age: history_age, bytes: history_bytes } = Retention::default();
        Self { dir: dir.into(), segment_bytes: 16 << 20, snapshot_bytes: 32 << 20, history_age, history_bytes }
    }
}

/// A store in a directory. Dropping it ends the watches and waits until all that was accepted is on the disk.
pub struct Disk {
    memory: Arc<Memory>,
    /// `None` only while being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// Holds the lock on the directory.
    _lock: File,
}

impl Disk {
    /// Opens a directory, recovering what is in it.
    pub fn open(config: Config) -> Result<Self> {
        Self::open_with(config, Faults::default())
    }

    fn open_with(config: Config, faults: Faults) -> Result<Self> {
        let dir = &config.dir;
        fs::create_dir_all(dir).map_err(Error::failed(format!("creating directory {}", dir.display())))?;
        let lock = lock(dir)?;
        let (mut state, segment) = recover::recover(dir, &faults)?;
        let retention = Retention { age: config.history_age, bytes: config.history_bytes };
        state.trim(retention);
        let memory = Arc::new(Memory::new(state));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(config, retention, memory.clone(), segment, faults);
        let writer = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(queue));
        let writer = writer.map_err(Error::failed("starting the store's writer"))?;
        Ok(Self { memory, jobs: Some(jobs), writer: Some(writer), _lock: lock })
    }

    async fn submit<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(Error::Closed)?;
        jobs.send(job(reply)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.memory.close();
        self.jobs.take();
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let doing = || format!("locking {}", path.display());
    let file = File::create(&path).map_err(Error::failed(doing()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::Busy { dir: dir.to_owned() }),
        Err(errno) => Err(Error::failed(doing())(errno.into())),
    }
}

fn size(txn: &Txn) -> usize {
    let op = |op: &Op| match op {
        Op::Put(key, value) => key.len() + value.bytes.len() + 32,
        Op::Delete(key) => key.len() + 32,
    };
    txn.ops.iter().map(op).sum()
}

impl Store for Disk {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got>> {
        Box::pin(async move { Ok(self.memory.get(key)) })
    }

    fn list(&self, range: Range) -> BoxFuture<'_, Result<Listing>> {
        Box::pin(async move { self.memory.read().list(&range) })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit>> {
        Box::pin(async move {
            let bytes = size(&txn);
            if bytes > MAX_TXN {
                return Err(Error::TooLarge { bytes, limit: MAX_TXN });
            }
            self.submit(|reply| Job::Commit { txn, reply }).await
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        Box::pin(async move { self.memory.watch(prefix, after) })
    }

    fn progress(&self) -> BoxFuture<'_, Result<Progress>> {
        Box::pin(async move { Ok(self.memory.read().progress()) })
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.memory.write().compact(before);
            Ok(())
        })
    }
}

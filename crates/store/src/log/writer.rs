//! The one thread that changes the state.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::faults::Faults;
use super::segment::{Failure, Segment};
use super::{Config, frame, size, snapshot};
use crate::memory::{Memory, Retention, State, stamp};
use crate::{Commit, Condition, Error, Key, Op, Result, Revision, Txn};

/// A frame takes at most so many bytes, unless one transaction has more.
const FRAME_BYTES: usize = 4 << 20;

/// What the writer is asked to do.
pub(super) enum Job {
    /// Carry out a transaction.
    Commit { txn: Txn, reply: oneshot::Sender<Result<Commit>> },
}

type Reply = oneshot::Sender<Result<Commit>>;

/// A transaction of the batch in the making.
enum Verdict {
    /// It goes into the frame at this revision.
    Accepted { revision: Revision, ops: Vec<Op>, reply: Reply },
    /// The condition on this key failed.
    Refused { key: Key, reply: Reply },
}

pub(super) struct Writer {
    config: Config,
    retention: Retention,
    memory: Arc<Memory>,
    segment: Segment,
    faults: Faults,
    frame: Vec<u8>,
    /// Bytes of log since the last snapshot.
    unsaved: u64,
    /// The snapshot that is being written, or was last.
    saving: Option<JoinHandle<()>>,
    /// Set after a failed sync: what is on the disk is unknown, so nothing more is written until a restart looks.
    stopped: bool,
}

impl Writer {
    pub(super) fn new(
        config: Config,
        retention: Retention,
        memory: Arc<Memory>,
        segment: Segment,
        faults: Faults,
    ) -> Self {
        let unsaved = segment.position();
        Self { config, retention, memory, segment, faults, frame: Vec::new(), unsaved, saving: None, stopped: false }
    }

    /// Works until the store is dropped and the queue is empty.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut jobs = vec![first];
            let mut bytes = 0;
            while bytes < FRAME_BYTES
                && let Ok(Job::Commit { txn, reply }) = queue.try_recv()
            {
                bytes += size(&txn);
                jobs.push(Job::Commit { txn, reply });
            }
            self.commit(jobs);
            self.save_if_due();
        }
        // The directory must not change after the store let go of it.
        if self.saving.take().is_some_and(|saving| saving.join().is_err()) {
            tracing::error!("the last snapshot panicked");
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        if self.stopped {
            for Job::Commit { reply, .. } in jobs {
                answer(reply, Err(Error::Closed));
            }
            return;
        }
        let verdicts = judge(&self.memory.read(), jobs);
        match self.write(&verdicts) {
            Ok(()) => self.publish(verdicts),
            Err(failure) => self.fail(verdicts, failure),
        }
    }

    /// Makes the accepted transactions durable.
    fn write(&mut self, verdicts: &[Verdict]) -> std::result::Result<(), Failure> {
        frame::begin(&mut self.frame);
        let mut empty = true;
        for verdict in verdicts {
            if let Verdict::Accepted { revision, ops, .. } = verdict {
                frame::push(&mut self.frame, *revision, ops);
                empty = false;
            }
        }
        if empty {
            return Ok(());
        }
        frame::finish(&mut self.frame);
        if self.segment.position() > self.config.segment_bytes {
            self.rotate().map_err(Failure::Write)?;
        }
        self.segment.append(&self.frame)?;
        self.unsaved += self.frame.len() as u64;
        self.frame.shrink_to(FRAME_BYTES);
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        let next = self.memory.read().progress().revision.next();
        self.segment = Segment::create(&self.config.dir, next, self.faults.clone())?;
        Ok(())
    }

    /// Lets the transactions be seen and answers their callers.
    fn publish(&mut self, verdicts: Vec<Verdict>) {
        let mut answers = Vec::with_capacity(verdicts.len());
        let mut state = self.memory.write();
        for verdict in verdicts {
            answers.push(match verdict {
                Verdict::Accepted { revision, ops, reply } => {
                    (reply, Ok(Commit { revision, events: state.apply(revision, ops) }))
                }
                Verdict::Refused { key, reply } => {
                    let current = state.current(&key).cloned();
                    (reply, Err(Error::Conflict { key, current }))
                }
            });
        }
        state.trim(self.retention);
        drop(state);
        let commits = answers.iter().filter_map(|(_, commit)| commit.as_ref().ok());
        let changed: Vec<_> = commits.flat_map(|commit| commit.events.iter().cloned()).collect();
        // Who asked goes on first: watchers have more to do, and nobody waits for them.
        for (reply, result) in answers {
            answer(reply, result);
        }
        self.memory.wake(changed.iter());
    }

    fn fail(&mut self, verdicts: Vec<Verdict>, failure: Failure) {
        let error = match failure {
            Failure::Write(error) => error,
            Failure::Sync(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the log cannot be synced; no more writes");
                self.stopped = true;
                error
            }
        };
        for verdict in verdicts {
            let (Verdict::Accepted { reply, .. } | Verdict::Refused { reply, .. }) = verdict;
            answer(reply, Err(again(&error)));
        }
    }

    fn save_if_due(&mut self) {
        let busy = self.saving.as_ref().is_some_and(|saving| !saving.is_finished());
        if self.unsaved < self.config.snapshot_bytes || self.stopped || busy {
            return;
        }
        self.unsaved = 0;
        // A new file first, so that the snapshot covers all the old ones whole.
        match self.rotate().and_then(|()| self.save()) {
            Ok(saving) => self.saving = Some(saving),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no snapshot was written; the log grows on");
            }
        }
    }

    fn save(&self) -> Result<JoinHandle<()>> {
        let state = self.memory.read();
        let (revision, entries) = (state.progress().revision, state.entries());
        drop(state);
        let dir = self.config.dir.clone();
        let job = move || {
            if let Err(error) = snapshot::write(&dir, revision, &entries) {
                tracing::warn!(error = &error as &dyn std::error::Error, "a snapshot failed; the log grows on");
            }
        };
        let thread = std::thread::Builder::new().name("store-snapshot".to_owned()).spawn(job);
        thread.map_err(Error::failed("starting a snapshot"))
    }
}

/// The same error for one more caller.
fn again(error: &Error) -> Error {
    match error {
        Error::Full { place } => Error::Full { place: place.clone() },
        other => Error::Failed { doing: other.to_string(), source: std::io::Error::other("the log was not written") },
    }
}

/// A caller who has gone away does not need the answer.
fn answer(reply: Reply, result: Result<Commit>) {
    drop(reply.send(result));
}

/// Decides which transactions of a batch are carried out, each as if those before it already were.
fn judge(state: &State, jobs: Vec<Job>) -> Vec<Verdict> {
    let mut pending: HashMap<Key, Option<Revision>> = HashMap::new();
    let mut revision = state.progress().revision;
    let mut verdicts = Vec::with_capacity(jobs.len());
    for Job::Commit { txn, reply } in jobs {
        let found = |key: &Key| {
            let modified = || state.current(key).map(|entry| entry.modified);
            pending.get(key).copied().unwrap_or_else(modified)
        };
        if let Some(failed) = txn.conditions.iter().find(|condition| !holds(condition, found(condition.key()))) {
            verdicts.push(Verdict::Refused { key: failed.key().clone(), reply });
            continue;
        }
        revision = revision.next();
        let ops: Vec<_> = txn.ops.into_iter().map(|op| stamped(op, revision)).collect();
        for op in &ops {
            pending.insert(op.key().clone(), matches!(op, Op::Put(..)).then_some(revision));
        }
        verdicts.push(Verdict::Accepted { revision, ops, reply });
    }
    verdicts
}

fn holds(condition: &Condition, modified: Option<Revision>) -> bool {
    match condition {
        Condition::Absent(_) => modified.is_none(),
        Condition::Present(_) => modified.is_some(),
        Condition::ModifiedAt(_, at) => modified == Some(*at),
    }
}

fn stamped(op: Op, revision: Revision) -> Op {
    match op {
        Op::Put(key, value) => Op::Put(key, stamp(&value, revision)),
        Op::Delete(key) => Op::Delete(key),
    }
}

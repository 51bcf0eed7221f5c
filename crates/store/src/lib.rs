//! The store: an ordered history of keys and values under one revision counter, with watch.
//!
//! Every transaction that commits gets the next [`Revision`]. What is listed at a revision and what is watched after it
//! meet exactly. Values are bytes; this crate never looks inside them and knows no kinds. Two engines answer to the
//! [`Store`] trait: the disk log of this crate ([`Disk`]) and etcd ([`Etcd`]).
//!
//! Reading order: this file (the contract), `memory` (the state and its history), `log` (how it reaches the disk), [`etcd`] (how it is shared), [`backup`] (from one engine to another).

pub mod backup;
mod error;
pub mod etcd;
mod log;
mod memo;
mod memory;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use backup::Backup;
pub use error::Error;
pub use etcd::Etcd;
pub use log::{Config, Disk};
pub use memo::Memo;

/// The result of everything the store does.
pub type Result<T> = std::result::Result<T, Error>;

/// The name of a value: a path such as `/pods/default/web`. Keys are ordered by their bytes.
pub type Key = Arc<str>;

/// A point in the history: the number of a committed transaction. The empty store is at revision 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store in which nothing was ever written.
    pub const EMPTY: Self = Self(1);

    /// The revision of the transaction after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a caller wants stored. Where `stamp` is set, the decimal digits of the committing revision are put in at that
/// byte offset, so that the stored bytes carry their own revision and can be served as they are.
#[derive(Clone, Debug)]
pub struct Value {
    /// The bytes, without the revision.
    pub bytes: Bytes,
    /// The offset in `bytes` at which the revision belongs.
    pub stamp: Option<u32>,
    /// What its writer knows of it already, for its readers; an engine may lose it.
    pub memo: Memo,
}

impl Value {
    /// A value that does not carry its revision.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), stamp: None, memo: Memo::default() }
    }

    /// A value that gets its revision at `offset`.
    pub fn stamped(bytes: impl Into<Bytes>, offset: usize) -> Self {
        let stamp = u32::try_from(offset).ok();
        Self { bytes: bytes.into(), stamp, memo: Memo::default() }
    }
}

/// One version of one key, shared by everyone who reads it.
#[derive(Debug)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value, with its revision where it was asked for.
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision of this version.
    pub modified: Revision,
    /// Where the digits of `modified` start in `value`.
    pub stamp: Option<u32>,
    /// Room for one thing that a reader derives from this version, so that it is derived once for all readers.
    pub memo: Memo,
}

impl Entry {
    /// The value as it would read had it been written at `revision`; the same bytes where no stamp was asked for.
    pub fn stamped_as(&self, revision: Revision) -> Bytes {
        let Some(at) = self.stamp.map(|at| at as usize) else {
            return self.value.clone();
        };
        let after = at + digits(self.modified);
        let mut bytes = Vec::with_capacity(self.value.len() + 4);
        bytes.extend_from_slice(&self.value[..at]);
        bytes.extend_from_slice(revision.to_string().as_bytes());
        bytes.extend_from_slice(&self.value[after..]);
        bytes.into()
    }
}

fn digits(revision: Revision) -> usize {
    revision.0.checked_ilog10().unwrap_or(0) as usize + 1
}

/// One change of one key.
#[derive(Debug)]
pub struct Event {
    /// The key's new version. After a deletion: the last one, stamped with the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The version before, if there was one.
    pub previous: Option<Arc<Entry>>,
    /// Whether the key is gone.
    pub deleted: bool,
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.entry.modified
    }
}

/// What must hold for a transaction to be carried out.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The key does not exist.
    Absent(Key),
    /// The key exists.
    Present(Key),
    /// The key's version is the one of this revision.
    ModifiedAt(Key, Revision),
}

impl Condition {
    /// The key that the condition is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::ModifiedAt(key, _) => key,
        }
    }
}

/// One change that a transaction makes.
#[derive(Clone, Debug)]
pub enum Op {
    /// Creates or replaces the key.
    Put(Key, Value),
    /// Removes the key; nothing happens if it does not exist.
    Delete(Key),
}

impl Op {
    fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Changes that happen together, at one revision, if all conditions hold.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What is done; no key may occur twice.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Creates a key that must not exist.
    pub fn create(key: Key, value: Value) -> Self {
        Self { conditions: vec![Condition::Absent(key.clone())], ops: vec![Op::Put(key, value)] }
    }

    /// Replaces the version of `at`.
    pub fn update(key: Key, at: Revision, value: Value) -> Self {
        Self { conditions: vec![Condition::ModifiedAt(key.clone(), at)], ops: vec![Op::Put(key, value)] }
    }

    /// Removes the version of `at`.
    pub fn delete(key: Key, at: Revision) -> Self {
        Self { conditions: vec![Condition::ModifiedAt(key.clone(), at)], ops: vec![Op::Delete(key)] }
    }
}

/// A transaction that was carried out.
#[derive(Debug)]
pub struct Commit {
    /// Its revision.
    pub revision: Revision,
    /// What it changed, in the order of its operations.
    pub events: Vec<Arc<Event>>,
}

/// A key's version, and the revision at which it was read.
#[derive(Debug)]
pub struct Got {
    /// The version, if the key exists.
    pub entry: Option<Arc<Entry>>,
    /// The revision of the whole store when it was read.
    pub revision: Revision,
}

/// Which keys to list, and when.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Only keys that start with this.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<String>,
    /// As of this revision; without it, now.
    pub at: Option<Revision>,
    /// At most so many.
    pub limit: Option<usize>,
}

impl Range {
    /// All keys under a prefix, now.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }
}

/// The keys of a [`Range`], in order.
#[derive(Debug)]
pub struct Listing {
    /// The versions.
    pub entries: Vec<Arc<Entry>>,
    /// The revision that the listing shows; a watch after it misses nothing and repeats nothing.
    pub revision: Revision,
    /// How many more keys of the range the limit cut off.
    pub remaining: usize,
}

/// Some changes, in order.
#[derive(Debug)]
pub struct Batch {
    /// The changes under the watched prefix; all those of a revision come in one batch.
    pub events: Vec<Arc<Event>>,
    /// Everything up to this revision has been delivered, with this batch.
    pub revision: Revision,
}

/// What the store reaches back to and has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The latest revision.
    pub revision: Revision,
    /// The earliest revision that can be listed, and after which can be watched.
    pub oldest: Revision,
}

/// A running watch. Dropping it ends it. A watcher that falls behind is served from the history; it never holds up a
/// writer.
pub trait Watch: Send {
    /// The next changes; waits for them. `None` when the store closes; [`Error::Compacted`] when the watcher was so slow
    /// that the history has left it behind.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Batch>>>;

    /// All that happened up to now, perhaps nothing: the batch's revision is at least every one that this store has told of
    /// before the call.
    fn progress(&mut self) -> BoxFuture<'_, Result<Batch>>;
}

/// Revisions with watch.
pub trait Store: Send + Sync + 'static {
    /// One key, now.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got>>;

    /// The keys of a range.
    fn list(&self, range: Range) -> BoxFuture<'_, Result<Listing>>;

    /// Carries out a transaction. When this answers `Ok`, the change is durable. [`Error::Conflict`] when a condition
    /// does not hold; [`Error::Ambiguous`] when nobody knows whether it was carried out.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit>>;

    /// The changes under a prefix after a revision.
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<Box<dyn Watch>>>;

    /// Where the store is.
    fn progress(&self) -> BoxFuture<'_, Result<Progress>>;

    /// Forgets what was before a revision.
    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>>;
}

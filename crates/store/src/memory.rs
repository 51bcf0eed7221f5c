//! The state in memory: every key with its retained versions, and the history of changes in order. Knows no disk.

use std::collections::btree_map;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::{
    Batch, Entry, Error, Event, Got, Key, Listing, Memo, Op, Progress, Range, Result, Revision, Value, Watch, digits,
};

/// How many changes one batch carries at most, unless a single revision has more.
const BATCH: usize = 1024;
/// What an event costs beside its value.
const EVENT_OVERHEAD: usize = 256;

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) age: Duration,
    pub(crate) bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_hours(2), bytes: 16 << 20 }
    }
}

/// The versions of one key that can still be asked for.
#[derive(Debug)]
struct Versions {
    current: Option<Arc<Entry>>,
    since: Revision,
    /// What was before, oldest first, each with the revision from which it held.
    older: VecDeque<(Revision, Option<Arc<Entry>>)>,
}

impl Versions {
    fn at(&self, revision: Revision) -> Option<&Arc<Entry>> {
        if self.since <= revision {
            return self.current.as_ref();
        }
        let older = self.older.iter().rev().find(|(since, _)| *since <= revision);
        older.and_then(|(_, entry)| entry.as_ref())
    }

    fn push(&mut self, since: Revision, entry: Option<Arc<Entry>>) {
        let before = std::mem::replace(&mut self.current, entry);
        self.older.push_back((self.since, before));
        self.since = since;
    }

    /// Drops what no reader at `oldest` or later can see. Answers whether nothing is left.
    fn forget(&mut self, oldest: Revision) -> bool {
        let next = |v: &Self| v.older.get(1).map_or(v.since, |(since, _)| *since);
        while !self.older.is_empty() && next(self) <= oldest {
            self.older.pop_front();
        }
        self.older.is_empty() && self.current.is_none() && self.since <= oldest
    }
}

#[derive(Debug)]
struct Recorded {
    event: Arc<Event>,
    when: Instant,
}

impl Recorded {
    fn cost(&self) -> usize {
        self.event.entry.value.len() + EVENT_OVERHEAD
    }
}

/// All keys, and the history.
#[derive(Debug)]
pub(crate) struct State {
    keys: BTreeMap<Key, Versions>,
    history: VecDeque<Recorded>,
    history_bytes: usize,
    revision: Revision,
    oldest: Revision,
}

impl State {
    /// A state without history, as it was read from a snapshot.
    pub(crate) fn new(revision: Revision, entries: Vec<Entry>) -> Self {
        let keys = entries.into_iter().map(|entry| {
            let (key, since) = (entry.key.clone(), entry.modified);
            (key, Versions { current: Some(Arc::new(entry)), since, older: VecDeque::new() })
        });
        Self { keys: keys.collect(), history: VecDeque::new(), history_bytes: 0, revision, oldest: revision }
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress { revision: self.revision, oldest: self.oldest }
    }

    pub(crate) fn current(&self, key: &str) -> Option<&Arc<Entry>> {
        self.keys.get(key)?.current.as_ref()
    }

    /// All present versions, in order.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.keys.values().filter_map(|versions| versions.current.clone()).collect()
    }

    pub(crate) fn list(&self, range: &Range) -> Result<Listing> {
        let at = range.at.unwrap_or(self.revision);
        self.check(at)?;
        let limit = range.limit.unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        let mut remaining = 0;
        for entry in self.under(range).filter_map(|versions| versions.at(at)) {
            if entries.len() < limit {
                entries.push(entry.clone());
            } else {
                remaining += 1;
            }
        }
        Ok(Listing { entries, revision: at, remaining })
    }

    fn check(&self, at: Revision) -> Result<()> {
        if at < self.oldest {
            return Err(Error::Compacted { oldest: self.oldest });
        }
        if at > self.revision {
            return Err(Error::Future { current: self.revision });
        }
        Ok(())
    }

    fn under<'a>(&'a self, range: &'a Range) -> impl Iterator<Item = &'a Versions> {
        let start = match &range.after {
            Some(after) if after.as_str() >= range.prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(range.prefix.as_str()),
        };
        let keys: btree_map::Range<'a, Key, Versions> = self.keys.range::<str, _>((start, Bound::Unbounded));
        keys.take_while(move |(key, _)| key.starts_with(&range.prefix)).map(|(_, versions)| versions)
    }

    /// Carries out a transaction whose conditions hold. Its values must have been stamped (see [`stamp`]).
    pub(crate) fn apply(&mut self, revision: Revision, ops: Vec<Op>) -> Vec<Arc<Event>> {
        let when = Instant::now();
        self.revision = revision;
        let events: Vec<_> = ops.into_iter().filter_map(|op| self.change(revision, op)).collect();
        for event in &events {
            let recorded = Recorded { event: event.clone(), when };
            self.history_bytes += recorded.cost();
            self.history.push_back(recorded);
        }
        events
    }

    fn change(&mut self, revision: Revision, op: Op) -> Option<Arc<Event>> {
        let event = match op {
            Op::Put(key, value) => put(self.current(&key).cloned(), revision, key, value),
            Op::Delete(key) => delete(self.current(&key).cloned()?, revision),
        };
        let now = (!event.deleted).then(|| event.entry.clone());
        match self.keys.entry(event.entry.key.clone()) {
            btree_map::Entry::Occupied(mut versions) => versions.get_mut().push(revision, now),
            btree_map::Entry::Vacant(slot) => {
                slot.insert(Versions { current: now, since: revision, older: VecDeque::new() });
            }
        }
        Some(Arc::new(event))
    }

    /// Forgets history beyond the retention.
    pub(crate) fn trim(&mut self, retention: Retention) {
        let Some(now) = self.history.back().map(|last| last.when) else {
            return;
        };
        while let Some(first) = self.history.front() {
            let old = now.duration_since(first.when) > retention.age;
            if !old && self.history_bytes <= retention.bytes {
                return;
            }
            self.compact(first.event.revision());
        }
    }

    /// Forgets everything before a revision.
    pub(crate) fn compact(&mut self, oldest: Revision) {
        let oldest = oldest.min(self.revision);
        while let Some(first) = self.history.front() {
            if first.event.revision() > oldest {
                break;
            }
            let Some(first) = self.history.pop_front() else {
                break;
            };
            self.history_bytes -= first.cost();
            let key = &first.event.entry.key;
            if self.keys.get_mut(key).is_some_and(|versions| versions.forget(oldest)) {
                self.keys.remove(key);
            }
        }
        self.oldest = self.oldest.max(oldest);
    }

    /// All that happened and is not forgotten.
    pub(crate) fn history(&self) -> Vec<Arc<Event>> {
        self.history.iter().map(|recorded| recorded.event.clone()).collect()
    }

    /// What a revision changed.
    pub(crate) fn changes_at(&self, revision: Revision) -> Result<Vec<Arc<Event>>> {
        self.check(Revision(revision.0.saturating_sub(1)))?;
        let first = self.history.partition_point(|recorded| recorded.event.revision() < revision);
        let after = self.history.range(first..).map(|recorded| &recorded.event);
        Ok(after.take_while(|event| event.revision() == revision).cloned().collect())
    }

    /// The changes under a prefix after `cursor`, whole revisions, about `most` of them.
    fn changes(&self, prefix: &str, cursor: Revision, most: usize) -> Result<Batch> {
        self.check(cursor)?;
        let first = self.history.partition_point(|recorded| recorded.event.revision() <= cursor);
        let mut events: Vec<Arc<Event>> = Vec::new();
        for Recorded { event, .. } in self.history.range(first..) {
            let full = events.len() >= most;
            if let (true, Some(last)) = (full, events.last())
                && last.revision() < event.revision()
            {
                let revision = last.revision();
                return Ok(Batch { events, revision });
            }
            if event.entry.key.starts_with(prefix) {
                events.push(event.clone());
            }
        }
        Ok(Batch { events, revision: self.revision })
    }
}

fn put(previous: Option<Arc<Entry>>, revision: Revision, key: Key, value: Value) -> Event {
    let created = previous.as_ref().map_or(revision, |before| before.created);
    let Value { bytes: value, stamp, memo } = value;
    let entry = Entry { key, value, created, modified: revision, stamp, memo };
    Event { entry: Arc::new(entry), previous, deleted: false }
}

fn delete(previous: Arc<Entry>, revision: Revision) -> Event {
    let entry = Entry {
        key: previous.key.clone(),
        value: previous.stamped_as(revision),
        created: previous.created,
        modified: revision,
        stamp: previous.stamp,
        memo: Memo::default(),
    };
    Event { entry: Arc::new(entry), previous: Some(previous), deleted: true }
}

/// Puts the digits of a revision into a value at its stamp.
pub(crate) fn stamp(value: &Value, revision: Revision) -> Value {
    let Some(at) = value.stamp.map(|at| at as usize).filter(|at| *at <= value.bytes.len()) else {
        return Value { stamp: None, ..value.clone() };
    };
    let mut bytes = Vec::with_capacity(value.bytes.len() + digits(revision));
    bytes.extend_from_slice(&value.bytes[..at]);
    bytes.extend_from_slice(revision.to_string().as_bytes());
    bytes.extend_from_slice(&value.bytes[at..]);
    Value { bytes: Bytes::from(bytes), stamp: value.stamp, memo: value.memo.clone() }
}

/// The watchers of one prefix.
struct Group {
    prefix: String,
    changed: watch::Sender<Revision>,
}

/// The state, and who waits for its changes.
pub(crate) struct Memory {
    state: RwLock<State>,
    /// `None` once the store is closed.
    groups: Mutex<Option<Vec<Group>>>,
}

impl Memory {
    pub(crate) fn new(state: State) -> Self {
        Self { state: RwLock::new(state), groups: Mutex::new(Some(Vec::new())) }
    }

    // A panic while the lock was held leaves a state in which each step was complete, so the lock is taken all the same.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn groups(&self) -> MutexGuard<'_, Option<Vec<Group>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One key, as it is here.
    pub(crate) fn get(&self, key: &str) -> Got {
        let state = self.read();
        Got { entry: state.current(key).cloned(), revision: state.revision }
    }

    /// The changes after a revision, as they come here.
    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<Box<dyn Watch>> {
        Ok(Box::new(Watcher::new(self.clone(), prefix, after)?))
    }

    /// Wakes those who watch a prefix of a changed key.
    pub(crate) fn wake<'a>(&self, events: impl Iterator<Item = &'a Arc<Event>> + Clone) {
        for group in self.groups().iter().flatten() {
            let mut touched = events.clone().filter(|event| event.entry.key.starts_with(&group.prefix));
            if let Some(event) = touched.next() {
                group.changed.send_replace(event.revision());
            }
        }
    }

    /// Takes another state in the place of this one. Watchers find that the history has left them behind.
    pub(crate) fn replace(&self, state: State) {
        let at = state.progress().revision;
        *self.write() = state;
        for group in self.groups().iter().flatten() {
            group.changed.send_replace(at);
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.groups().take();
    }

    fn subscribe(&self, prefix: &str) -> Result<watch::Receiver<Revision>> {
        let mut groups = self.groups();
        let groups = groups.as_mut().ok_or(Error::Closed)?;
        if let Some(group) = groups.iter().find(|group| group.prefix == prefix) {
            return Ok(group.changed.subscribe());
        }
        groups.retain(|group| group.changed.receiver_count() > 0);
        let (changed, receiver) = watch::channel(Revision::EMPTY);
        groups.push(Group { prefix: prefix.to_owned(), changed });
        Ok(receiver)
    }
}

/// A watch over the history in memory.
struct Watcher {
    memory: Arc<Memory>,
    prefix: String,
    cursor: Revision,
    changed: watch::Receiver<Revision>,
}

impl Watcher {
    fn new(memory: Arc<Memory>, prefix: &str, after: Revision) -> Result<Self> {
        let changed = memory.subscribe(prefix)?;
        memory.read().check(after)?;
        Ok(Self { memory, prefix: prefix.to_owned(), cursor: after, changed })
    }

    fn take(&mut self, most: usize) -> Result<Batch> {
        let batch = self.memory.read().changes(&self.prefix, self.cursor, most)?;
        self.cursor = batch.revision;
        Ok(batch)
    }
}

impl Watch for Watcher {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Batch>>> {
        Box::pin(async move {
            loop {
                match self.take(BATCH) {
                    Ok(batch) if batch.events.is_empty() => self.changed.changed().await.ok()?,
                    batch => return Some(batch),
                }
            }
        })
    }

    fn progress(&mut self) -> BoxFuture<'_, Result<Batch>> {
        Box::pin(async move { self.take(usize::MAX) })
    }
}

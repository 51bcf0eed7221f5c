//! What etcd tells, into the memory: one snapshot, then one watch on, at whatever member can serve it.
//!
//! The watch is on the whole key space. Every revision of etcd then comes by with an event, so the memory's revision is etcd's, and a reader can
//! tell from the number alone that nothing is missing; progress notifications of etcd before 3.4.25 and 3.5.8 may run ahead of events
//! (etcd issue 15220) and are not relied upon.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use super::keys::Keys;
use super::link::{Fault, Link, Picked};
use super::proto::{self, Event, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse};
use super::txn::{entry, revision};
use crate::memory::{Memory, Retention, State, stamp};
use crate::{Entry, Error, Op, Result, Revision};

/// How many keys a page of the snapshot has.
const PAGE: i64 = 250;
/// A member that was asked to watch says so within this time.
const OPENING: Duration = Duration::from_secs(2);
/// Between attempts to watch, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Who keeps the memory up.
pub(super) struct Feed {
    pub(super) link: Arc<Link>,
    pub(super) keys: Arc<Keys>,
    pub(super) memory: Arc<Memory>,
    /// The memory's revision, for those who wait for it.
    pub(super) reached: watch::Sender<Revision>,
    /// The watch seems to be stuck: begin a new one elsewhere.
    pub(super) stalled: Arc<Notify>,
    /// etcd has gone back behind what the memory has: begin anew.
    pub(super) rewound: Arc<Notify>,
    pub(super) retention: Retention,
}

/// Why a watch has ended.
enum End {
    /// It did not even begin.
    Unopened(String),
    Lost(String),
    /// The memory and etcd do not meet any more.
    Apart(&'static str),
}

impl Feed {
    /// Reads everything, before anyone asks.
    pub(super) async fn load(link: &Link, keys: &Keys) -> Result<State> {
        loop {
            match pages(link, keys).await {
                // Compacted while it was being read.
                Err(Error::Compacted { .. }) => {}
                result => return result.map(|(at, entries)| State::new(at, entries)),
            }
        }
    }

    /// Works until it is aborted.
    pub(super) async fn run(self) {
        let mut pause = PAUSES.0;
        loop {
            match self.follow().await {
                End::Unopened(why) => {
                    tracing::debug!(why, "no watch on etcd");
                    pause = (pause * 2).min(PAUSES.1);
                }
                End::Lost(why) => {
                    tracing::warn!(why, "the watch on etcd has ended and is begun anew");
                    pause = PAUSES.0;
                }
                End::Apart(why) => self.reload(why).await,
            }
            sleep(pause).await;
        }
    }

    async fn reload(&self, why: &str) {
        tracing::warn!(why, "everything is read from etcd anew");
        match Self::load(&self.link, &self.keys).await {
            Ok(state) => {
                let at = state.progress().revision;
                self.memory.replace(state);
                self.reached.send_replace(at);
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "reading everything from etcd"),
        }
    }

    async fn follow(&self) -> End {
        let picked = self.link.pick();
        let end = match self.open(&picked).await {
            Ok(stream) => self.drain(&picked, stream).await,
            Err(fault) => End::Unopened(fault.to_string()),
        };
        if !matches!(end, End::Apart(_)) {
            self.link.give_up(&picked);
        }
        end
    }

    async fn open(&self, picked: &Picked) -> std::result::Result<Streaming<WatchResponse>, Fault> {
        let start = self.memory.read().progress().revision.next();
        let everything = vec![0];
        let create = WatchCreateRequest {
            key: everything.clone(),
            range_end: everything,
            start_revision: start.0.cast_signed(),
        };
        self.link.watch(picked, WatchRequest { create: Some(create) }).await
    }

    async fn drain(&self, picked: &Picked, mut stream: Streaming<WatchResponse>) -> End {
        let silent = || End::Unopened(format!("etcd at {} does not watch", self.link.url(picked)));
        let Ok(first) = timeout(OPENING, stream.message()).await else { return silent() };
        let mut told = first;
        loop {
            match told {
                Ok(Some(response)) => {
                    if let Some(end) = self.take(response) {
                        return end;
                    }
                }
                Ok(None) => return End::Lost(format!("etcd at {} has closed it", self.link.url(picked))),
                Err(status) => return End::Lost(self.link.fault(picked, &status).to_string()),
            }
            told = tokio::select! {
                told = stream.message() => told,
                () = self.stalled.notified() => return End::Lost(format!("etcd at {} is silent", self.link.url(picked))),
                () = self.rewound.notified() => return End::Apart("etcd has gone back in time"),
            };
        }
    }

    /// Takes in what one message tells.
    fn take(&self, response: WatchResponse) -> Option<End> {
        if response.compact_revision != 0 {
            return Some(End::Apart("etcd has forgotten what came after the last event"));
        }
        if response.canceled {
            return Some(End::Lost(format!("etcd has ended it: {}", response.cancel_reason)));
        }
        let mut events = response.events.into_iter().filter(|event| event.kv.is_some()).peekable();
        let mut changed = Vec::new();
        let mut state = self.memory.write();
        while let Some(first) = events.next() {
            let at = modified(&first);
            let mut ops = vec![first];
            while let Some(next) = events.next_if(|next| modified(next) == at) {
                ops.push(next);
            }
            // After a change of members, what is known already may come once more.
            if at > state.progress().revision {
                let ops = ops.into_iter().filter_map(|event| self.op(event)).collect();
                changed.extend(state.apply(at, ops));
            }
        }
        state.trim(self.retention);
        let at = state.progress().revision;
        drop(state);
        // Who asked for a change goes on first, as with the disk log.
        self.reached.send_replace(at);
        self.memory.wake(changed.iter());
        None
    }

    /// What an event does to the memory. A foreign value in the place of one of ours takes it away.
    fn op(&self, event: Event) -> Option<Op> {
        let kv = event.kv?;
        let key = self.keys.own(&kv.key)?;
        if event.kind == Event::DELETE {
            return Some(Op::Delete(key));
        }
        Some(match self.keys.read(&key, kv.value) {
            Some(value) => Op::Put(key, stamp(&value, revision(kv.mod_revision))),
            None => Op::Delete(key),
        })
    }
}

fn modified(event: &Event) -> Revision {
    revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
}

/// All that is ours, as of one revision.
async fn pages(link: &Link, keys: &Keys) -> Result<(Revision, Vec<Entry>)> {
    let (mut from, to) = keys.range();
    let mut at = 0;
    let mut entries = Vec::new();
    loop {
        let page = RangeRequest { key: from, range_end: to.clone(), limit: PAGE, revision: at, count_only: false };
        let answer: RangeResponse = link.read(proto::RANGE, page).await?;
        if at == 0 {
            at = answer.header.map_or(0, |header| header.revision);
        }
        let last = answer.kvs.last().map(|kv| kv.key.to_vec());
        entries.extend(answer.kvs.into_iter().filter_map(|kv| entry(keys, kv)));
        match last {
            // The smallest key after it.
            Some(mut last) if answer.more => {
                last.push(0);
                from = last;
            }
            _ => return Ok((revision(at), entries)),
        }
    }
}

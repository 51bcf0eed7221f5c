//! etcd as an engine: writes go to it as compare-and-swap transactions; reads come from a memory like the disk log's, which one watch keeps up.
//!
//! A read is as fresh as etcd: it asks for the latest revision (`barrier`) and waits until the memory has it. A commit waits until the memory has
//! its own revision, so who writes sees what was written, and all watchers see the same history in the same order. Several servers may use one
//! etcd, under one prefix.
//!
//! Values are stored without their revision, which etcd keeps itself; the caller's [`Read`] finds its place again.
//!
//! Reading order: `proto` (the messages), `link` (the members), `keys`, `txn`, `feed` (etcd to memory), `barrier`, `compact`.

mod barrier;
mod compact;
mod feed;
mod keys;
mod link;
mod proto;
mod txn;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::memory::{Memory, Retention};
use crate::{Commit, Error, Got, Listing, Progress, Range, Result, Revision, Store, Txn, Value, Watch};
use barrier::Barrier;
use feed::Feed;
use keys::Keys;
use link::{DEADLINE, Link};
use proto::{CompactionRequest, CompactionResponse, TxnRequest, TxnResponse};

/// How a stored value is read: with the place of its revision, which is not in the bytes. `None` for what is not one of the caller's values.
pub type Read = Arc<dyn Fn(&str, Bytes) -> Option<Value> + Send + Sync>;

/// A watch that is so late behind what etcd has is begun anew at another member.
const STALL: Duration = Duration::from_secs(2);

/// How an [`Etcd`] store is opened.
#[derive(Clone)]
pub struct Config {
    /// The members, such as `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Where the keys lie. Servers with the same prefix share one state.
    pub prefix: String,
    /// PEM of the authority of the members' certificates; needed for `https`.
    pub authority_pem: Option<String>,
    /// PEM of the certificate to show, and of its key.
    pub identity: Option<(String, String)>,
    /// How values are read.
    pub read: Read,
    /// How often the history is shortened; never without it.
    pub compaction: Option<Duration>,
    /// The largest request that etcd takes (its `--max-request-bytes`).
    pub request_bytes: usize,
    /// How long the history is kept in memory.
    pub history_age: Duration,
    /// How large the history in memory may grow.
    pub history_bytes: usize,
}

impl Config {
    /// The settings for some members.
    pub fn new(endpoints: impl IntoIterator<Item = String>) -> Self {
        let Retention { age: history_age, bytes: history_bytes } = Retention::default();
        Self {
            endpoints: endpoints.into_iter().collect(),
            prefix: "/registry".to_owned(),
            authority_pem: None,
            identity: None,
            read: Arc::new(|_, bytes| Some(Value::plain(bytes))),
            compaction: Some(Duration::from_mins(5)),
            request_bytes: 1536 << 10,
            history_age,
            history_bytes,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// A store in etcd. Dropping it ends the watches.
pub struct Etcd {
    link: Arc<Link>,
    keys: Arc<Keys>,
    memory: Arc<Memory>,
    barrier: Barrier,
    reached: watch::Receiver<Revision>,
    stalled: Arc<Notify>,
    request_bytes: usize,
    tasks: Vec<JoinHandle<()>>,
}

impl Etcd {
    /// Reads everything under the prefix and begins to follow it. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the configuration cannot work, [`Error::Unavailable`] when no member could be reached.
    pub async fn open(config: Config) -> Result<Self> {
        let link = Arc::new(Link::new(&config)?);
        let keys = Arc::new(Keys::new(&config.prefix, config.read.clone()));
        let state = Feed::load(&link, &keys).await?;
        let (reached, receiver) = watch::channel(state.progress().revision);
        let memory = Arc::new(Memory::new(state));
        let (stalled, rewound) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (barrier, reader) = barrier::new(link.clone(), memory.clone(), rewound.clone());
        let retention = Retention { age: config.history_age, bytes: config.history_bytes };
        let feed = Feed {
            link: link.clone(),
            keys: keys.clone(),
            memory: memory.clone(),
            reached,
            stalled: stalled.clone(),
            rewound,
            retention,
        };
        let mut tasks = vec![tokio::spawn(feed.run()), tokio::spawn(reader.run())];
        tasks.extend(config.compaction.map(|every| tokio::spawn(compact::run(link.clone(), every))));
        let request_bytes = config.request_bytes;
        Ok(Self { link, keys, memory, barrier, reached: receiver, stalled, request_bytes, tasks })
    }

    /// Waits until the memory has what etcd had when this was called.
    async fn catch_up(&self) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        let late = |_| {
            let trouble = self.link.trouble();
            Error::Unavailable { why: format!("no answer within {} s, last trouble: {trouble}", DEADLINE.as_secs()) }
        };
        let revision = timeout_at(end, self.barrier.revision()).await.map_err(late)??;
        if self.reach(revision, end).await {
            return Ok(());
        }
        Err(Error::Unavailable { why: format!("the watch on etcd has not come to revision {revision} yet") })
    }

    /// Waits until the memory has a revision.
    async fn reach(&self, revision: Revision, end: Instant) -> bool {
        let mut reached = self.reached.clone();
        if timeout(STALL, reached.wait_for(|at| *at >= revision)).await.is_ok_and(|at| at.is_ok()) {
            return true;
        }
        self.stalled.notify_one();
        timeout_at(end, reached.wait_for(|at| *at >= revision)).await.is_ok_and(|at| at.is_ok())
    }

    /// As [`Self::catch_up`], if the memory has not come so far yet.
    async fn reach_known(&self, revision: Revision) -> Result<()> {
        if self.memory.read().progress().revision >= revision { Ok(()) } else { self.catch_up().await }
    }

    async fn carry_out(&self, txn: Txn) -> Result<Commit> {
        let request = txn::request(&self.keys, &txn);
        let bytes = request.encoded_len();
        if bytes > self.request_bytes {
            return Err(Error::TooLarge { bytes, limit: self.request_bytes });
        }
        let answer: TxnResponse = self.link.write::<TxnRequest, _>(proto::TXN, request).await?;
        let revision = answer.header.as_ref().map_or(Revision::EMPTY, |header| txn::revision(header.revision));
        if !answer.succeeded {
            return Err(txn::conflict(&self.keys, &txn, answer));
        }
        let end = Instant::now() + DEADLINE;
        let unseen =
            |what: &str| Error::Ambiguous { why: format!("it was carried out at revision {revision}, {what}") };
        if !self.reach(revision, end).await {
            return Err(unseen("but the watch on etcd has not shown it yet"));
        }
        if !txn::has_changed(&answer) {
            return Ok(Commit { revision, events: Vec::new() });
        }
        let events = self.memory.read().changes_at(revision);
        events.map(|events| Commit { revision, events }).map_err(|_| unseen("and is forgotten already"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.memory.close();
    }
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Got>> {
        Box::pin(async move {
            self.catch_up().await?;
            Ok(self.memory.get(key))
        })
    }

    fn list(&self, range: Range) -> BoxFuture<'_, Result<Listing>> {
        Box::pin(async move {
            match range.at {
                Some(at) => self.reach_known(at).await?,
                None => self.catch_up().await?,
            }
            self.memory.read().list(&range)
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit>> {
        Box::pin(self.carry_out(txn))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        Box::pin(async move {
            self.reach_known(after).await?;
            self.memory.watch(prefix, after)
        })
    }

    fn progress(&self) -> BoxFuture<'_, Result<Progress>> {
        Box::pin(async move {
            self.catch_up().await?;
            Ok(self.memory.read().progress())
        })
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.reach_known(before).await?;
            self.memory.write().compact(before);
            let request = CompactionRequest { revision: before.0.cast_signed() };
            let answer: Result<CompactionResponse> = self.link.write(proto::COMPACT, request).await;
            match answer {
                // Another server has been here already.
                Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }
}

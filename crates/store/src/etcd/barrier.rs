//! How late one may be: the revision that a linearizable read finds. All who wait while one read is under way share the next.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};

use super::link::Link;
use super::proto::{self, RangeRequest, RangeResponse};
use super::txn::revision;
use crate::memory::Memory;
use crate::{Error, Result, Revision};

type Ask = oneshot::Sender<std::result::Result<Revision, String>>;

/// Asks for the latest revision.
#[derive(Clone)]
pub(super) struct Barrier {
    asks: mpsc::UnboundedSender<Ask>,
}

impl Barrier {
    /// The latest revision of etcd at some time after this call.
    pub(super) async fn revision(&self) -> Result<Revision> {
        let (ask, answer) = oneshot::channel();
        self.asks.send(ask).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?.map_err(|why| Error::Unavailable { why })
    }
}

/// Who does the reading.
pub(super) struct Reader {
    link: Arc<Link>,
    memory: Arc<Memory>,
    rewound: Arc<Notify>,
    asks: mpsc::UnboundedReceiver<Ask>,
}

/// A barrier and its reader.
pub(super) fn new(link: Arc<Link>, memory: Arc<Memory>, rewound: Arc<Notify>) -> (Barrier, Reader) {
    let (sender, asks) = mpsc::unbounded_channel();
    (Barrier { asks: sender }, Reader { link, memory, rewound, asks })
}

impl Reader {
    /// Works until it is aborted.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.asks.recv().await {
            let mut waiting = vec![first];
            while let Ok(ask) = self.asks.try_recv() {
                waiting.push(ask);
            }
            let found = self.read().await;
            for ask in waiting {
                // Who has given up needs no answer.
                let _ = ask.send(found.clone());
            }
        }
    }

    async fn read(&self) -> std::result::Result<Revision, String> {
        let known = self.memory.read().progress().revision;
        // Of one key the number alone: the header is what is asked for.
        let request = RangeRequest { key: vec![0], count_only: true, ..RangeRequest::default() };
        let answer: Result<RangeResponse> = self.link.read(proto::RANGE, request).await;
        let answer = answer.map_err(|error| match error {
            Error::Unavailable { why } => why,
            error => error.to_string(),
        })?;
        let found = answer.header.map_or(Revision::EMPTY, |header| revision(header.revision));
        // What was in memory before came from etcd: less can only be another history, as after a restored backup.
        if found < known {
            self.rewound.notify_one();
            return Err(format!("etcd has gone back from revision {known} to {found}; everything is read anew"));
        }
        Ok(found)
    }
}

//! Keeps etcd's history short: every five minutes what is older than the last five is forgotten, once for all servers, as upstream does it and
//! with the same key, so that servers of both kinds would not do it twice.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::link::Link;
use super::proto::{
    self, CompactionRequest, CompactionResponse, Compare, Operand, PutRequest, RangeRequest, Relation, Request,
    RequestOp, Response, Target, TxnRequest, TxnResponse,
};
use crate::Result;

const KEY: &[u8] = b"compact_rev_key";

/// Whose turn it was, as far as this server knows.
#[derive(Default)]
struct Turn {
    /// How often the key was written.
    version: i64,
    /// The revision when it was last seen.
    revision: i64,
}

/// Works until it is aborted.
pub(super) async fn run(link: Arc<Link>, every: Duration) {
    let mut turn = Turn::default();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = take(&link, &mut turn).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "etcd's history is not shortened this time");
        }
    }
}

/// Forgets what was before the last turn, if no other server has had one since.
async fn take(link: &Link, turn: &mut Turn) -> Result<()> {
    let answer: TxnResponse = link.write(proto::TXN, request(turn)).await?;
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    if !answer.succeeded {
        *turn = Turn { version: version(&answer), revision };
        return Ok(());
    }
    let before = std::mem::replace(turn, Turn { version: turn.version + 1, revision });
    if before.revision == 0 {
        return Ok(());
    }
    let _: CompactionResponse = link.write(proto::COMPACT, CompactionRequest { revision: before.revision }).await?;
    tracing::debug!(before = before.revision, "etcd's history is shortened");
    Ok(())
}

fn request(turn: &Turn) -> TxnRequest {
    let operand = Some(Operand::Version(turn.version));
    let unchanged =
        Compare { result: Relation::Equal.into(), target: Target::Version.into(), key: KEY.to_vec(), operand };
    let put = PutRequest { key: KEY.to_vec(), value: turn.revision.to_string().into() };
    let get = RangeRequest { key: KEY.to_vec(), ..RangeRequest::default() };
    TxnRequest {
        compare: vec![unchanged],
        success: vec![RequestOp { request: Some(Request::Put(put)) }],
        failure: vec![RequestOp { request: Some(Request::Range(get)) }],
    }
}

fn version(answer: &TxnResponse) -> i64 {
    let found = answer.responses.iter().find_map(|op| match &op.response {
        Some(Response::Range(range)) => range.kvs.first(),
        _ => None,
    });
    found.map_or(0, |kv| kv.version)
}

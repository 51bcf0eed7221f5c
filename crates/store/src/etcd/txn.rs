//! A transaction as etcd knows it, there and back. Pure.

use std::sync::Arc;

use super::keys::Keys;
use super::proto::{
    Compare, DeleteRangeRequest, KeyValue, Operand, PutRequest, RangeRequest, Relation, Request, RequestOp, Response,
    Target, TxnRequest, TxnResponse,
};
use crate::{Condition, Entry, Error, Op, Revision, Txn};

/// What etcd is asked: if a condition does not hold, all the keys that they are about are read instead.
pub(super) fn request(keys: &Keys, txn: &Txn) -> TxnRequest {
    let read = |condition: &Condition| RangeRequest { key: keys.full(condition.key()), ..RangeRequest::default() };
    let failure = txn.conditions.iter().map(|condition| op(Request::Range(read(condition))));
    TxnRequest {
        compare: txn.conditions.iter().map(|condition| compare(keys, condition)).collect(),
        success: txn.ops.iter().map(|change| op(self::change(keys, change))).collect(),
        failure: failure.collect(),
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn change(keys: &Keys, op: &Op) -> Request {
    match op {
        Op::Put(key, value) => Request::Put(PutRequest { key: keys.full(key), value: value.bytes.clone() }),
        Op::Delete(key) => Request::Delete(DeleteRangeRequest { key: keys.full(key) }),
    }
}

fn compare(keys: &Keys, condition: &Condition) -> Compare {
    let (result, target, operand) = match condition {
        Condition::Absent(_) => (Relation::Equal, Target::Create, Operand::Create(0)),
        Condition::Present(_) => (Relation::Greater, Target::Create, Operand::Create(0)),
        Condition::ModifiedAt(_, at) => (Relation::Equal, Target::Mod, Operand::Mod(at.0.cast_signed())),
    };
    let key = keys.full(condition.key());
    Compare { result: result.into(), target: target.into(), key, operand: Some(operand) }
}

/// Whether a transaction that was carried out changed anything: one that only removes what is not there has no revision of its own.
pub(super) fn has_changed(answer: &TxnResponse) -> bool {
    answer.responses.iter().any(|op| match &op.response {
        Some(Response::Put(_)) => true,
        Some(Response::Delete(gone)) => gone.deleted > 0,
        _ => false,
    })
}

/// The error that tells which condition did not hold.
pub(super) fn conflict(keys: &Keys, txn: &Txn, answer: TxnResponse) -> Error {
    let found = answer.responses.into_iter().map(|op| match op.response {
        Some(Response::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    match txn.conditions.iter().zip(found).find(|(condition, kv)| !holds(condition, kv.as_ref())) {
        Some((condition, kv)) => {
            let current = kv.and_then(|kv| entry(keys, kv)).map(Arc::new);
            Error::Conflict { key: condition.key().clone(), current }
        }
        None => Error::Unusable { what: "etcd refuses a transaction whose conditions all hold".to_owned() },
    }
}

fn holds(condition: &Condition, kv: Option<&KeyValue>) -> bool {
    match condition {
        Condition::Absent(_) => kv.is_none(),
        Condition::Present(_) => kv.is_some(),
        Condition::ModifiedAt(_, at) => kv.is_some_and(|kv| revision(kv.mod_revision) == *at),
    }
}

/// A version as it is kept in memory. `None` for a value that is not one of ours.
pub(super) fn entry(keys: &Keys, kv: KeyValue) -> Option<Entry> {
    let key = keys.own(&kv.key)?;
    let (created, modified) = (revision(kv.create_revision), revision(kv.mod_revision));
    let value = keys.read(&key, kv.value)?;
    let value = crate::memory::stamp(&value, modified);
    let memo = crate::Memo::default();
    Some(Entry { key, value: value.bytes, created, modified, stamp: value.stamp, memo })
}

/// etcd's numbers are signed and never negative.
pub(super) fn revision(number: i64) -> Revision {
    Revision(number.max(0).cast_unsigned())
}

//! The messages of etcd's gRPC API that are used here, kept by hand so that building needs no protoc: names, numbers and types are those of
//! `etcdserverpb/rpc.proto` and `mvccpb/kv.proto` (etcd 3.4 and later). Fields that are never read are left out; prost skips them.

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};

pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(super) const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";

#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    #[prost(int64, tag = 3)]
    pub revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "bytes", tag = 1)]
    pub key: Bytes,
    #[prost(int64, tag = 2)]
    pub create_revision: i64,
    #[prost(int64, tag = 3)]
    pub mod_revision: i64,
    /// How often the key was written since it was created.
    #[prost(int64, tag = 4)]
    pub version: i64,
    #[prost(bytes = "bytes", tag = 5)]
    pub value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "vec", tag = 1)]
    pub key: Vec<u8>,
    /// Empty: the one key. Otherwise the first key that is not meant any more.
    #[prost(bytes = "vec", tag = 2)]
    pub range_end: Vec<u8>,
    #[prost(int64, tag = 3)]
    pub limit: i64,
    /// Zero: the latest.
    #[prost(int64, tag = 4)]
    pub revision: i64,
    #[prost(bool, tag = 9)]
    pub count_only: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = 1)]
    pub header: Option<Header>,
    #[prost(message, repeated, tag = 2)]
    pub kvs: Vec<KeyValue>,
    #[prost(bool, tag = 3)]
    pub more: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = 1)]
    pub key: Vec<u8>,
    #[prost(bytes = "bytes", tag = 2)]
    pub value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = 1)]
    pub key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRangeResponse {
    #[prost(int64, tag = 2)]
    pub deleted: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestOp {
    #[prost(oneof = "Request", tags = "1, 2, 3")]
    pub request: Option<Request>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Request {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResponseOp {
    #[prost(oneof = "Response", tags = "1, 2, 3")]
    pub response: Option<Response>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Response {
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    #[prost(message, tag = "2")]
    Put(PutResponse),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeResponse),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum Relation {
    Equal = 0,
    Greater = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum Target {
    Version = 0,
    Create = 1,
    Mod = 2,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Compare {
    #[prost(enumeration = "Relation", tag = 1)]
    pub result: i32,
    #[prost(enumeration = "Target", tag = 2)]
    pub target: i32,
    #[prost(bytes = "vec", tag = 3)]
    pub key: Vec<u8>,
    #[prost(oneof = "Operand", tags = "4, 5, 6")]
    pub operand: Option<Operand>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Operand {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(int64, tag = "5")]
    Create(i64),
    #[prost(int64, tag = "6")]
    Mod(i64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnRequest {
    #[prost(message, repeated, tag = 1)]
    pub compare: Vec<Compare>,
    #[prost(message, repeated, tag = 2)]
    pub success: Vec<RequestOp>,
    #[prost(message, repeated, tag = 3)]
    pub failure: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnResponse {
    #[prost(message, optional, tag = 1)]
    pub header: Option<Header>,
    #[prost(bool, tag = 2)]
    pub succeeded: bool,
    #[prost(message, repeated, tag = 3)]
    pub responses: Vec<ResponseOp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CompactionRequest {
    #[prost(int64, tag = 1)]
    pub revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CompactionResponse {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchRequest {
    #[prost(message, optional, tag = 1)]
    pub create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = 1)]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = 2)]
    pub range_end: Vec<u8>,
    #[prost(int64, tag = 3)]
    pub start_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchResponse {
    #[prost(bool, tag = 3)]
    pub created: bool,
    #[prost(bool, tag = 4)]
    pub canceled: bool,
    #[prost(int64, tag = 5)]
    pub compact_revision: i64,
    #[prost(string, tag = 6)]
    pub cancel_reason: String,
    #[prost(message, repeated, tag = 11)]
    pub events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// 0 is a put, 1 a deletion.
    #[prost(int32, tag = 1)]
    pub kind: i32,
    #[prost(message, optional, tag = 2)]
    pub kv: Option<KeyValue>,
}

impl Event {
    pub(super) const DELETE: i32 = 1;
}

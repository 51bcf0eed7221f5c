//! The way to etcd: one member at a time, the next one as soon as it fails. Knows which calls may be repeated.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, ConnectError, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Config;
use super::proto::{self, WatchRequest, WatchResponse};
use crate::{Error, Result, Revision};

/// What is asked of etcd is answered within this time, or an error is.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How long one member may take before another is asked.
const ATTEMPT: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(2);
/// Between two rounds in which no member could be reached.
const PAUSE: Duration = Duration::from_millis(50);
const PING: Duration = Duration::from_secs(5);
const PONG: Duration = Duration::from_secs(3);
/// A page of a listing and a batch of events of the largest values must fit.
const MESSAGE_BYTES: usize = 512 << 20;

/// What a failed call means.
#[derive(Debug)]
pub(super) enum Fault {
    /// This member cannot serve now and has done nothing; another may.
    Passing(String),
    /// Nobody knows whether it was done.
    Unknown(String),
    /// etcd refuses, as any member would.
    Final(Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passing(why) | Self::Unknown(why) => f.write_str(why),
            Self::Final(error) => error.fmt(f),
        }
    }
}

/// When a call that has failed is made at another member.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Always,
    IfNotDone,
}

struct Member {
    url: String,
    channel: Channel,
}

/// All members, and which of them is used now.
pub(super) struct Link {
    members: Vec<Member>,
    current: AtomicUsize,
    /// Why a call failed last.
    trouble: Mutex<String>,
}

/// The member in use when a call was made.
pub(super) struct Picked {
    index: usize,
    channel: Channel,
}

impl Link {
    /// Connects to nobody yet.
    pub(super) fn new(config: &Config) -> Result<Self> {
        let tls = tls(config);
        let member = |url: &String| member(url, tls.clone());
        let members = config.endpoints.iter().map(member).collect::<Result<Vec<_>>>()?;
        if members.is_empty() {
            return Err(Error::Unusable { what: "no etcd member is named".to_owned() });
        }
        // Several servers should not all lean on the first member.
        let current = AtomicUsize::new(std::process::id() as usize % members.len());
        Ok(Self { members, current, trouble: Mutex::default() })
    }

    pub(super) fn pick(&self) -> Picked {
        let index = self.current.load(Ordering::Relaxed);
        Picked { index, channel: self.members[index].channel.clone() }
    }

    /// The member has failed: everyone goes on to the next, unless someone has said so already.
    pub(super) fn give_up(&self, picked: &Picked) {
        let next = (picked.index + 1) % self.members.len();
        let _ = self.current.compare_exchange(picked.index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Why a call failed last; empty if none has.
    pub(super) fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a call that changes nothing, at as many members as it takes.
    pub(super) async fn read<Q, R>(&self, path: &'static str, request: Q) -> Result<R>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        self.ask(path, request, Repeat::Always).await
    }

    /// Makes a call that changes something: at another member only if the one before has certainly not done it.
    pub(super) async fn write<Q, R>(&self, path: &'static str, request: Q) -> Result<R>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        self.ask(path, request, Repeat::IfNotDone).await
    }

    async fn ask<Q, R>(&self, path: &'static str, request: Q, repeat: Repeat) -> Result<R>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let end = Instant::now() + DEADLINE;
        let mut failed = 0;
        let mut last = None;
        loop {
            let picked = self.pick();
            let until = if repeat == Repeat::Always { end.min(Instant::now() + ATTEMPT) } else { end };
            let fault = match timeout_at(until, self.once(&picked, path, request.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(fault)) => fault,
                // The last attempt may have had no time: why the one before failed tells more.
                Err(_) => {
                    Fault::Unknown(last.unwrap_or_else(|| format!("etcd at {} does not answer", self.url(&picked))))
                }
            };
            if let Fault::Final(error) = fault {
                return Err(error);
            }
            self.give_up(&picked);
            let why = match fault {
                Fault::Unknown(why) if repeat == Repeat::IfNotDone => return Err(Error::Ambiguous { why }),
                fault => fault.to_string(),
            };
            if Instant::now() >= end {
                return Err(Error::Unavailable { why });
            }
            self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&why);
            last = Some(why);
            failed += 1;
            if failed % self.members.len() == 0 {
                sleep(PAUSE).await;
            }
        }
    }

    async fn once<Q, R>(&self, picked: &Picked, path: &'static str, request: Q) -> std::result::Result<R, Fault>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = grpc(picked.channel.clone());
        let answer = async {
            grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            let codec = ProstCodec::<Q, R>::default();
            grpc.unary(with_leader(Request::new(request)), PathAndQuery::from_static(path), codec).await
        };
        answer.await.map(tonic::Response::into_inner).map_err(|status| self.fault(picked, &status))
    }

    /// Opens a watch at one member.
    pub(super) async fn watch(
        &self,
        picked: &Picked,
        request: WatchRequest,
    ) -> std::result::Result<Streaming<WatchResponse>, Fault> {
        use futures_util::{StreamExt, stream};
        let mut grpc = grpc(picked.channel.clone());
        // The watch lives for as long as its requests have not ended.
        let requests = stream::iter([request]).chain(stream::pending());
        let opening = async {
            grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            grpc.streaming(with_leader(Request::new(requests)), PathAndQuery::from_static(proto::WATCH), codec).await
        };
        match timeout(ATTEMPT, opening).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.fault(picked, &status)),
            Err(_) => Err(Fault::Passing(format!("{} does not answer", self.url(picked)))),
        }
    }

    pub(super) fn url(&self, picked: &Picked) -> &str {
        &self.members[picked.index].url
    }

    pub(super) fn fault(&self, picked: &Picked, status: &Status) -> Fault {
        fault(self.url(picked), status)
    }
}

/// Reads what etcd or the way to it says. The texts are those of etcd's `rpctypes/error.go`.
fn fault(url: &str, status: &Status) -> Fault {
    let message = status.message();
    let says = |text: &str| message.contains(text);
    let why = || format!("etcd at {url}: {}", text(status, message));
    match status.code() {
        Code::Unavailable if connect_error(status).is_some() => Fault::Passing(why()),
        Code::Unavailable if says("etcdserver: no leader") => Fault::Passing(why()),
        Code::ResourceExhausted if says("database space exceeded") => Fault::Final(Error::Full { place: full(url) }),
        Code::ResourceExhausted if says("too many requests") => Fault::Passing(why()),
        Code::OutOfRange if says("has been compacted") => Fault::Final(Error::Compacted { oldest: Revision::EMPTY }),
        Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
            Fault::Final(Error::Unusable { what: why() })
        }
        _ => Fault::Unknown(why()),
    }
}

/// A member at its quota refuses all that writes, even when there is space again, until somebody takes its alarm away.
fn full(url: &str) -> String {
    format!(
        "in the database of etcd at {url}, which is at its quota: give it more (--quota-backend-bytes of etcd) or compact and \
         defragment it (`etcdctl compact REVISION`, `etcdctl defrag`), then `etcdctl alarm disarm`"
    )
}

fn connect_error(status: &Status) -> Option<&ConnectError> {
    causes(status).find_map(|error| error.downcast_ref())
}

/// What went wrong, down to its cause: the outermost words alone are "transport error".
fn text(error: &(dyn std::error::Error + 'static), outermost: &str) -> String {
    let mut texts = vec![outermost.to_owned()];
    for text in causes(error).map(ToString::to_string) {
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// What is behind an error, from the outside in.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |error| error.source())
}

fn grpc(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

/// A member that has lost its leader says so at once, instead of when its time is over.
fn with_leader<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
    request
}

fn tls(config: &Config) -> Option<ClientTlsConfig> {
    let authority = Certificate::from_pem(config.authority_pem.as_deref()?);
    let tls = ClientTlsConfig::new().ca_certificate(authority);
    Some(match &config.identity {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    })
}

fn member(url: &str, tls: Option<ClientTlsConfig>) -> Result<Member> {
    let unusable = |why: String| Error::Unusable { what: format!("the etcd member {url}: {why}") };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| unusable(error.to_string()))?;
    let mut endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    endpoint = match (endpoint.uri().scheme_str(), tls) {
        (Some("http"), _) => endpoint,
        (Some("https"), Some(tls)) => {
            endpoint.tls_config(tls).map_err(|error| unusable(text(&error, &error.to_string())))?
        }
        (Some("https"), None) => return Err(unusable("https needs the certificate of etcd's authority".to_owned())),
        _ => return Err(unusable("not an address such as https://10.0.0.1:2379".to_owned())),
    };
    Ok(Member { url: url.to_owned(), channel: endpoint.connect_lazy() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_understood() {
        let read = |code, text: &str| fault("x", &Status::new(code, text));
        assert!(matches!(read(Code::Unavailable, "etcdserver: no leader"), Fault::Passing(_)));
        assert!(matches!(read(Code::Unavailable, "etcdserver: request timed out"), Fault::Unknown(_)));
        assert!(matches!(read(Code::Unavailable, "etcdserver: leader changed"), Fault::Unknown(_)));
        let full = read(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        let Fault::Final(full @ Error::Full { .. }) = full else { panic!("{full:?}") };
        let (full, cures) = (full.to_string(), ["--quota-backend-bytes", "compact", "defrag", "alarm disarm"]);
        assert!(full.contains("etcd at x,") && cures.iter().all(|cure| full.contains(cure)), "{full}");
        let gone = read(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(gone, Fault::Final(Error::Compacted { .. })));
        let denied = read(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(matches!(denied, Fault::Final(Error::Unusable { .. })));
    }

    #[test]
    fn a_failed_member_is_left_once() {
        let endpoints = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let link = Link::new(&Config::new(endpoints.map(str::to_owned))).expect("members");
        let first = link.pick();
        let second = link.pick();
        link.give_up(&first);
        link.give_up(&second);
        assert_eq!(link.pick().index, (first.index + 1) % 3);
    }

    #[test]
    fn unusable_members_are_named() {
        for (url, why) in [("https://a:1", "authority"), ("a:1", "not an address"), ("ftp://a", "not an address")] {
            let error = Link::new(&Config::new([url.to_owned()])).err().expect("refused").to_string();
            assert!(error.contains(url) && error.contains(why), "{error}");
        }
    }
}

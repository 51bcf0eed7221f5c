//! Ways to parties that cannot be dialled. Such a party dials first, and keeps connections ready over which it is called later. Inside each
//! of them both sides speak TLS as if the caller had dialled: having opened a tunnel proves nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::dial::{Dialer, Trust, client_config, splice};
use crate::link::Unanswered;
use crate::{Body, Error, body};

/// What the upgrade is called.
const PROTOCOL: &str = "podling-tunnel";
/// So many connections of one party are kept; of more, the oldest goes.
const MOST_READY: usize = 8;
/// A connection is not used that has been ready for longer: routers on its way may have forgotten it.
pub const LIFE: Duration = Duration::from_secs(240);
/// The far side must answer the greeting within this time.
const GREETING_DEADLINE: Duration = Duration::from_secs(3);
/// A party that has connections as a rule has the next one within this time.
const PATIENCE: Duration = Duration::from_secs(1);
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

/// A connection inside a tunnel.
pub type Stream = TokioIo<Upgraded>;

/// The connections that parties keep ready, by the parties' names.
#[derive(Default)]
pub struct Tunnels {
    ready: Mutex<HashMap<String, VecDeque<(Instant, Stream)>>>,
    arrived: Notify,
}

impl Tunnels {
    /// Answers a request by which `name` makes a connection ready. That it is `name` who asks was found out before.
    ///
    /// # Errors
    /// [`Error::BadUpgrade`] when the request asks for something else, or its connection cannot be upgraded.
    pub fn accept(self: &Arc<Self>, name: &str, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        if request.headers().get(UPGRADE).is_none_or(|wanted| wanted != PROTOCOL) {
            return Err(Error::BadUpgrade(format!("only {PROTOCOL} is spoken here")));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let (tunnels, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            match timeout(UPGRADE_DEADLINE, upgrade).await {
                Ok(Ok(stream)) => tunnels.put(name, TokioIo::new(stream)),
                Ok(Err(error)) => tracing::debug!(%error, name, "making a tunnel"),
                Err(_) => tracing::debug!(name, "making a tunnel took too long"),
            }
        });
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        Ok(response)
    }

    fn put(&self, name: String, stream: Stream) {
        let mut ready = self.lock();
        // Nobody else would close those of a party that has gone and is not called.
        // An entry that was empty before stays: its party is in use, and its next connection is waited for.
        ready.retain(|_, streams| {
            let was_empty = streams.is_empty();
            streams.retain(|(since, _)| since.elapsed() < LIFE);
            was_empty || !streams.is_empty()
        });
        let streams = ready.entry(name).or_default();
        streams.push_back((Instant::now(), stream));
        if streams.len() > MOST_READY {
            streams.pop_front();
        }
        drop(ready);
        self.arrived.notify_waiters();
    }

    /// A connection to `name`, the newest: of all it is the likeliest to be alive.
    fn take(&self, name: &str) -> Option<Stream> {
        let (since, stream) = self.lock().get_mut(name)?.pop_back()?;
        (since.elapsed() < LIFE).then_some(stream)
    }

    /// As [`Tunnels::take`], but waits a little where connections come as a rule.
    async fn take_soon(&self, name: &str) -> Option<Stream> {
        if !self.lock().contains_key(name) {
            return None;
        }
        timeout(PATIENCE, self.wait_for(|| self.take(name))).await.ok()
    }

    /// Resolves when `name` has a connection ready.
    pub async fn arrival(&self, name: &str) {
        self.wait_for(|| self.lock().get(name).filter(|streams| !streams.is_empty()).map(drop)).await;
    }

    async fn wait_for<T>(&self, found: impl Fn() -> Option<T>) -> T {
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if let Some(found) = found() {
                return found;
            }
            arrived.await;
        }
    }

    /// Hands a request on to `name`, its upgrade with it.
    ///
    /// # Errors
    /// [`Unanswered`]; with the request in it, when no connection was of use.
    pub async fn relay(
        &self,
        name: &str,
        caller: &Caller,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Unanswered> {
        let mut stream = self.take_soon(name).await;
        while let Some(present) = stream {
            match caller.relay(present, request).await {
                Err(Unanswered { error, unsent: Some(unsent) }) => {
                    tracing::debug!(%error, name, "a tunnel that was of no use");
                    request = *unsent;
                }
                answer => return answer,
            }
            // Whose connections are dead is not waited for.
            stream = self.take(name);
        }
        self.lock().retain(|known, streams| known != name || !streams.is_empty());
        let error = Error::Unreachable { address: name.to_owned(), source: "it keeps no tunnel ready".into() };
        Err(Unanswered { error, unsent: Some(Box::new(request)) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<(Instant, Stream)>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom to expect at the far end of a tunnel, and what to show there.
pub struct Caller {
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Caller {
    /// Calls the party that `trust` expects.
    ///
    /// # Errors
    /// [`Error::Failed`] when the trust expects nobody or cannot be used.
    pub fn new(trust: &Trust) -> Result<Self, Error> {
        let expected = trust.expected.as_ref().map(|expected| expected.name.clone()).unwrap_or_default();
        let name = ServerName::try_from(expected.clone());
        let name = name.map_err(|e| Error::failed(format!("expecting \"{expected}\""), e))?;
        let mut config = client_config(trust)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), name })
    }

    async fn relay(&self, stream: Stream, mut request: Request<Body>) -> Result<Response<Body>, Unanswered> {
        let mut sender = match timeout(GREETING_DEADLINE, self.greet(stream)).await {
            Ok(Ok(sender)) => sender,
            greeted => {
                let error = greeted.err().map_or_else(|| Error::Closed, |late| Error::failed("greeting", late));
                return Err(Unanswered { error, unsent: Some(Box::new(request)) });
            }
        };
        let near = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse::<Uri>().unwrap_or_default();
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert(HOST, HeaderValue::from_static("node"));
        let wants_upgrade = request.headers().contains_key(UPGRADE);
        if !wants_upgrade {
            request.headers_mut().remove(CONNECTION);
        }
        let sent = sender.send_request(request).await;
        let mut response = sent
            .map_err(|source| Unanswered { error: Error::failed("talking through a tunnel", source), unsent: None })?;
        match near.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
            Some(near) => {
                let far = hyper::upgrade::on(&mut response);
                tokio::spawn(splice(near, far));
            }
            None => {
                response.headers_mut().remove(CONNECTION);
                response.headers_mut().remove(http::header::TRANSFER_ENCODING);
            }
        }
        Ok(response.map(body::boxed))
    }

    async fn greet(&self, stream: Stream) -> Result<http1::SendRequest<Body>, Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::failed("greeting", source);
        let stream = self.tls.connect(self.name.clone(), stream).await.map_err(|e| failed(e.into()))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.into()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a call through a tunnel ended");
            }
        });
        Ok(sender)
    }
}

/// Makes a connection ready at `url`.
///
/// # Errors
/// As [`Dialer::upgrade`]; [`Error::BadUpgrade`] when the other side wants none.
pub async fn open(dialer: &Dialer, url: &Uri) -> Result<Stream, Error> {
    let request = Request::get(url.clone())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(body::empty())
        .map_err(|e| Error::failed("asking for a tunnel", e))?;
    let mut response = dialer.upgrade(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::BadUpgrade(format!("{url} makes no tunnel: {}", response.status())));
    }
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|e| Error::failed("opening a tunnel", e))?;
    Ok(TokioIo::new(upgraded))
}

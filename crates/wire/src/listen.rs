//! Serves a [`Service`] over TLS, with HTTP/1.1 and HTTP/2 on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::sockopt;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsAcceptor};

use crate::identity::{Credential, certificates};
use crate::keys::Keys;
use crate::{Error, Identity, Peer, Service, body};

/// A peer must finish its TLS handshake within this time.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// A peer must send the head of a request within this time.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// When no connection can be accepted, the next try comes after this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After a shutdown began, open requests have this long to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// One connection may carry this many requests at once; client-go opens a further connection when they are used up.
const MAX_STREAMS: u32 = 250;
/// A silent peer is asked whether it is there after the first of these, then each time the second has passed, so many times.
const PROBE_IDLE: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
const WINDOW_BYTES: u32 = 1 << 20;

/// What becomes of clients without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strangers {
    /// They are served, as nobody.
    Served,
    /// The handshake fails.
    Refused,
}

/// A bound port that speaks TLS; clients may show a certificate signed by the given authority.
pub struct Listener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener {
    /// Binds `address` (port 0 takes a free one) and prepares TLS. `client_authority` is the PEM of the authority whose client certificates
    /// are believed; a client without any is served as anonymous.
    ///
    /// # Errors
    /// [`Error::Failed`] when the address is taken or the credential cannot be used.
    pub async fn bind(address: SocketAddr, credential: &Credential, client_authority: &str) -> Result<Self, Error> {
        Self::bind_with(address, Keys::new(credential)?, client_authority, Strangers::Served).await
    }

    /// As [`Listener::bind`], but the certificate may be replaced while it listens, and strangers may be turned away.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub async fn bind_with(
        address: SocketAddr,
        keys: Arc<Keys>,
        client_authority: &str,
        strangers: Strangers,
    ) -> Result<Self, Error> {
        let socket =
            TcpListener::bind(address).await.map_err(|e| Error::failed(format!("listening on {address}"), e))?;
        let acceptor = TlsAcceptor::from(Arc::new(server_config(keys, client_authority, strangers)?));
        Ok(Self { socket, acceptor })
    }

    /// The address that is listened on, with the real port.
    ///
    /// # Errors
    /// [`Error::Failed`] when the socket has no address.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        self.socket.local_addr().map_err(|e| Error::failed("asking a listener for its address", e))
    }

    /// Serves until `shutdown` turns true; then open requests get two seconds to end.
    pub async fn serve(self, service: Arc<dyn Service>, mut shutdown: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                accepted = self.accept(not_before) => match accepted {
                    Ok((stream, address)) => {
                        let task = connection(stream, address, self.acceptor.clone(), service.clone(), shutdown.clone());
                        connections.spawn(task);
                    }
                    // Out of descriptors, most likely: the peer still waits, so another try at once would fail as this one did.
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection");
                        not_before = Instant::now() + ACCEPT_PAUSE;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = stopped(&mut shutdown) => break,
            }
        }
        let drained = timeout(DRAIN_DEADLINE, async { while connections.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::debug!("ending connections that outlived the shutdown");
        }
    }
}

/// Serves connections that were not accepted on a port, as if they had been.
#[derive(Clone)]
pub struct Reception {
    config: Arc<ServerConfig>,
    service: Arc<dyn Service>,
}

/// A connection whose far side has begun to speak.
pub struct Greeted<S> {
    start: StartHandshake<S>,
    reception: Reception,
}

impl Reception {
    /// Waits, for as long as it takes, until the far side begins to speak. `None` when it ends the connection instead.
    pub async fn greeted<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Option<Greeted<S>> {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.ok()?;
        Some(Greeted { start, reception: self.clone() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Greeted<S> {
    /// Serves the connection to its end.
    pub async fn serve(self, shutdown: watch::Receiver<bool>) {
        let Reception { config, service } = self.reception;
        match timeout(HANDSHAKE_DEADLINE, self.start.into_stream(config)).await {
            Ok(Ok(stream)) => talk(stream, None, service, shutdown).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }
}

impl Listener {
    /// What serves other connections as this listener serves its own.
    pub fn reception(&self, service: Arc<dyn Service>) -> Reception {
        Reception { config: self.acceptor.config().clone(), service }
    }

    async fn accept(&self, not_before: Instant) -> std::io::Result<(TcpStream, SocketAddr)> {
        sleep_until(not_before).await;
        self.socket.accept().await
    }
}

/// Resolves when `shutdown` turns true, or when nobody is left who could turn it.
pub async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender has gone, which is a shutdown too.
    drop(shutdown.wait_for(|stop| *stop).await);
}

fn server_config(keys: Arc<Keys>, client_authority: &str, strangers: Strangers) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |e: rustls::Error| Error::failed("preparing TLS", e);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_authority)?), provider.clone());
    let verifier = match strangers {
        Strangers::Served => verifier.allow_unauthenticated(),
        Strangers::Refused => verifier,
    };
    let verifier = verifier.build().map_err(|e| Error::failed("preparing TLS", e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(keys);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

pub(crate) fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|e| Error::failed("reading a certificate authority", e))?;
    }
    Ok(store)
}

/// A peer that vanished without a word must not hold a connection forever; one that was upgraded has no pings of its own.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, PROBE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_socket_keepalive(stream, true)
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    service: Arc<dyn Service>,
    shutdown: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY");
    }
    if let Err(error) = keep_alive(&stream) {
        tracing::debug!(%error, "setting SO_KEEPALIVE");
    }
    let stream = match timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    talk(stream, Some(address), service, shutdown).await;
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: TlsStream<S>,
    address: Option<SocketAddr>,
    service: Arc<dyn Service>,
    mut shutdown: watch::Receiver<bool>,
) {
    let peer = Peer { identity: identity_of(&stream), address };
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, peer) = (service.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(service.call(prepare(request, peer)).await) }
    });
    let builder = server_builder();
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(&mut shutdown) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(?address, %error, "connection ended");
    }
}

fn server_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

fn prepare(request: Request<Incoming>, peer: Peer) -> Request<body::Body> {
    let mut request = request.map(body::boxed);
    request.extensions_mut().insert(peer);
    request
}

fn identity_of<S>(stream: &TlsStream<S>) -> Option<Identity> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    match Identity::of_certificate(certificate) {
        Ok(identity) => Some(identity),
        Err(error) => {
            tracing::debug!(%error, "a client certificate without a usable subject");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_asked_whether_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (near, far) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let (near, _far) = (near.expect("a peer").0, far.expect("a connection"));
        keep_alive(&near).expect("the options are known");
        assert_eq!(sockopt::socket_keepalive(&near), Ok(true));
        assert_eq!(sockopt::tcp_keepidle(&near), Ok(PROBE_IDLE));
    }
}

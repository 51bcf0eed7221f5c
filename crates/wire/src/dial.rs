//! Reaches other parties: API servers and nodes by mutual TLS, registries by public TLS.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::identity::{Credential, certificates};
use crate::keys::Keys;
use crate::listen::roots;
use crate::{Body, Error, body, verify};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const IDLE_DEADLINE: Duration = Duration::from_secs(90);

/// The one peer that a [`Dialer`] talks to.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The name that its certificate must hold for.
    pub name: String,
    /// The user that its certificate must speak for.
    pub user: String,
}

/// Whom a [`Dialer`] believes and what it shows.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// PEM of the authorities to believe; without any, the public ones (Mozilla's list).
    pub authorities_pem: Option<String>,
    /// Adds the authorities to the public ones instead of replacing them.
    pub public_too: bool,
    /// The certificate to show, if any.
    pub credential: Option<Credential>,
    /// The same where it may be replaced while the dialer is in use.
    pub keys: Option<Arc<Keys>>,
    /// Whom to expect, whatever the address that is dialled says.
    pub expected: Option<Expected>,
    /// Allows `http://` addresses; otherwise they are refused.
    pub plain_allowed: bool,
}

/// A client with a pool of connections. Cloning shares the pool.
#[derive(Clone)]
pub struct Dialer {
    multiplexed: Client<HttpsConnector<HttpConnector>, Body>,
    upgrading: Client<HttpsConnector<HttpConnector>, Body>,
}

impl Dialer {
    /// Prepares TLS; connects to nobody yet.
    ///
    /// # Errors
    /// [`Error::Failed`] when an authority or the credential cannot be used.
    pub fn new(trust: &Trust) -> Result<Self, Error> {
        let config = client_config(trust)?;
        Ok(Self { multiplexed: client(config.clone(), trust, true)?, upgrading: client(config, trust, false)? })
    }

    /// Sends a request whose URI is absolute, and waits for the head of the answer. No deadline for the answer: the caller knows it.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no connection can be made, [`Error::Failed`] when it breaks.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        send(&self.multiplexed, request).await
    }

    /// Hands a request on that somebody else made. If it asks for an upgrade and gets it, bytes flow between the two connections until one
    /// side ends.
    ///
    /// # Errors
    /// As [`Dialer::send`]; [`Error::BadUpgrade`] when the connection that the request came by cannot be upgraded.
    pub async fn relay(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().remove(HOST);
        if !request.headers().contains_key(UPGRADE) {
            request.headers_mut().remove(CONNECTION);
            let mut response = self.send(request).await?;
            for name in [CONNECTION, TRANSFER_ENCODING] {
                response.headers_mut().remove(name);
            }
            return Ok(response);
        }
        let Some(near) = request.extensions_mut().remove::<OnUpgrade>() else {
            return Err(Error::BadUpgrade("the connection cannot be upgraded".into()));
        };
        let mut response = self.upgrade(request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let far = hyper::upgrade::on(&mut response);
            tokio::spawn(splice(near, far));
        }
        Ok(response)
    }

    /// Sends a request that asks for an upgrade, over an HTTP/1.1 connection of its own.
    ///
    /// # Errors
    /// As [`Dialer::send`].
    pub async fn upgrade(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        send(&self.upgrading, request).await
    }
}

async fn send(
    client: &Client<HttpsConnector<HttpConnector>, Body>,
    request: Request<Body>,
) -> Result<Response<Body>, Error> {
    let address = address_of(request.uri());
    let response = client.request(request).await.map_err(|source| {
        if source.is_connect() {
            Error::Unreachable { address: address.clone(), source: source.into() }
        } else {
            Error::failed(format!("talking to {address}"), source)
        }
    })?;
    Ok(response.map(body::boxed))
}

/// Carries bytes between two upgraded connections until one side ends.
pub(crate) async fn splice(near: OnUpgrade, far: OnUpgrade) {
    let both = timeout(CONNECT_DEADLINE, async { tokio::try_join!(near, far) }).await;
    let (near, far) = match both {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return tracing::debug!(%error, "relaying an upgrade"),
        Err(_) => return tracing::debug!("relaying an upgrade took too long"),
    };
    if let Err(error) = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await {
        tracing::debug!(%error, "a relayed stream ended");
    }
}

/// The certificates that the server at `host:port` shows, its own first, as DER. Nobody has vouched for them: they are to be compared with
/// something that is known.
///
/// # Errors
/// [`Error::Unreachable`] when nobody answers there, or not with TLS.
pub async fn shown_chain(host: &str, port: u16) -> Result<Vec<Vec<u8>>, Error> {
    let address = format!("{host}:{port}");
    let unreachable =
        |source: Box<dyn std::error::Error + Send + Sync>| Error::Unreachable { address: address.clone(), source };
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::failed("preparing TLS", e))?
        .dangerous()
        .with_custom_certificate_verifier(verify::nobody())
        .with_no_client_auth();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    let name = name.map_err(|e| Error::failed(format!("dialling \"{host}\""), e))?;
    let handshake = async {
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let stream = timeout(CONNECT_DEADLINE, handshake).await;
    let stream = stream.map_err(|_| unreachable("no answer within 10 s".into()))?.map_err(|e| unreachable(e.into()))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain.iter().map(|certificate| certificate.to_vec()).collect())
}

fn address_of(uri: &Uri) -> String {
    uri.authority().map_or_else(|| uri.to_string(), ToString::to_string)
}

fn client(
    config: ClientConfig,
    trust: &Trust,
    http2: bool,
) -> Result<Client<HttpsConnector<HttpConnector>, Body>, Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_DEADLINE));
    // A peer that vanished without a word must not hold an upgraded stream forever.
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let builder = HttpsConnectorBuilder::new().with_tls_config(config);
    let mut builder = if trust.plain_allowed { builder.https_or_http() } else { builder.https_only() };
    if let Some(expected) = &trust.expected {
        let name = ServerName::try_from(expected.name.clone());
        let name = name.map_err(|e| Error::failed(format!("expecting \"{}\"", expected.name), e))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let connector = if http2 {
        builder.enable_http1().enable_http2().wrap_connector(tcp)
    } else {
        builder.enable_http1().wrap_connector(tcp)
    };
    let client = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_DEADLINE)
        .http2_initial_stream_window_size(1 << 20)
        .http2_initial_connection_window_size(4 << 20)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .build(connector);
    Ok(client)
}

pub(crate) fn client_config(trust: &Trust) -> Result<ClientConfig, Error> {
    let failed = |e: rustls::Error| Error::failed("preparing TLS", e);
    let builder = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verify::authorities(root_store(trust)?, trust.expected.as_ref())?);
    match (&trust.keys, &trust.credential) {
        (Some(keys), _) => Ok(builder.with_client_cert_resolver(keys.clone())),
        (None, Some(credential)) => {
            builder.with_client_auth_cert(credential.chain()?, credential.key()?).map_err(failed)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
    }
}

fn root_store(trust: &Trust) -> Result<RootCertStore, Error> {
    let public = || RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(pem) = &trust.authorities_pem else { return Ok(public()) };
    if !trust.public_too {
        return roots(pem);
    }
    let mut store = public();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|e| Error::failed("reading a certificate authority", e))?;
    }
    Ok(store)
}

//! Reaches other parties: API servers and nodes by mutual TLS, registries by public TLS.

use std::time::Duration;

use http::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use crate::identity::{Credential, certificates};
use crate::listen::roots;
use crate::{Body, Error, body};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const IDLE_DEADLINE: Duration = Duration::from_secs(90);

/// Whom a [`Dialer`] believes and what it shows.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// PEM of the authorities to believe; without any, the public ones (Mozilla's list).
    pub authorities_pem: Option<String>,
    /// Adds the authorities to the public ones instead of replacing them.
    pub public_too: bool,
    /// The certificate to show, if any.
    pub credential: Option<Credential>,
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
        Ok(Self {
            multiplexed: client(config.clone(), trust.plain_allowed, true),
            upgrading: client(config, trust.plain_allowed, false),
        })
    }

    /// Sends a request whose URI is absolute, and waits for the head of the answer. No deadline for the answer: the caller knows it.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no connection can be made, [`Error::Failed`] when it breaks.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        send(&self.multiplexed, request).await
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

fn address_of(uri: &Uri) -> String {
    uri.authority().map_or_else(|| uri.to_string(), ToString::to_string)
}

fn client(config: ClientConfig, plain_allowed: bool, http2: bool) -> Client<HttpsConnector<HttpConnector>, Body> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_DEADLINE));
    let builder = HttpsConnectorBuilder::new().with_tls_config(config);
    let builder = if plain_allowed { builder.https_or_http() } else { builder.https_only() };
    let connector = if http2 {
        builder.enable_http1().enable_http2().wrap_connector(tcp)
    } else {
        builder.enable_http1().wrap_connector(tcp)
    };
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_DEADLINE)
        .http2_initial_stream_window_size(1 << 20)
        .http2_initial_connection_window_size(4 << 20)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .build(connector)
}

fn client_config(trust: &Trust) -> Result<ClientConfig, Error> {
    let failed = |e: rustls::Error| Error::failed("preparing TLS", e);
    let builder = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(root_store(trust)?);
    match &trust.credential {
        Some(credential) => builder.with_client_auth_cert(credential.chain()?, credential.key()?).map_err(failed),
        None => Ok(builder.with_no_client_auth()),
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

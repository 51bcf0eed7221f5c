//! How a request gets to the API server: over the network, or by a call in the same process.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use wire::dial::{Dialer, Trust};
use wire::{Body, Identity, Peer, Service};

use crate::Error;

mod several;

pub use several::Several;

/// Something that carries requests. Their URIs have a path and a query only.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request and waits for the head of the answer.
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>>;

    /// Sends a request that asks for an upgrade.
    fn upgrade(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>>;
}

/// Speaks to a server over TLS.
pub struct Remote {
    dialer: Dialer,
    scheme: Scheme,
    authority: Authority,
    prefix: String,
    token: Option<HeaderValue>,
}

impl Remote {
    /// A transport to `server` (`https://host:port`, perhaps with a path that all requests share).
    ///
    /// # Errors
    /// [`Error::Failed`] when the address is no URL or the trust cannot be used.
    pub fn new(server: &str, trust: &Trust) -> Result<Self, Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::failed(format!("reading the server's address \"{server}\""), source)
        };
        let parts = server.parse::<Uri>().map_err(|e| failed(e.into()))?.into_parts();
        let authority = parts.authority.ok_or_else(|| failed("it names no host".into()))?;
        let scheme = parts.scheme.unwrap_or(Scheme::HTTPS);
        let prefix = parts.path_and_query.map(|path| path.path().trim_end_matches('/').to_owned()).unwrap_or_default();
        Ok(Self { dialer: Dialer::new(trust)?, scheme, authority, prefix, token: None })
    }

    /// Shows a token with each request.
    ///
    /// # Errors
    /// [`Error::Failed`] when it cannot be part of a header.
    pub fn with_token(mut self, token: &str) -> Result<Self, Error> {
        self.token = Some(Self::bearer(token)?);
        Ok(self)
    }

    fn bearer(token: &str) -> Result<HeaderValue, Error> {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value = value.map_err(|e| Error::failed("using a token", e))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn absolute(&self, mut request: Request<Body>) -> Result<Request<Body>, Error> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{path}", self.prefix))
            .build()
            .map_err(|e| Error::failed(format!("making a URL of \"{path}\""), e))?;
        *request.uri_mut() = uri;
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        Ok(request)
    }
}

impl Transport for Remote {
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        Box::pin(async move { Ok(self.dialer.send(self.absolute(request)?).await?) })
    }

    fn upgrade(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        Box::pin(async move { Ok(self.dialer.upgrade(self.absolute(request)?).await?) })
    }
}

/// Speaks to a service of the same process, as a given identity.
pub struct Local {
    service: Arc<dyn Service>,
    identity: Identity,
}

impl Local {
    /// A transport that hands requests to `service` as if `identity` had sent them.
    pub fn new(service: Arc<dyn Service>, identity: Identity) -> Self {
        Self { service, identity }
    }
}

impl Transport for Local {
    fn send(&self, mut request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        request.extensions_mut().insert(Peer::local(self.identity.clone()));
        Box::pin(async move { Ok(self.service.call(request).await) })
    }

    fn upgrade(&self, _: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        let refusal = wire::Error::BadUpgrade("there is no connection to upgrade inside one process".into());
        Box::pin(async move { Err(refusal.into()) })
    }
}

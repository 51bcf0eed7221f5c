//! What answers requests, wherever the request comes from: a TLS listener, or a caller in the same process.

use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use http::{Request, Response};

use crate::{Body, Identity};

/// Something that answers HTTP requests.
///
/// A listener puts the [`Peer`] and, for requests that may be upgraded, hyper's `OnUpgrade` into the request's extensions. A caller in the
/// same process sets the `Peer` itself; a request handed from one service to another keeps both, so the last one can still upgrade.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. Errors are answers too: a service never fails to respond.
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>>;
}

/// Who sent a request, as far as the transport knows.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The verified identity; `None` for a caller that showed no certificate.
    pub identity: Option<Identity>,
    /// Where the connection comes from; `None` inside one process.
    pub address: Option<SocketAddr>,
}

impl Peer {
    /// A caller in this process that speaks as `identity`.
    pub fn local(identity: Identity) -> Self {
        Self { identity: Some(identity), address: None }
    }
}

//! The API server: identity → path → registry → store, and the streams on to the nodes.
//!
//! A [`Server`] answers requests of the Kubernetes API, from a TLS listener or from a caller in the same process; it makes no
//! difference which. It knows no sockets and touches nothing of the machine.
//!
//! Reading order: this file, `call` (a request), `auth` (who, and may they), `route` (where to), `verbs` (what is done to
//! objects), `registry` (objects and the store), `kinds` (what is particular to each kind), `admit`; then how answers look:
//! `negotiate`, `render`, `table`, `stream`; then the rest: `discovery`, `openapi`, `review`, `proxy`, `bootstrap`, `expire`.

#![expect(
    clippy::result_large_err,
    reason = "a Status is itself the answer to a request; refusals are not the hot path"
)]

mod admit;
mod auth;
mod body;
mod bootstrap;
mod call;
mod discovery;
mod error;
mod evict;
mod expire;
mod health;
mod kinds;
mod negotiate;
mod openapi;
mod options;
mod proxy;
mod registry;
mod render;
mod review;
mod route;
mod stream;
mod subresource;
mod table;
mod tree;
mod verbs;

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use tokio::task::JoinHandle;
use wire::{Body, Service};

use registry::Registry;
pub use registry::object::stored;

/// The largest body that is read.
pub(crate) const BODY_LIMIT: usize = 3 << 20;

/// The way to the agents of the nodes, for logs and streams.
pub trait NodeDoor: Send + Sync + 'static {
    /// Hands a request to a node's agent. hyper's `OnUpgrade` stays in its extensions, so the agent can upgrade it.
    fn send<'a>(
        &'a self,
        node: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, NodeDoorError>>;

    /// Takes a connection that a node keeps ready, so that it can be asked without being dialled. It was found out that the node asks.
    fn keep(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, NodeDoorError> {
        drop(request);
        Err(NodeDoorError::Unknown(node.to_owned()))
    }
}

/// Why a node's agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeDoorError {
    /// There is no such node, or it does not say where its agent listens.
    #[error("node {0} is not known")]
    Unknown(String),
    /// The agent does not answer.
    #[error("{source}")]
    Unreachable {
        /// The node.
        node: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What goes wrong before the server serves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The objects that each cluster has could not be made.
    #[error("making the cluster's first objects: {0}")]
    Bootstrap(String),
}

/// The facts of the cluster that clients are told.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// `gitVersion` of `/version`, such as `v1.37.2+podling`.
    pub version: String,
    /// `gitCommit` of `/version`.
    pub commit: String,
    /// Where the API server can be reached.
    pub address: IpAddr,
    /// Its port there.
    pub port: u16,
    /// The address of the service `kubernetes`; none without services.
    pub service_address: Option<IpAddr>,
}

/// What a [`Server`] is made of.
pub struct Config {
    /// Where the objects are.
    pub store: Arc<dyn store::Store>,
    /// What clients are told.
    pub cluster: Cluster,
    /// The way to the nodes.
    pub nodes: Arc<dyn NodeDoor>,
}

/// What all requests share.
pub(crate) struct State {
    registry: Registry,
    cluster: Cluster,
    nodes: Arc<dyn NodeDoor>,
    discovery: discovery::Documents,
    openapi: openapi::OpenApi,
}

/// The API server.
pub struct Server {
    state: Arc<State>,
    expiry: JoinHandle<()>,
}

impl Server {
    /// Makes sure that the objects exist that each cluster has, and begins to forget old events.
    ///
    /// # Errors
    /// [`Error::Bootstrap`] when the store refuses them.
    pub async fn new(config: Config) -> Result<Arc<Self>, Error> {
        let registry = Registry::new(config.store);
        bootstrap::run(&registry, &config.cluster).await.map_err(|status| Error::Bootstrap(status.message))?;
        let discovery = discovery::Documents::new(&config.cluster);
        let openapi = openapi::OpenApi::new(&config.cluster);
        let state = Arc::new(State { registry, cluster: config.cluster, nodes: config.nodes, discovery, openapi });
        let expiry = tokio::spawn(expire::run(state.clone()));
        Ok(Arc::new(Self { state, expiry }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl Service for Server {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        let state = self.state.clone();
        let is_head = request.method() == Method::HEAD;
        Box::pin(async move {
            let answer = route::answer(&state, request).await;
            let response = answer.unwrap_or_else(|status| error::response(&status));
            if is_head { response.map(|_| wire::body::empty()) } else { response }
        })
    }
}

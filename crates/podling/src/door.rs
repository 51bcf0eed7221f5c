//! The API server's ways to the agents of the nodes: a call for the one in this process, mutual TLS for all others, over
//! connections that they keep ready where they do.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use client::{Client, resource};
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Request, Response, Uri};
use serde_json::Value;
use server::{NodeDoor, NodeDoorError};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use wire::authority::Authority;
use wire::dial::{Dialer, Expected, Trust};
use wire::link::Unanswered;
use wire::tunnel::{Caller, Tunnels};
use wire::{Body, Identity, Peer, Service};

use crate::own::Own;

/// An agent must begin to answer within this time.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// An address that does not answer within this time is dialled all the same, for its error.
const CONNECT_DEADLINE: Duration = Duration::from_secs(8);

/// Leads to all nodes.
pub(crate) struct Door {
    agent: OnceLock<(String, Arc<dyn Service>)>,
    client: OnceLock<Client>,
    trust: Trust,
    /// One for each node that was asked: each expects that very node at the other end.
    ways: Mutex<HashMap<String, Way>>,
    tunnels: Arc<Tunnels>,
}

/// How one node is asked: over a connection that it keeps ready, or else one that the server makes.
#[derive(Clone)]
struct Way {
    caller: Arc<Caller>,
    dialer: Dialer,
}

fn itself() -> Identity {
    Identity::new("kube-apiserver", &["system:masters"])
}

impl Door {
    /// Ways on which the server shows a certificate of this authority.
    pub(crate) fn new(authority: &Authority, own: &Own) -> anyhow::Result<Self> {
        let trust = Trust {
            authorities_pem: Some(authority.certificate_pem().to_owned()),
            keys: Some(own.keys(|authority| authority.client(&itself()))?),
            ..Trust::default()
        };
        Ok(Self {
            agent: OnceLock::new(),
            client: OnceLock::new(),
            trust,
            ways: Mutex::default(),
            tunnels: Arc::default(),
        })
    }

    /// Where the nodes are is asked of this client.
    pub(crate) fn look_up_with(&self, client: Client) {
        if self.client.set(client).is_err() {
            tracing::error!("the server of this process was started twice");
        }
    }

    /// The agent of this node, which is in this process, answers from now on.
    pub(crate) fn open(&self, node: &str, service: Arc<dyn Service>) {
        if self.agent.set((node.to_owned(), service)).is_err() {
            tracing::error!("the agent of this process was started twice");
        }
    }

    async fn relay(&self, node: &str, mut request: Request<Body>) -> Result<Response<Body>, NodeDoorError> {
        let failed = |source| NodeDoorError::Unreachable { node: node.to_owned(), source };
        let way = self.way(node).map_err(|error| failed(error.into()))?;
        // What the caller showed was for the server's eyes.
        request.headers_mut().remove(AUTHORIZATION);
        let mut address = None;
        // Where many call at once, others may take each connection that arrives; they do so only for a while.
        let deadline = Instant::now() + HEAD_DEADLINE;
        while Instant::now() < deadline {
            match timeout(HEAD_DEADLINE, self.tunnels.relay(node, &way.caller, request)).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(Unanswered { unsent: Some(unsent), .. })) => request = *unsent,
                Ok(Err(Unanswered { error, unsent: None })) => return Err(failed(cause(&error).into())),
                Err(_) => return Err(failed("i/o timeout".into())),
            }
            let known = self.address(node).await?;
            address = Some(known);
            tokio::select! {
                biased;
                // It has made one after all, as it does when this server has just begun.
                () = self.tunnels.arrival(node) => {}
                () = can_be_dialled(known) => break,
            }
        }
        let address = address.ok_or_else(|| NodeDoorError::Unknown(node.to_owned()))?;
        dial(node, address, &way.dialer, request).await
    }

    async fn address(&self, node: &str) -> Result<SocketAddr, NodeDoorError> {
        let unknown = || NodeDoorError::Unknown(node.to_owned());
        let client = self.client.get().ok_or_else(unknown)?;
        let object = match client.get(&resource::NODES.object(None, node)).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Err(unknown()),
            Err(error) => return Err(NodeDoorError::Unreachable { node: node.to_owned(), source: error.into() }),
        };
        address(&object).ok_or_else(|| NodeDoorError::Unreachable {
            node: node.to_owned(),
            source: format!("node {node} does not say where its agent listens").into(),
        })
    }

    fn way(&self, node: &str) -> Result<Way, wire::Error> {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = ways.get(node) {
            return Ok(way.clone());
        }
        let expected = Some(Expected { name: node.to_owned(), user: format!("system:node:{node}") });
        let trust = Trust { expected, ..self.trust.clone() };
        let way = Way { caller: Arc::new(Caller::new(&trust)?), dialer: Dialer::new(&trust)? };
        ways.insert(node.to_owned(), way.clone());
        Ok(way)
    }
}

/// Waits until it is known whether somebody listens there. Whether that is the node is another question.
async fn can_be_dialled(address: SocketAddr) {
    drop(timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await);
}

async fn dial(
    node: &str,
    address: SocketAddr,
    dialer: &Dialer,
    mut request: Request<Body>,
) -> Result<Response<Body>, NodeDoorError> {
    let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| NodeDoorError::Unreachable {
        node: node.to_owned(),
        source: format!("dial tcp {address}: {source}").into(),
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri: Uri =
        format!("https://{address}{path}").parse().map_err(|e: http::uri::InvalidUri| unreachable(e.into()))?;
    *request.uri_mut() = uri;
    match timeout(HEAD_DEADLINE, dialer.relay(request)).await {
        Ok(answered) => answered.map_err(|error| unreachable(cause(&error).into())),
        Err(_) => Err(unreachable("i/o timeout".into())),
    }
}

/// Where a node says that its agent listens.
fn address(node: &Value) -> Option<SocketAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let ip: IpAddr = internal["address"].as_str()?.parse().ok()?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

/// Why a dial failed, in the words that people know.
fn cause(error: &wire::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    let mut kind = None;
    while let Some(source) = last.source() {
        kind = source.downcast_ref::<std::io::Error>().map(std::io::Error::kind).or(kind);
        last = source;
    }
    match kind {
        Some(std::io::ErrorKind::ConnectionRefused) => "connect: connection refused".to_owned(),
        Some(std::io::ErrorKind::HostUnreachable) => "connect: no route to host".to_owned(),
        Some(std::io::ErrorKind::NetworkUnreachable) => "connect: network is unreachable".to_owned(),
        Some(std::io::ErrorKind::TimedOut) => "i/o timeout".to_owned(),
        _ => last.to_string(),
    }
}

impl NodeDoor for Door {
    fn send<'a>(
        &'a self,
        node: &'a str,
        mut request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, NodeDoorError>> {
        Box::pin(async move {
            match self.agent.get().filter(|(name, _)| name == node) {
                Some((_, service)) => {
                    request.extensions_mut().insert(Peer::local(itself()));
                    Ok(service.call(request).await)
                }
                None => self.relay(node, request).await,
            }
        })
    }

    fn keep(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, NodeDoorError> {
        let kept = self.tunnels.accept(node, request);
        kept.map_err(|error| NodeDoorError::Unreachable { node: node.to_owned(), source: error.into() })
    }
}

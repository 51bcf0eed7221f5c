//! A cluster with several API servers: each client prefers one of them, and goes to the next when it does not answer.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use tokio::time::timeout;
use wire::dial::Trust;
use wire::link::{Link, Unanswered};
use wire::{Body, body};

use super::{Remote, Transport};
use crate::Error;

/// All servers are tried with the first of these; only when none can be reached so fast, once more with the second.
const CONNECT_LIMITS: [Duration; 2] = [Duration::from_millis(600), Duration::from_secs(5)];
/// While the preferred server is away it is looked for so often.
const LOOK: Duration = Duration::from_secs(5);
/// A server that is asked beside the current one must answer within this time.
const ASIDE: Duration = Duration::from_secs(5);

/// Speaks to one of several servers of a cluster.
///
/// A request that was not sent yet goes to the next server when one cannot be reached. One that was sent, but not answered, goes to the next
/// only if it just reads: nobody knows whether it was carried out. So does one that reads and is refused with 503.
pub struct Several(Arc<Servers>);

struct Servers {
    /// The preferred one comes first.
    servers: Vec<Server>,
    current: AtomicUsize,
    is_looking: AtomicBool,
}

struct Server {
    remote: Remote,
    link: Link,
}

impl Several {
    /// A transport to these servers (`https://host:port`). Which one is preferred depends on `name`, so that clients of many names spread.
    ///
    /// # Errors
    /// [`Error::Failed`] when there is none, an address is no URL or the trust cannot be used.
    pub fn new(servers: &[String], name: &str, trust: &Trust) -> Result<Self, Error> {
        let open = |url: &&String| Server::open(url, trust);
        let servers = ordered(servers, name).iter().map(open).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(none());
        }
        let (current, is_looking) = (AtomicUsize::new(0), AtomicBool::new(false));
        Ok(Self(Arc::new(Servers { servers, current, is_looking })))
    }

    /// Shows a token with each request.
    ///
    /// # Errors
    /// [`Error::Failed`] when it cannot be part of a header.
    pub fn with_token(mut self, token: &str) -> Result<Self, Error> {
        let value = Remote::bearer(token)?;
        for server in Arc::get_mut(&mut self.0).into_iter().flat_map(|inner| &mut inner.servers) {
            server.remote.token = Some(value.clone());
        }
        Ok(self)
    }

    /// The server that is spoken to at present.
    pub fn current(&self) -> &str {
        self.0.servers[self.0.current()].remote.authority.as_str()
    }
}

impl Server {
    fn open(url: &str, trust: &Trust) -> Result<Self, Error> {
        let remote = Remote::new(url, trust)?;
        let link = Link::new(remote.authority.host(), remote.authority.port_u16().unwrap_or(443), trust)?;
        Ok(Self { remote, link })
    }

    /// What it answers, if it does so soon.
    async fn asked(&self, request: Request<Body>) -> Option<Response<Body>> {
        let request = self.remote.absolute(request).ok()?;
        timeout(ASIDE, self.link.send(request, CONNECT_LIMITS[0])).await.ok()?.ok()
    }

    /// Whether it can be reached, and says that it can serve.
    async fn is_ready(&self) -> bool {
        let mut request = Request::new(body::empty());
        *request.uri_mut() = Uri::from_static("/readyz");
        self.asked(request).await.is_some_and(|response| response.status() == StatusCode::OK)
    }
}

impl Servers {
    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Goes to the next server, if this one is still the current one.
    fn leave(self: &Arc<Self>, index: usize) {
        self.leave_for(index, (index + 1) % self.servers.len());
    }

    fn leave_for(self: &Arc<Self>, index: usize, next: usize) {
        let left = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        if left.is_ok() && next != index {
            let (from, to) = (&self.servers[index].remote.authority, &self.servers[next].remote.authority);
            tracing::warn!(%from, %to, "going to another API server");
            if !self.is_looking.swap(true, Ordering::Relaxed) {
                tokio::spawn(look(Arc::downgrade(self)));
            }
        }
    }

    async fn send(self: &Arc<Self>, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        let target = request.uri().clone();
        let mut failed = None;
        for limit in CONNECT_LIMITS {
            let begin = self.current();
            for step in 0..self.servers.len() {
                let index = (begin + step) % self.servers.len();
                let server = &self.servers[index];
                let reads = matches!(*request.method(), Method::GET | Method::HEAD);
                let spare = copy(&request).filter(|_| reads);
                match server.link.send(server.remote.absolute(request)?, limit).await {
                    Ok(response) if is_refusal(&response) => return Ok(self.elsewhere(index, spare, response).await),
                    Ok(response) => return Ok(response),
                    Err(Unanswered { error, unsent }) => {
                        self.leave(index);
                        request = match unsent.map(|unsent| *unsent).or(spare) {
                            Some(again) => again,
                            None => return Err(error.into()),
                        };
                        *request.uri_mut() = target.clone();
                        failed = Some(error);
                    }
                }
            }
        }
        Err(failed.map_or_else(none, Error::from))
    }

    /// Asks the other servers what this one cannot tell, as when it has lost its store. It is left only for one that can: when all have lost
    /// it, its refusal is the answer.
    async fn elsewhere(
        self: &Arc<Self>,
        index: usize,
        spare: Option<Request<Body>>,
        refusal: Response<Body>,
    ) -> Response<Body> {
        let Some(request) = spare else { return refusal };
        for step in 1..self.servers.len() {
            let next = (index + step) % self.servers.len();
            let Some(again) = copy(&request) else { break };
            if let Some(response) = self.servers[next].asked(again).await.filter(|response| !is_refusal(response)) {
                self.leave_for(index, next);
                return response;
            }
        }
        refusal
    }

    async fn upgrade(self: &Arc<Self>, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        let begin = self.current();
        let mut failed = None;
        for step in 0..self.servers.len() {
            let index = (begin + step) % self.servers.len();
            let spare = copy(&request);
            match (self.servers[index].remote.upgrade(request).await, spare) {
                // No connection was made, so nothing was sent.
                (Err(Error::Wire(error @ wire::Error::Unreachable { .. })), Some(again)) => {
                    self.leave(index);
                    request = again;
                    failed = Some(error);
                }
                (answer, _) => return answer,
            }
        }
        Err(failed.map_or_else(none, Error::from))
    }
}

fn is_refusal(response: &Response<Body>) -> bool {
    response.status() == StatusCode::SERVICE_UNAVAILABLE
}

fn none() -> Error {
    Error::failed("asking the servers", "there is none")
}

/// A copy of a request that has no content.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    request.body().is_end_stream().then(|| {
        let mut copy = Request::new(body::empty());
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        copy.headers_mut().clone_from(request.headers());
        copy
    })
}

/// Goes back to the preferred server when it can serve again.
async fn look(servers: Weak<Servers>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(servers) = servers.upgrade() else { return };
        let preferred = &servers.servers[0];
        if servers.current() == 0 || preferred.is_ready().await {
            servers.current.store(0, Ordering::Relaxed);
            servers.is_looking.store(false, Ordering::Relaxed);
            tracing::info!(server = %preferred.remote.authority, "back at the preferred API server");
            return;
        }
    }
}

/// Which server a client of this name prefers, and which it takes next: by the highest hash of both names, so that one server more or less
/// moves only its own share of the clients.
fn ordered<'a>(servers: &'a [String], name: &str) -> Vec<&'a String> {
    let weight = |server: &String| {
        let mut hasher = DefaultHasher::new();
        (name, server.trim_end_matches('/')).hash(&mut hasher);
        hasher.finish()
    };
    let mut ordered: Vec<&String> = servers.iter().collect();
    ordered.sort_by_key(|server| std::cmp::Reverse(weight(server)));
    ordered
}

impl Transport for Several {
    fn send(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        Box::pin(self.0.send(request))
    }

    fn upgrade(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        Box::pin(self.0.upgrade(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_spread_over_the_servers() {
        let servers: Vec<String> = ["a", "b", "c"].map(|host| format!("https://{host}:6443")).into();
        let first = |name: &str, servers: &[String]| ordered(servers, name)[0].clone();
        let names: Vec<String> = (0..300).map(|number| format!("node-{number}")).collect();
        for server in &servers {
            let share = names.iter().filter(|name| first(name, &servers) == *server).count();
            assert!((70..130).contains(&share), "{server} has {share}");
        }
        let fewer = &servers[..2];
        let stays = |name: &&String| first(name, &servers) == servers[2] || first(name, fewer) == first(name, &servers);
        assert!(names.iter().all(|name| stays(&name)));
    }
}

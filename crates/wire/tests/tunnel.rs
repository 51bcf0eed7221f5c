//! A party that is called over connections which it keeps ready itself.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::watch;
use wire::authority::Authority;
use wire::dial::{Dialer, Expected, Trust};
use wire::keys::Keys;
use wire::listen::{Listener, Strangers};
use wire::tunnel::{self, Caller, Tunnels};
use wire::{Body, Identity, Peer, Service, body};

/// Keeps the connections that come, as those of who comes.
struct Server(Arc<Tunnels>);

impl Service for Server {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        Box::pin(async move {
            let name = request.uri().path().trim_matches('/').to_owned();
            match self.0.accept(&name, request) {
                Ok(response) => response,
                Err(error) => Response::builder().status(400).body(body::full(error.to_string())).unwrap(),
            }
        })
    }
}

/// Says who asks.
struct Node;

impl Service for Node {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.identity.clone()).unwrap();
        Box::pin(async move { Response::new(body::full(format!("{} {}", peer.user, request.uri().path()))) })
    }
}

struct Setting {
    authority: Authority,
    tunnels: Arc<Tunnels>,
    url: String,
    dialer: Dialer,
    _stop: watch::Sender<bool>,
}

impl Setting {
    async fn new() -> Self {
        let (authority, _) = Authority::create("test").unwrap();
        let tunnels = Arc::<Tunnels>::default();
        let credential = authority.server(&Identity::new("server", &[]), &["127.0.0.1".into()]).unwrap();
        let pem = authority.certificate_pem();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), &credential, pem).await.unwrap();
        let url = format!("https://{}", listener.address().unwrap());
        let (stop, shutdown) = watch::channel(false);
        tokio::spawn(listener.serve(Arc::new(Server(tunnels.clone())), shutdown));
        let dialer = Dialer::new(&trust(&authority)).unwrap();
        Self { authority, tunnels, url, dialer, _stop: stop }
    }

    /// Keeps one connection ready at the server under one name, and serves a call over it with the certificate of another.
    async fn keep(&self, name: &str, user: &str) {
        let identity = Identity::new(format!("system:node:{user}"), &["system:nodes"]);
        let keys = Keys::new(&self.authority.server(&identity, &[name.to_owned()]).unwrap()).unwrap();
        let pem = self.authority.certificate_pem();
        let listener = Listener::bind_with(([127, 0, 0, 1], 0).into(), keys, pem, Strangers::Refused).await.unwrap();
        let reception = listener.reception(Arc::new(Node));
        let stream = tunnel::open(&self.dialer, &format!("{}/{name}", self.url).parse().unwrap()).await.unwrap();
        tokio::spawn(async move {
            let (_stop, shutdown) = watch::channel(false);
            if let Some(greeted) = reception.greeted(stream).await {
                greeted.serve(shutdown).await;
            }
        });
        self.tunnels.arrival(name).await;
    }

    async fn ask(&self, name: &str) -> Result<String, Option<wire::Error>> {
        let expected = Some(Expected { name: name.into(), user: format!("system:node:{name}") });
        let own = self.authority.client(&Identity::new("kube-apiserver", &["system:masters"])).unwrap();
        let caller = Caller::new(&Trust { expected, credential: Some(own), ..trust(&self.authority) }).unwrap();
        let request = Request::get("/x?y=z").body(body::empty()).unwrap();
        match self.tunnels.relay(name, &caller, request).await {
            Ok(response) => {
                let content = body::collect(response.into_body(), 1000).await.unwrap();
                Ok(String::from_utf8(content.to_vec()).unwrap())
            }
            Err(unanswered) => Err(unanswered.unsent.is_none().then_some(unanswered.error)),
        }
    }
}

fn trust(authority: &Authority) -> Trust {
    Trust { authorities_pem: Some(authority.certificate_pem().to_owned()), ..Trust::default() }
}

#[tokio::test]
async fn a_kept_connection_carries_one_call_each() {
    let setting = Setting::new().await;
    assert!(setting.ask("n1").await.is_err_and(|sent| sent.is_none()), "nothing is ready");
    for _ in 0..3 {
        setting.keep("n1", "n1").await;
        assert_eq!(setting.ask("n1").await.unwrap(), "kube-apiserver /x");
    }
    let begun = tokio::time::Instant::now();
    assert!(setting.ask("n1").await.is_err_and(|sent| sent.is_none()), "all were used");
    assert!(begun.elapsed() >= Duration::from_millis(900), "the next is waited for");
}

#[tokio::test]
async fn who_is_not_the_one_that_is_called_hears_nothing() {
    let setting = Setting::new().await;
    setting.keep("n1", "n2").await;
    assert!(setting.ask("n1").await.is_err_and(|sent| sent.is_none()));
    // Behind it, in the same place, a good one is found.
    setting.keep("n1", "n1").await;
    setting.keep("n1", "n2").await;
    assert_eq!(setting.ask("n1").await.unwrap(), "kube-apiserver /x");
}

#[tokio::test]
async fn only_an_upgrade_makes_a_tunnel() {
    let setting = Setting::new().await;
    let request = Request::get(format!("{}/n1", setting.url)).body(body::empty()).unwrap();
    assert_eq!(setting.dialer.send(request).await.unwrap().status(), 400);
}

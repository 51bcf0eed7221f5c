//! Several servers on loopback, of which some are away, hang or die.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use client::transport::Several;
use client::{Client, Transport};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::authority::Authority;
use wire::dial::Trust;
use wire::listen::Listener;
use wire::{Body, Identity, Service, body};

/// Answers with its name, with a refusal, or never.
struct Named {
    name: &'static str,
    heard: AtomicUsize,
    is_mute: AtomicBool,
    is_sick: AtomicBool,
}

impl Service for Named {
    fn call(&self, _: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        Box::pin(async move {
            self.heard.fetch_add(1, Ordering::SeqCst);
            if self.is_mute.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let mut response = Response::new(body::full(format!("{{\"name\": \"{}\"}}", self.name)));
            if self.is_sick.load(Ordering::SeqCst) {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            response
        })
    }
}

struct Server {
    service: Arc<Named>,
    address: SocketAddr,
    serving: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Server {
    async fn start(name: &'static str, authority: &Authority, address: SocketAddr) -> Self {
        let service = Arc::new(Named {
            name,
            heard: AtomicUsize::new(0),
            is_mute: AtomicBool::new(false),
            is_sick: AtomicBool::new(false),
        });
        let credential = authority.server(&Identity::new(name, &[]), &["127.0.0.1".into()]).unwrap();
        let listener = Listener::bind(address, &credential, authority.certificate_pem()).await.unwrap();
        let address = listener.address().unwrap();
        let (stop, shutdown) = watch::channel(false);
        let serving = tokio::spawn(listener.serve(service.clone(), shutdown));
        Self { service, address, serving, stop }
    }

    /// Ends it as a dead process ends: nothing listens, and all connections break.
    async fn kill(self) -> SocketAddr {
        self.serving.abort();
        drop(self.serving.await);
        drop(self.stop);
        self.address
    }

    fn heard(&self) -> usize {
        self.service.heard.load(Ordering::SeqCst)
    }
}

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn trust(authority: &Authority) -> Trust {
    Trust { authorities_pem: Some(authority.certificate_pem().to_owned()), ..Trust::default() }
}

/// A transport that prefers the first of these.
fn preferring(first: SocketAddr, others: &[SocketAddr], authority: &Authority) -> Arc<Several> {
    let servers: Vec<String> = [&[first], others].concat().iter().map(|address| format!("https://{address}")).collect();
    let names = (0..).map(|number| format!("n{number}"));
    let mut transports = names.map(|name| Several::new(&servers, &name, &trust(authority)).unwrap());
    Arc::new(transports.find(|transport| transport.current() == first.to_string()).unwrap())
}

async fn asked(client: &Client) -> String {
    client.get("/x").await.unwrap()["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_cannot_be_reached_is_left_within_a_second() {
    let (authority, _) = Authority::create("test").unwrap();
    let b = Server::start("b", &authority, any()).await;
    let closed = TcpListener::bind(any()).await.unwrap().local_addr().unwrap();
    // Connections to it are made by the kernel, and nobody ever answers.
    let hanging = TcpListener::bind(any()).await.unwrap();
    for away in [closed, hanging.local_addr().unwrap()] {
        let client = Client::new(preferring(away, &[b.address], &authority), "test");
        let begun = Instant::now();
        client.create("/x", &serde_json::json!({})).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let begun = Instant::now();
        assert_eq!(asked(&client).await, "b");
        assert!(begun.elapsed() < Duration::from_millis(300), "it stays with the one that answers");
    }
    assert_eq!(b.heard(), 4);
}

#[tokio::test]
async fn what_was_sent_is_only_asked_again_if_it_reads() {
    let (authority, _) = Authority::create("test").unwrap();
    let b = Server::start("b", &authority, any()).await;
    for (method, is_answered) in
        [(Method::GET, true), (Method::POST, false), (Method::PATCH, false), (Method::DELETE, false)]
    {
        let a = Server::start("a", &authority, any()).await;
        let transport = preferring(a.address, &[b.address], &authority);
        a.service.is_mute.store(true, Ordering::SeqCst);
        let heard = b.heard();
        let content = if method == Method::GET { body::empty() } else { body::full("{}") };
        let request = Request::builder().method(&method).uri("/x").body(content).unwrap();
        let sending = tokio::spawn(async move { transport.send(request).await.map(drop) });
        while a.heard() == 0 {
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        a.kill().await;
        let answer = sending.await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{method}: {:?}", begun.elapsed());
        assert_eq!((answer.is_ok(), b.heard() - heard), (is_answered, usize::from(is_answered)), "{method}");
    }
}

#[tokio::test]
async fn a_server_that_dies_is_left_and_taken_again() {
    let (authority, _) = Authority::create("test").unwrap();
    let a = Server::start("a", &authority, any()).await;
    let b = Server::start("b", &authority, any()).await;
    let transport = preferring(a.address, &[b.address], &authority);
    let client = Client::new(transport.clone(), "test");
    assert_eq!(asked(&client).await, "a");
    let address = a.kill().await;
    let begun = Instant::now();
    client.create("/x", &serde_json::json!({})).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(asked(&client).await, "b");
    let a = Server::start("a again", &authority, address).await;
    let back = async {
        while transport.current() != address.to_string() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.unwrap();
    assert_eq!(asked(&client).await, "a again");
    // With nobody left, the error names a server.
    a.kill().await;
    b.kill().await;
    let error = client.get("/x").await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_server_of_others_is_not_spoken_to() {
    let (authority, _) = Authority::create("test").unwrap();
    let (others, _) = Authority::create("test").unwrap();
    let a = Server::start("a", &others, any()).await;
    let b = Server::start("b", &authority, any()).await;
    let client = Client::new(preferring(a.address, &[b.address], &authority), "test");
    assert_eq!(asked(&client).await, "b");
    assert_eq!(a.heard(), 0);
}

#[tokio::test]
async fn a_server_that_cannot_serve_is_left_until_it_is_ready() {
    let (authority, _) = Authority::create("test").unwrap();
    let a = Server::start("a", &authority, any()).await;
    let b = Server::start("b", &authority, any()).await;
    let transport = preferring(a.address, &[b.address], &authority);
    let client = Client::new(transport.clone(), "test");
    let (first, second) = (a.address.to_string(), b.address.to_string());
    a.service.is_sick.store(true, Ordering::SeqCst);
    client.create("/x", &serde_json::json!({})).await.unwrap_err();
    assert_eq!((a.heard(), b.heard()), (1, 0), "what writes is not sent again");
    b.service.is_sick.store(true, Ordering::SeqCst);
    client.get("/x").await.unwrap_err();
    assert_eq!(transport.current(), first, "the other is no better");
    b.service.is_sick.store(false, Ordering::SeqCst);
    assert_eq!(asked(&client).await, "b");
    assert_eq!(transport.current(), second);
    let heard = a.heard();
    let until = |done: Box<dyn Fn() -> bool>| async move {
        let waiting = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    };
    let service = a.service.clone();
    until(Box::new(move || service.heard.load(Ordering::SeqCst) > heard)).await;
    assert_eq!(asked(&client).await, "b", "it can be reached, but it is not ready");
    a.service.is_sick.store(false, Ordering::SeqCst);
    let again = transport.clone();
    until(Box::new(move || again.current() == first)).await;
    assert_eq!(asked(&client).await, "a");
}

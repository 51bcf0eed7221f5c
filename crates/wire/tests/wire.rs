//! A listener and a dialer on loopback, with plain requests and upgraded ones.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use tokio::sync::watch;
use wire::authority::Authority;
use wire::dial::{Dialer, Trust};
use wire::listen::Listener;
use wire::upgrade::{self, Forwarded, Received, TerminalSize, Wanted};
use wire::{Body, Identity, Peer, Service, body};

struct Echo;

impl Service for Echo {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        Box::pin(async move {
            match request.uri().path() {
                "/whoami" => whoami(&request),
                "/exec" => exec(request),
                "/forward" => forward(request),
                _ => Response::builder().status(StatusCode::NOT_FOUND).body(body::empty()).unwrap(),
            }
        })
    }
}

fn whoami(request: &Request<Body>) -> Response<Body> {
    let peer = request.extensions().get::<Peer>().unwrap();
    let name = peer.identity.as_ref().map_or("anonymous", |identity| identity.user.as_str());
    Response::new(body::full(name.to_owned()))
}

/// Sends stdin back on stdout, the first terminal size on stderr, and a status.
fn exec(mut request: Request<Body>) -> Response<Body> {
    let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: true };
    let (response, pending) = match upgrade::accept_channels(&mut request, wanted) {
        Ok(granted) => granted,
        Err(error) => {
            return Response::builder().status(StatusCode::BAD_REQUEST).body(body::full(error.to_string())).unwrap();
        }
    };
    tokio::spawn(async move {
        let mut channels = pending.open().await.unwrap();
        let size = channels.resize.as_mut().unwrap().recv().await.unwrap();
        let text = format!("{}x{}", size.width, size.height);
        channels.stderr.as_ref().unwrap().send(Bytes::from(text)).await.unwrap();
        while let Some(bytes) = channels.stdin.as_mut().unwrap().next().await {
            channels.stdout.as_ref().unwrap().send(bytes).await.unwrap();
        }
        channels.finish(Bytes::from_static(b"done")).await.unwrap();
    });
    response
}

/// Port 1 echoes in capitals; any other port is closed.
fn forward(mut request: Request<Body>) -> Response<Body> {
    let ports = request.uri().query().unwrap().trim_start_matches("ports=").split(',').map(|p| p.parse().unwrap());
    let ports = ports.collect();
    let (response, pending) = upgrade::accept_forwards(&mut request, ports).unwrap();
    tokio::spawn(async move {
        let mut forwards = pending.open().await.unwrap();
        while let Some(mut forward) = forwards.next().await {
            if forward.port != 1 {
                forward.fail("connection refused").await.unwrap();
                continue;
            }
            while let Some(bytes) = forward.input.next().await {
                forward.output.send(Bytes::from(bytes.to_ascii_uppercase())).await.unwrap();
            }
        }
    });
    response
}

struct Lab {
    base: String,
    authority: Authority,
    _stop: watch::Sender<bool>,
}

async fn lab() -> Lab {
    let (authority, _) = Authority::create("lab").unwrap();
    let server = authority.server(&Identity::new("server", &[]), &["127.0.0.1".into()]).unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(address, &server, authority.certificate_pem()).await.unwrap();
    let base = format!("https://{}", listener.address().unwrap());
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(listener.serve(Arc::new(Echo), shutdown));
    Lab { base, authority, _stop: stop }
}

impl Lab {
    fn dialer(&self, user: Option<&str>) -> Dialer {
        let credential = user.map(|name| self.authority.client(&Identity::new(name, &["g"])).unwrap());
        let authorities_pem = Some(self.authority.certificate_pem().to_owned());
        Dialer::new(&Trust { authorities_pem, credential, ..Trust::default() }).unwrap()
    }

    fn get(&self, path: &str) -> Request<Body> {
        Request::get(format!("{}{path}", self.base)).body(body::empty()).unwrap()
    }
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(body::collect(response.into_body(), 1000).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_certificate_names_its_bearer() {
    let lab = lab().await;
    let answer = lab.dialer(Some("alice")).send(lab.get("/whoami")).await.unwrap();
    assert_eq!(text(answer).await, "alice");
    let answer = lab.dialer(None).send(lab.get("/whoami")).await.unwrap();
    assert_eq!(text(answer).await, "anonymous");
}

#[tokio::test]
async fn a_stranger_server_is_not_believed() {
    let lab = lab().await;
    let (other, _) = Authority::create("other").unwrap();
    let authorities_pem = Some(other.certificate_pem().to_owned());
    let dialer = Dialer::new(&Trust { authorities_pem, ..Trust::default() }).unwrap();
    let error = dialer.send(lab.get("/whoami")).await.unwrap_err();
    assert!(matches!(error, wire::Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn the_streams_of_an_exec_are_separate() {
    let lab = lab().await;
    let uri = format!("{}/exec", lab.base).parse().unwrap();
    let request = upgrade::channels_request(uri).unwrap();
    let response = lab.dialer(None).upgrade(request).await.unwrap();
    let (mut input, mut output) = upgrade::dial_channels(response).await.unwrap().split();
    input.resize(TerminalSize { width: 80, height: 24 }).await.unwrap();
    input.stdin(b"hello").await.unwrap();
    input.end_stdin().await.unwrap();
    assert_eq!(output.next().await, Some(Received::Stderr(Bytes::from_static(b"80x24"))));
    assert_eq!(output.next().await, Some(Received::Stdout(Bytes::from_static(b"hello"))));
    assert_eq!(output.next().await, Some(Received::Status(Bytes::from_static(b"done"))));
    assert_eq!(output.next().await, None);
}

#[tokio::test]
async fn a_request_without_upgrade_is_told_so() {
    let lab = lab().await;
    let answer = lab.dialer(None).send(lab.get("/exec")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(text(answer).await, "Upgrade request required");
}

#[tokio::test]
async fn forwarded_connections_carry_bytes_or_the_reason_why_not() {
    let lab = lab().await;
    let open = async |port: u16| {
        let uri = format!("{}/forward?ports={port}", lab.base).parse().unwrap();
        let request = upgrade::forward_request(uri).unwrap();
        let response = lab.dialer(None).upgrade(request).await.unwrap();
        upgrade::dial_forward(response).await.unwrap().split()
    };
    let (mut input, mut output) = open(1).await;
    input.send(b"abc").await.unwrap();
    assert_eq!(output.next().await, Some(Forwarded::Data(Bytes::from_static(b"ABC"))));
    let (_input, mut output) = open(2).await;
    assert_eq!(output.next().await, Some(Forwarded::Error("connection refused".into())));
}

//! Port-forward: one connection that carries any number of forwarded TCP connections.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::channels::{Reader, WEBSOCKET_PROTOCOLS, Writer, take_upgrade};
use super::frame::{Outgoing, QUEUE};
use super::negotiate::{self, Protocol};
use super::spdy::{self, Opened};
use super::websocket::{self, deliver};
use crate::{Body, Error};

const SPDY_PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const TUNNEL_BYTES: usize = 64 << 10;

/// One forwarded TCP connection.
pub struct Forward {
    /// The port in the pod.
    pub port: u16,
    /// What the client sends; ends when the client closes its side.
    pub input: Reader,
    /// Where the pod's answer goes.
    pub output: Writer,
    error: Writer,
}

impl Forward {
    /// Tells the client why the connection could not be made, or broke, and ends it. The other connections live on.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client has gone.
    pub async fn fail(self, message: impl Into<Bytes>) -> Result<(), Error> {
        self.error.send(message.into()).await?;
        self.finish().await
    }

    /// Ends both streams in order.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client has gone.
    pub async fn finish(self) -> Result<(), Error> {
        self.output.end().await?;
        self.error.end().await
    }
}

/// The forwarded connections of one client, as it opens them.
pub struct Forwards {
    incoming: mpsc::Receiver<Forward>,
}

impl Forwards {
    /// The next connection; `None` when the client has gone.
    pub async fn next(&mut self) -> Option<Forward> {
        self.incoming.recv().await
    }
}

/// A port-forward that was granted but not yet made.
pub struct PendingForwards {
    upgrade: OnUpgrade,
    protocol: Protocol,
    ports: Vec<u16>,
}

impl PendingForwards {
    /// Waits for the upgrade.
    ///
    /// # Errors
    /// [`Error::Failed`] when the client leaves before that.
    pub async fn open(self) -> Result<Forwards, Error> {
        let upgraded = self.upgrade.await.map_err(|e| Error::failed("upgrading a connection", e))?;
        let (accept, incoming) = mpsc::channel(QUEUE);
        match self.protocol {
            Protocol::Spdy(_) => pair(spdy::start(TokioIo::new(upgraded))?, accept),
            Protocol::WebSocket(name) if name == TUNNEL => pair(spdy::start(tunnel(upgraded).await)?, accept),
            Protocol::WebSocket(_) => channels(upgraded, &self.ports, accept).await?,
        }
        Ok(Forwards { incoming })
    }
}

/// Grants the upgrade that a port-forward request asks for. `ports` are those of its query; only WebSocket channels need them.
///
/// # Errors
/// [`Error::BadUpgrade`] when the request asks for none, or for a protocol that is not served. The text is for the client.
pub fn accept_forwards(
    request: &mut Request<Body>,
    ports: Vec<u16>,
) -> Result<(Response<Body>, PendingForwards), Error> {
    let websocket = [TUNNEL, WEBSOCKET_PROTOCOLS[1]];
    let protocol = negotiate::choose(request.headers(), &SPDY_PROTOCOLS, &websocket)?;
    if matches!(&protocol, Protocol::WebSocket(name) if name != TUNNEL) && ports.is_empty() {
        return Err(Error::BadUpgrade("query parameter \"ports\" is required".into()));
    }
    let upgrade = take_upgrade(request)?;
    let response = negotiate::grant(request.headers(), &protocol);
    Ok((response, PendingForwards { upgrade, protocol, ports }))
}

/// Pairs the streams of a SPDY connection: error and data stream of one forward carry the same request id.
fn pair((out, mut opened): (mpsc::Sender<Outgoing>, mpsc::Receiver<Opened>), accept: mpsc::Sender<Forward>) {
    tokio::spawn(async move {
        let mut waiting: HashMap<String, Opened> = HashMap::new();
        while let Some(stream) = opened.recv().await {
            if out.send(Outgoing::Reply { stream: stream.id }).await.is_err() {
                return;
            }
            let id = stream.header("requestid").unwrap_or_default().to_owned();
            let Some(other) = waiting.remove(&id) else {
                waiting.insert(id, stream);
                continue;
            };
            let forward = match join(stream, other, &out) {
                Ok(forward) => forward,
                Err(id) => {
                    // An answer to a client that has gone is lost with it.
                    drop(out.send(Outgoing::Reset { stream: id }).await);
                    continue;
                }
            };
            if accept.send(forward).await.is_err() {
                return;
            }
        }
    });
}

fn join(one: Opened, other: Opened, out: &mpsc::Sender<Outgoing>) -> Result<Forward, u32> {
    let (error, data) = if one.header("streamtype") == Some("error") { (one, other) } else { (other, one) };
    let writer = |stream: u32| Writer { stream, out: out.clone() };
    let port = data.header("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0).ok_or(data.id)?;
    Ok(Forward { port, output: writer(data.id), error: writer(error.id), input: Reader::new(data.data) })
}

/// The byte stream inside the binary messages of a WebSocket.
async fn tunnel(upgraded: Upgraded) -> DuplexStream {
    let (mut sink, mut stream) = websocket::socket(upgraded, Role::Server).await.split();
    let (inner, outer) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut reading, mut writing) = tokio::io::split(outer);
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(data) if writing.write_all(&data).await.is_err() => break,
                Message::Close(_) => break,
                _ => {}
            }
        }
        // The other side of a pipe that has gone needs no end.
        drop(writing.shutdown().await);
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; TUNNEL_BYTES];
        while let Ok(count @ 1..) = reading.read(&mut buffer).await {
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..count]));
            if sink.send(message).await.is_err() {
                return;
            }
        }
        drop(sink.send(Message::Close(None)).await);
    });
    inner
}

/// WebSocket channels: port number i has the channels 2i (data) and 2i+1 (error), each opened by a frame that holds the port.
async fn channels(upgraded: Upgraded, ports: &[u16], accept: mpsc::Sender<Forward>) -> Result<(), Error> {
    let (sink, mut stream) = websocket::socket(upgraded, Role::Server).await.split();
    let (out, orders) = mpsc::channel(QUEUE);
    tokio::spawn(websocket::write(sink, orders));
    let mut inputs = Vec::new();
    for (index, port) in (0u32..).zip(ports) {
        for stream in [2 * index, 2 * index + 1] {
            let bytes = Bytes::copy_from_slice(&port.to_le_bytes());
            out.send(Outgoing::Data { stream, bytes }).await.map_err(|_| Error::Closed)?;
        }
        let (sender, data) = mpsc::channel(QUEUE);
        inputs.push(Some(sender));
        let writer = |stream| Writer { stream, out: out.clone() };
        let (output, error) = (writer(2 * index), writer(2 * index + 1));
        let forward = Forward { port: *port, input: Reader::new(data), output, error };
        accept.send(forward).await.map_err(|_| Error::Closed)?;
    }
    // Channels cannot be ended one by one: with the last of the connections the writer ends, and by that the whole.
    let out = out.downgrade();
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(data) if !data.is_empty() && data[0] % 2 == 0 => {
                    if let Some(input) = inputs.get_mut(usize::from(data[0] / 2)) {
                        deliver(input, data.slice(1..)).await;
                    }
                }
                Message::Ping(payload) => {
                    let Some(out) = out.upgrade() else { return Ok(()) };
                    let pong = Outgoing::Message(Message::Pong(payload));
                    out.send(pong).await.map_err(|_| Error::Closed)?;
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        let Some(out) = out.upgrade() else { return Ok(()) };
        out.send(Outgoing::Close).await.map_err(|_| Error::Closed)
    });
    Ok(())
}

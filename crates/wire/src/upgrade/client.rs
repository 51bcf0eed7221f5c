//! The client's side of exec, attach and port-forward, over WebSocket channels (v5 and v4).

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::channels::{TerminalSize, WEBSOCKET_PROTOCOLS};
use super::negotiate;
use super::websocket::{self, CLOSE, RESIZE, STATUS, STDERR, STDIN, STDOUT, Socket};
use crate::{Body, Error, body};

/// A request for the streams of an exec or attach at `uri`.
///
/// # Errors
/// [`Error::Failed`] when the URI makes no request.
pub fn channels_request(uri: Uri) -> Result<Request<Body>, Error> {
    request(uri, WEBSOCKET_PROTOCOLS[0])
}

/// A request for forwarded connections at `uri`.
///
/// # Errors
/// [`Error::Failed`] when the URI makes no request.
pub fn forward_request(uri: Uri) -> Result<Request<Body>, Error> {
    request(uri, WEBSOCKET_PROTOCOLS[1])
}

fn request(uri: Uri, protocol: &'static str) -> Result<Request<Body>, Error> {
    let key = HeaderValue::from_str(&negotiate::new_key()).map_err(|e| Error::failed("making a WebSocket key", e))?;
    Request::get(uri)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, key)
        .header(SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(body::empty())
        .map_err(|e| Error::failed("making an upgrade request", e))
}

/// The streams of an exec or attach, as the client sees them.
pub struct ClientChannels {
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
}

/// What the server sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// The final status, an encoded `Status` object.
    Status(Bytes),
}

/// The sending half of [`ClientChannels`].
pub struct ClientInput(SplitSink<Socket, Message>);

/// The receiving half of [`ClientChannels`].
pub struct ClientOutput(SplitStream<Socket>);

impl ClientChannels {
    /// Separates sending from receiving.
    pub fn split(self) -> (ClientInput, ClientOutput) {
        (ClientInput(self.sink), ClientOutput(self.stream))
    }
}

impl ClientInput {
    /// Sends standard input.
    ///
    /// # Errors
    /// [`Error::Closed`] when the server has gone.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.send(STDIN, bytes).await
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// [`Error::Closed`] when the server has gone.
    pub async fn end_stdin(&mut self) -> Result<(), Error> {
        self.send(CLOSE, &[STDIN]).await
    }

    /// Announces the terminal's size.
    ///
    /// # Errors
    /// [`Error::Closed`] when the server has gone.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), Error> {
        let text = format!("{{\"Width\":{},\"Height\":{}}}\n", size.width, size.height);
        self.send(RESIZE, text.as_bytes()).await
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<(), Error> {
        self.0.send(frame(channel, bytes)).await.map_err(|_| Error::Closed)
    }
}

impl ClientOutput {
    /// The next piece of output; `None` when the server has ended the connection.
    pub async fn next(&mut self) -> Option<Received> {
        loop {
            let Message::Binary(data) = self.0.next().await?.ok()? else { continue };
            let (&channel, _) = data.split_first()?;
            let bytes = data.slice(1..);
            match channel {
                STDOUT if !bytes.is_empty() => return Some(Received::Stdout(bytes)),
                STDERR if !bytes.is_empty() => return Some(Received::Stderr(bytes)),
                STATUS => return Some(Received::Status(bytes)),
                _ => {}
            }
        }
    }
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    let mut data = BytesMut::with_capacity(bytes.len() + 1);
    data.put_u8(channel);
    data.put_slice(bytes);
    Message::Binary(data.freeze())
}

/// Takes the server's answer to a [`channels_request`].
///
/// # Errors
/// [`Error::BadUpgrade`] with the server's text when it refused.
pub async fn dial_channels(response: Response<Body>) -> Result<ClientChannels, Error> {
    let (sink, stream) = dial(response).await?.split();
    Ok(ClientChannels { sink, stream })
}

async fn dial(response: Response<Body>) -> Result<Socket, Error> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let text = body::collect(response.into_body(), 1 << 20).await?;
        return Err(Error::BadUpgrade(String::from_utf8_lossy(&text).into_owned()));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|e| Error::failed("upgrading a connection", e))?;
    Ok(websocket::socket(upgraded, Role::Client).await)
}

/// One forwarded connection, as the client sees it.
pub struct ClientForward {
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
}

/// What a forwarded connection brings.
#[derive(Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// Bytes from the pod.
    Data(Bytes),
    /// Why the connection failed.
    Error(String),
}

/// Takes the server's answer to a [`forward_request`] for one port.
///
/// # Errors
/// [`Error::BadUpgrade`] with the server's text when it refused.
pub async fn dial_forward(response: Response<Body>) -> Result<ClientForward, Error> {
    let (sink, stream) = dial(response).await?.split();
    Ok(ClientForward { sink, stream })
}

/// The sending half of a [`ClientForward`].
pub struct ForwardInput(SplitSink<Socket, Message>);

/// The receiving half of a [`ClientForward`].
pub struct ForwardOutput {
    stream: SplitStream<Socket>,
    greeted: [bool; 2],
}

impl ClientForward {
    /// Separates sending from receiving.
    pub fn split(self) -> (ForwardInput, ForwardOutput) {
        (ForwardInput(self.sink), ForwardOutput { stream: self.stream, greeted: [false; 2] })
    }
}

impl ForwardInput {
    /// Sends bytes to the pod.
    ///
    /// # Errors
    /// [`Error::Closed`] when the server has gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.send(frame(0, bytes)).await.map_err(|_| Error::Closed)
    }

    /// Ends the connection.
    pub async fn close(mut self) {
        // A server that has gone needs no goodbye.
        drop(self.0.send(Message::Close(None)).await);
    }
}

impl ForwardOutput {
    /// The next piece; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Forwarded> {
        loop {
            let Message::Binary(data) = self.stream.next().await?.ok()? else { continue };
            let (&channel, _) = data.split_first()?;
            let greeted = self.greeted.get_mut(usize::from(channel))?;
            if !std::mem::replace(greeted, true) {
                continue;
            }
            let bytes = data.slice(1..);
            if channel == 0 {
                return Some(Forwarded::Data(bytes));
            }
            return Some(Forwarded::Error(String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

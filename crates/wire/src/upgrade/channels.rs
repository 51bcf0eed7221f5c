//! The streams of one exec or attach, whatever protocol carries them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::frame::Outgoing;
use super::negotiate::{self, Protocol};
use super::{spdy, websocket};
use crate::{Body, Error};

const SPDY_PROTOCOLS: [&str; 3] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
pub(super) const WEBSOCKET_PROTOCOLS: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
/// What a WebSocket that only receives may ask for; most ask for nothing.
const OUTPUT_PROTOCOLS: [&str; 2] = ["binary.k8s.io", ""];

/// Which streams the client asked for in its query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The client sends standard input.
    pub stdin: bool,
    /// The client receives standard output.
    pub stdout: bool,
    /// The client receives standard error.
    pub stderr: bool,
    /// The streams belong to a terminal, whose size the client announces.
    pub tty: bool,
}

/// The size of a terminal in character cells, as clients write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The open streams. Dropping a [`Writer`] ends its stream; the connection ends after [`Channels::finish`].
pub struct Channels {
    /// What the client types; ends when the client closes its side.
    pub stdin: Option<Reader>,
    /// Where standard output goes.
    pub stdout: Option<Writer>,
    /// Where standard error goes.
    pub stderr: Option<Writer>,
    /// The terminal sizes that the client announces.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
    /// The final status is an encoded `Status` object; otherwise, in the protocols before version 4, the text of an error or nothing.
    pub is_structured: bool,
    pub(super) status: Writer,
}

impl Channels {
    /// Sends the final status, unless it is empty, and ends the connection in the protocol's orderly way.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client has gone.
    pub async fn finish(self, status: Bytes) -> Result<(), Error> {
        let Self { stdout, stderr, status: writer, .. } = self;
        if !status.is_empty() {
            writer.send(status).await?;
        }
        writer.end().await?;
        for stream in [stdout, stderr].into_iter().flatten() {
            stream.end().await?;
        }
        writer.out.send(Outgoing::Close).await.map_err(|_| Error::Closed)?;
        // The connection task drops its receiver when the close has been written.
        writer.out.closed().await;
        Ok(())
    }

    /// Resolves when the client has gone.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let out = self.status.out.clone();
        async move { out.closed().await }
    }
}

/// The receiving end of one stream; also an [`AsyncRead`].
pub struct Reader {
    chunks: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        Self { chunks, rest: Bytes::new() }
    }

    /// The next bytes; `None` when the other side has ended the stream.
    pub async fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() { self.chunks.recv().await } else { Some(std::mem::take(&mut self.rest)) }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.rest.is_empty() {
            match self.chunks.poll_recv(cx) {
                Poll::Ready(Some(chunk)) => self.rest = chunk,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// The sending end of one stream. [`Writer::send`] waits while the client is slow.
pub struct Writer {
    pub(super) stream: u32,
    pub(super) out: mpsc::Sender<Outgoing>,
}

impl Writer {
    /// Sends bytes.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client has gone.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Error> {
        let data = Outgoing::Data { stream: self.stream, bytes };
        self.out.send(data).await.map_err(|_| Error::Closed)
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client has gone.
    pub async fn end(&self) -> Result<(), Error> {
        self.out.send(Outgoing::End { stream: self.stream }).await.map_err(|_| Error::Closed)
    }
}

/// An upgrade that was granted but not yet made: the client has to read the `101` first.
pub struct Pending {
    upgrade: OnUpgrade,
    protocol: Protocol,
    wanted: Wanted,
}

impl Pending {
    /// Waits for the upgrade and for the client to open its streams.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client leaves before that, or opens too few streams within 30 s.
    pub async fn open(self) -> Result<Channels, Error> {
        let upgraded = self.upgrade.await.map_err(|e| Error::failed("upgrading a connection", e))?;
        match self.protocol {
            Protocol::Spdy(version) => spdy::serve_channels(upgraded, &version, self.wanted).await,
            Protocol::WebSocket(version) => Ok(websocket::serve_channels(upgraded, &version, self.wanted).await),
        }
    }
}

/// Grants the upgrade that an exec or attach request asks for.
///
/// # Errors
/// [`Error::BadUpgrade`] when the request asks for none, or for a protocol that is not served. The text is for the client.
pub fn accept_channels(request: &mut Request<Body>, wanted: Wanted) -> Result<(Response<Body>, Pending), Error> {
    let protocol = negotiate::choose(request.headers(), &SPDY_PROTOCOLS, &WEBSOCKET_PROTOCOLS)?;
    let upgrade = take_upgrade(request)?;
    let response = negotiate::grant(request.headers(), &protocol);
    Ok((response, Pending { upgrade, protocol, wanted }))
}

/// A WebSocket that carries plain output, as clients that cannot read a chunked answer want it.
pub struct PendingOutput {
    upgrade: OnUpgrade,
}

/// The sending end of a WebSocket that carries plain output. Dropping it closes the socket in order.
pub struct Output {
    out: mpsc::Sender<Outgoing>,
}

impl PendingOutput {
    /// Waits for the upgrade.
    ///
    /// # Errors
    /// [`Error::Failed`] when the client leaves before that.
    pub async fn open(self) -> Result<Output, Error> {
        let upgraded = self.upgrade.await.map_err(|e| Error::failed("upgrading a connection", e))?;
        Ok(Output { out: websocket::serve_output(upgraded).await })
    }
}

impl Output {
    /// Sends bytes as one message.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client has gone.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Error> {
        self.out.send(Outgoing::Message(Message::Binary(bytes))).await.map_err(|_| Error::Closed)
    }

    /// Resolves when the client has gone.
    pub async fn gone(&self) {
        self.out.closed().await;
    }
}

/// Grants the upgrade of a request whose answer is plain output.
///
/// # Errors
/// [`Error::BadUpgrade`] when the request asks for none, or for a protocol that is not served. The text is for the client.
pub fn accept_output(request: &mut Request<Body>) -> Result<(Response<Body>, PendingOutput), Error> {
    let protocol = negotiate::choose(request.headers(), &[], &OUTPUT_PROTOCOLS)?;
    let upgrade = take_upgrade(request)?;
    Ok((negotiate::grant(request.headers(), &protocol), PendingOutput { upgrade }))
}

/// Whether a request asks for any upgrade.
pub fn is_wanted(request: &Request<Body>) -> bool {
    request.headers().contains_key(http::header::UPGRADE)
}

pub(super) fn take_upgrade(request: &mut Request<Body>) -> Result<OnUpgrade, Error> {
    let found = request.extensions_mut().remove::<OnUpgrade>();
    found.ok_or_else(|| Error::BadUpgrade("this connection cannot be upgraded: HTTP/1.1 is needed".into()))
}

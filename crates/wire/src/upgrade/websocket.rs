//! WebSocket channels: the first byte of each binary message names the stream.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};

use super::channels::{Channels, Reader, TerminalSize, Wanted, Writer};
use super::frame::{Outgoing, QUEUE};

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const STATUS: u8 = 3;
pub(super) const RESIZE: u8 = 4;
/// In v5 the client ends a stream by a message on this channel whose only byte is the stream's number.
pub(super) const CLOSE: u8 = 255;

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(super) async fn socket(upgraded: Upgraded, role: Role) -> Socket {
    let config = WebSocketConfig::default().max_message_size(Some(4 << 20)).max_frame_size(Some(4 << 20));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), role, Some(config)).await
}

/// Opens the streams of an exec or attach.
pub(super) async fn serve_channels(upgraded: Upgraded, version: &str, wanted: Wanted) -> Channels {
    let (sink, stream) = socket(upgraded, Role::Server).await.split();
    let (out, orders) = mpsc::channel(QUEUE);
    tokio::spawn(write(sink, orders));
    let (stdin, typed) = mpsc::channel(QUEUE);
    let (resize, sizes) = mpsc::channel(QUEUE);
    let inputs = Inputs { stdin: wanted.stdin.then_some(stdin), resize: wanted.tty.then_some(resize) };
    tokio::spawn(read(stream, out.clone(), inputs, version.starts_with("v5")));
    let writer = |stream: u8| Writer { stream: stream.into(), out: out.clone() };
    let channels = Channels {
        stdin: wanted.stdin.then(|| Reader::new(typed)),
        stdout: wanted.stdout.then(|| writer(STDOUT)),
        stderr: wanted.stderr.then(|| writer(STDERR)),
        resize: wanted.tty.then_some(sizes),
        is_structured: version.starts_with('v'),
        status: writer(STATUS),
    };
    // An empty frame tells clients that wait for the first output that the streams are open; one that has gone is noticed later.
    if let Err(error) = channels.status.out.send(Outgoing::Data { stream: STDOUT.into(), bytes: Bytes::new() }).await {
        tracing::debug!(%error, "a client left at once");
    }
    channels
}

/// Opens a socket that only sends; what the client says, pings apart, is of no interest.
pub(super) async fn serve_output(upgraded: Upgraded) -> mpsc::Sender<Outgoing> {
    let (sink, stream) = socket(upgraded, Role::Server).await.split();
    let (out, orders) = mpsc::channel(QUEUE);
    tokio::spawn(write(sink, orders));
    let watcher = out.downgrade();
    tokio::spawn(async move {
        listen(stream, &watcher).await;
        // A writer that has ended needs no order.
        if let Some(out) = watcher.upgrade() {
            drop(out.send(Outgoing::Close).await);
        }
    });
    out
}

/// Answers pings until the client closes, or until nobody sends any more.
async fn listen(mut stream: SplitStream<Socket>, out: &mpsc::WeakSender<Outgoing>) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Ping(payload) => {
                let Some(out) = out.upgrade() else { return };
                if out.send(Outgoing::Message(Message::Pong(payload))).await.is_err() {
                    return;
                }
            }
            Message::Close(_) => return,
            _ => {}
        }
    }
}

struct Inputs {
    stdin: Option<mpsc::Sender<Bytes>>,
    resize: Option<mpsc::Sender<TerminalSize>>,
}

/// Reads until the client closes or breaks the connection. Pongs are answered by the library on the next write, so each ping wakes the writer.
async fn read(mut stream: SplitStream<Socket>, out: mpsc::Sender<Outgoing>, mut inputs: Inputs, can_close: bool) {
    while let Some(message) = stream.next().await {
        let data = match message {
            Ok(Message::Binary(data)) => data,
            Ok(Message::Ping(payload)) => {
                if out.send(Outgoing::Message(Message::Pong(payload))).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(Message::Pong(_)) => continue,
            Ok(_) | Err(_) => break,
        };
        let Some((&channel, _)) = data.split_first() else { continue };
        let payload = data.slice(1..);
        match channel {
            STDIN => deliver(&mut inputs.stdin, payload).await,
            RESIZE => announce(&mut inputs.resize, &payload).await,
            CLOSE if can_close && payload.first() == Some(&STDIN) => inputs.stdin = None,
            _ => {}
        }
    }
    // Ends the writer, by which everyone who waits for this client learns that it has gone. A writer that has ended needs no order.
    drop(out.send(Outgoing::Close).await);
}

/// Hands bytes to whoever reads the stream; a reader that has gone ends the stream, not the connection.
pub(super) async fn deliver(stream: &mut Option<mpsc::Sender<Bytes>>, bytes: Bytes) {
    if let Some(sender) = stream
        && !bytes.is_empty()
        && sender.send(bytes).await.is_err()
    {
        *stream = None;
    }
}

async fn announce(stream: &mut Option<mpsc::Sender<TerminalSize>>, payload: &[u8]) {
    if let (Some(sender), Some(size)) = (stream.as_ref(), parse_size(payload))
        && sender.send(size).await.is_err()
    {
        *stream = None;
    }
}

/// Reads `{"Width":80,"Height":24}`. A message that says something else is ignored: a size is a hint.
pub(super) fn parse_size(payload: &[u8]) -> Option<TerminalSize> {
    let text = std::str::from_utf8(payload).ok()?;
    let number = |name: &str| -> Option<u16> {
        let after = &text[text.find(name)? + name.len()..];
        let digits = after.trim_start_matches(['"', ':', ' ']);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().ok()
    };
    Some(TerminalSize { width: number("Width")?, height: number("Height")? })
}

/// Writes what the others order, until the close or the end of the connection.
pub(super) async fn write(mut sink: SplitSink<Socket, Message>, mut orders: mpsc::Receiver<Outgoing>) {
    while let Some(order) = orders.recv().await {
        let message = match order {
            Outgoing::Data { stream, bytes } => prefixed(stream, &bytes),
            Outgoing::Message(message) => message,
            Outgoing::Close => break,
            // WebSocket channels have no end of a stream from the server's side, and no replies.
            Outgoing::End { .. } | Outgoing::Reply { .. } | Outgoing::Reset { .. } | Outgoing::Pong { .. } => continue,
        };
        if sink.send(message).await.is_err() {
            return;
        }
    }
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    // A client that has gone cannot be told goodbye.
    drop(sink.send(Message::Close(Some(close))).await);
    drop(sink.close().await);
}

fn prefixed(stream: u32, bytes: &[u8]) -> Message {
    let mut data = BytesMut::with_capacity(bytes.len() + 1);
    data.put_u8(u8::try_from(stream).unwrap_or(CLOSE));
    data.put_slice(bytes);
    Message::Binary(data.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_size_is_read() {
        let size = parse_size(b"{\"Width\":80,\"Height\":24}\n").unwrap();
        assert_eq!((size.width, size.height), (80, 24));
        assert_eq!(parse_size(b"{\"Width\":-1}"), None);
        assert_eq!(parse_size(b"\xff"), None);
    }
}

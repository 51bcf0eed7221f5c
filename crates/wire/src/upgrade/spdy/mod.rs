//! SPDY/3.1 as kubectl speaks it, served: the client opens the streams, nobody keeps windows.

mod codec;
mod connection;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::channels::{Channels, Reader, TerminalSize, Wanted, Writer};
use super::frame::{Outgoing, QUEUE};
use super::websocket::parse_size;
use crate::Error;

pub(super) use connection::{Opened, start};

/// A client must open all streams of an exec within this time.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// Reads all frames of a stranger's bytes.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let mut decoder = codec::Decoder::new();
    let mut buffer = bytes.into();
    while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
}

/// Waits for the client to open the streams that its query announced.
pub(super) async fn serve_channels(upgraded: Upgraded, version: &str, wanted: Wanted) -> Result<Channels, Error> {
    let (out, mut opened) = start(TokioIo::new(upgraded))?;
    let deadline = Instant::now() + OPEN_DEADLINE;
    let names = expected(wanted);
    let mut streams: HashMap<String, Opened> = HashMap::new();
    while !names.iter().all(|name| streams.contains_key(*name)) {
        let stream = match timeout_at(deadline, opened.recv()).await {
            Ok(Some(stream)) => stream,
            Ok(None) => return Err(Error::Closed),
            Err(_) => return Err(Error::failed("waiting for a client to open its streams", "30 s have passed")),
        };
        if out.send(Outgoing::Reply { stream: stream.id }).await.is_err() {
            return Err(Error::Closed);
        }
        if let Some(kind) = stream.header("streamtype") {
            streams.insert(kind.to_owned(), stream);
        }
    }
    Ok(assemble(streams, version.starts_with("v4"), wanted, &out))
}

fn expected(wanted: Wanted) -> Vec<&'static str> {
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let all = [("error", true), ("stdin", stdin), ("stdout", stdout), ("stderr", stderr), ("resize", tty)];
    all.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
}

fn assemble(
    mut streams: HashMap<String, Opened>,
    is_structured: bool,
    wanted: Wanted,
    out: &mpsc::Sender<Outgoing>,
) -> Channels {
    let writer = |stream: Option<&Opened>| stream.map(|opened| Writer { stream: opened.id, out: out.clone() });
    let status = writer(streams.get("error")).unwrap_or_else(|| Writer { stream: 0, out: out.clone() });
    let (stdout, stderr) = (writer(streams.get("stdout")), writer(streams.get("stderr")));
    Channels {
        stdin: streams.remove("stdin").map(|opened| Reader::new(opened.data)),
        stdout,
        stderr,
        resize: if wanted.tty { streams.remove("resize").map(|opened| sizes(opened.data)) } else { None },
        is_structured,
        status,
    }
}

/// Turns the bytes of a resize stream into sizes: one JSON object to a line, which a frame holds whole.
fn sizes(mut data: mpsc::Receiver<Bytes>) -> mpsc::Receiver<TerminalSize> {
    let (sender, sizes) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(chunk) = data.recv().await {
            if let Some(size) = parse_size(&chunk)
                && sender.send(size).await.is_err()
            {
                return;
            }
        }
    });
    sizes
}

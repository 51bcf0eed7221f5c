//! One SPDY connection: a task that reads, a task that writes, and a queue of the streams that the client opens.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::codec::{self, Decoder, Encoder, Frame};
use crate::Error;
use crate::upgrade::frame::{Outgoing, QUEUE};

/// A client may have this many streams open on one connection.
const MAX_STREAMS: usize = 512;
const READ_BYTES: usize = 64 << 10;

/// A stream that the client opened. It waits for a [`Outgoing::Reply`].
pub(in crate::upgrade) struct Opened {
    pub(in crate::upgrade) id: u32,
    headers: Vec<(String, String)>,
    pub(in crate::upgrade) data: mpsc::Receiver<Bytes>,
}

impl Opened {
    pub(in crate::upgrade) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Starts both tasks. They end when the client leaves, or after [`Outgoing::Close`].
pub(in crate::upgrade) fn start<T>(io: T) -> Result<(mpsc::Sender<Outgoing>, mpsc::Receiver<Opened>), Error>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reading, writing) = tokio::io::split(io);
    let (out, orders) = mpsc::channel(QUEUE);
    let (accept, opened) = mpsc::channel(QUEUE);
    tokio::spawn(write(writing, orders, Encoder::new()?));
    let source = Source { out: out.clone(), accept, streams: HashMap::new(), last: 0 };
    tokio::spawn(source.run(reading));
    Ok((out, opened))
}

struct Source {
    out: mpsc::Sender<Outgoing>,
    accept: mpsc::Sender<Opened>,
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    last: u32,
}

impl Source {
    async fn run<T: AsyncRead>(mut self, mut io: ReadHalf<T>) {
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::with_capacity(READ_BYTES));
        'connection: loop {
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(Frame::GoAway)) => break 'connection,
                    Ok(Some(frame)) => {
                        if self.take(frame).await.is_err() {
                            break 'connection;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "a client broke the protocol");
                        break 'connection;
                    }
                }
            }
            buffer.reserve(READ_BYTES);
            match io.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        // Everyone who waits for this client learns that it has gone. A writer that has ended needs no order.
        drop(self.out.send(Outgoing::Close).await);
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Open { stream, headers, fin } => self.open(stream, headers, fin).await,
            Frame::Data { stream, bytes, fin } => {
                self.deliver(stream, bytes, fin).await;
                Ok(())
            }
            Frame::Reset { stream } => {
                self.streams.remove(&stream);
                Ok(())
            }
            Frame::Ping { id } => self.order(Outgoing::Pong { id }).await,
            Frame::Reply { .. } | Frame::GoAway | Frame::Other => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, headers: Vec<(String, String)>, fin: bool) -> Result<(), Error> {
        if stream <= self.last || self.streams.len() >= MAX_STREAMS {
            return self.order(Outgoing::Reset { stream }).await;
        }
        self.last = stream;
        let (sender, data) = mpsc::channel(QUEUE);
        if !fin {
            self.streams.insert(stream, sender);
        }
        self.accept.send(Opened { id: stream, headers, data }).await.map_err(|_| Error::Closed)
    }

    async fn deliver(&mut self, stream: u32, bytes: Bytes, fin: bool) {
        if let Some(sender) = self.streams.get(&stream)
            && !bytes.is_empty()
        {
            // A reader that has gone does not end the connection: its other streams live on.
            drop(sender.send(bytes).await);
        }
        if fin {
            self.streams.remove(&stream);
        }
    }

    async fn order(&self, order: Outgoing) -> Result<(), Error> {
        self.out.send(order).await.map_err(|_| Error::Closed)
    }
}

/// Writes what the others order. Orders that wait together go out in one write.
async fn write<T: AsyncWrite>(mut io: WriteHalf<T>, mut orders: mpsc::Receiver<Outgoing>, mut encoder: Encoder) {
    let mut buffer = BytesMut::new();
    let mut open = true;
    while open {
        let Some(order) = orders.recv().await else { break };
        open = encode(order, &mut encoder, &mut buffer);
        while open && buffer.len() < READ_BYTES {
            let Ok(order) = orders.try_recv() else { break };
            open = encode(order, &mut encoder, &mut buffer);
        }
        if io.write_all(&buffer).await.is_err() || io.flush().await.is_err() {
            return;
        }
        buffer.clear();
    }
    // A client that has gone cannot be told goodbye.
    drop(io.shutdown().await);
}

/// Appends one order to the buffer; false when it was the last.
fn encode(order: Outgoing, encoder: &mut Encoder, buffer: &mut BytesMut) -> bool {
    match order {
        Outgoing::Data { stream, bytes } => codec::data(stream, &bytes, false, buffer),
        Outgoing::End { stream } => codec::data(stream, &[], true, buffer),
        Outgoing::Reply { stream } => {
            if let Err(error) = encoder.reply(stream, buffer) {
                tracing::warn!(%error, "granting a stream");
                return false;
            }
        }
        Outgoing::Reset { stream } => codec::reset(stream, buffer),
        Outgoing::Pong { id } => codec::ping(id, buffer),
        Outgoing::Message(_) => {}
        Outgoing::Close => {
            codec::go_away(0, buffer);
            return false;
        }
    }
    true
}

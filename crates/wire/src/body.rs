//! Message bodies: whole, empty, or a channel with back-pressure.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;

use crate::Error;

/// The body of every request and response in podling.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Error>;

/// A body of known content.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body without content.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// Wraps any other body of bytes.
pub fn boxed<B>(body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    body.map_err(|source| Error::failed("reading a body", source)).boxed_unsync()
}

/// A body that is written while it is read. At most `capacity` chunks wait; then [`Sender::send`] waits for the reader.
pub fn channel(capacity: usize) -> (Sender, Body) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Sender(sender), ChannelBody(receiver).boxed_unsync())
}

/// The writing end of a [`channel`] body. Dropping it ends the body cleanly.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<Result<Bytes, Error>>);

impl Sender {
    /// Hands on one chunk.
    ///
    /// # Errors
    /// [`Error::Closed`] when the reader has gone.
    pub async fn send(&self, chunk: Bytes) -> Result<(), Error> {
        self.0.send(Ok(chunk)).await.map_err(|_| Error::Closed)
    }

    /// Breaks the body off, so that the reader does not take it for complete.
    pub async fn fail(self, error: Error) {
        // A reader that has gone needs no error.
        drop(self.0.send(Err(error)).await);
    }

    /// Resolves when the reader has gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

struct ChannelBody(mpsc::Receiver<Result<Bytes, Error>>);

impl HttpBody for ChannelBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.poll_recv(cx).map(|next| next.map(|chunk| chunk.map(Frame::data)))
    }
}

/// How much of a body that is too long is read and thrown away, in multiples of the limit: a sender that is cut off while it still writes may
/// never read the answer.
const PATIENCE: usize = 4;

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// [`Error::TooLarge`] beyond the limit, or whatever broke the body off.
pub async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Error> {
    let mut content = BytesMut::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length <= limit {
            content.extend_from_slice(&data);
        } else if length > limit.saturating_mul(PATIENCE) {
            break;
        }
    }
    if length > limit { Err(Error::TooLarge { limit }) } else { Ok(content.freeze()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_is_too_long_is_read_to_its_end() {
        let (sender, body) = channel(1);
        let sending = tokio::spawn(async move {
            for _ in 0..3 {
                sender.send(Bytes::from_static(b"12345")).await.unwrap();
            }
        });
        assert!(matches!(collect(body, 10).await, Err(Error::TooLarge { limit: 10 })));
        sending.await.unwrap();
        assert_eq!(collect(full("12345"), 5).await.unwrap(), "12345");
    }

    #[tokio::test]
    async fn a_body_without_end_is_broken_off() {
        let (sender, body) = channel(1);
        let sending = tokio::spawn(async move { while sender.send(Bytes::from_static(b"12345")).await.is_ok() {} });
        assert!(matches!(collect(body, 10).await, Err(Error::TooLarge { .. })));
        sending.await.unwrap();
    }
}

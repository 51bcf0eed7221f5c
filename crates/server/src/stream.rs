//! The body of a watch: lines, sent as they come, until the client leaves, time is up, or the server closes.

use std::time::Duration;

use api::status::Status;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until, timeout_at};
use wire::Body;

use crate::registry::{Feed, Item, now, object};
use crate::render::Lines;

/// How many lines wait for a slow client before its watch waits for it.
const CAPACITY: usize = 64;
/// Lines are joined into chunks of about this size.
const CHUNK_BYTES: usize = 16 << 10;
/// How often a client that wants them gets bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How a watch is told.
pub(crate) struct Stream {
    pub(crate) feed: Feed,
    pub(crate) lines: Lines,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
}

impl Stream {
    /// Starts telling.
    pub(crate) fn respond(self) -> Response<Body> {
        let (sender, body) = wire::body::channel(CAPACITY);
        tokio::spawn(async move {
            // An error here means only that the client has left.
            drop(self.tell(&sender).await);
        });
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    async fn tell(mut self, sender: &wire::body::Sender) -> Result<(), wire::Error> {
        let end = Instant::now() + self.timeout;
        let mut bookmark = Instant::now() + BOOKMARK_EVERY;
        let initial = std::mem::take(&mut self.feed.initial);
        self.send(sender, &initial, end).await?;
        loop {
            let told = tokio::select! {
                () = sender.closed() => return Ok(()),
                () = sleep_until(end) => return Ok(()),
                () = sleep_until(bookmark), if self.bookmarks => {
                    bookmark = Instant::now() + BOOKMARK_EVERY;
                    Some(self.feed.bookmark().await)
                }
                told = self.feed.next() => told,
            };
            match told {
                None => return Ok(()),
                Some(Ok(items)) => self.send(sender, &items, end).await?,
                Some(Err(status)) => return sender.send(error_line(&status)).await,
            }
        }
    }

    /// A client that reads nothing until the end of its time is taken for gone.
    async fn send(&mut self, sender: &wire::body::Sender, items: &[Item], end: Instant) -> Result<(), wire::Error> {
        let now = now();
        let mut rest = items;
        while !rest.is_empty() {
            let sent = timeout_at(end, sender.send(self.chunk(&mut rest, now)));
            sent.await.map_err(|_| wire::Error::Closed)??;
        }
        Ok(())
    }

    /// Lines that are there together go together: each chunk costs both ends more than its bytes.
    fn chunk(&mut self, items: &mut &[Item], now: Timestamp) -> Bytes {
        let mut chunk = BytesMut::new();
        while let Some((first, rest)) = items.split_first()
            && chunk.len() < CHUNK_BYTES
        {
            self.lines.line(&mut chunk, first, now);
            *items = rest;
        }
        chunk.freeze()
    }
}

/// A watch that cannot go on says so and ends.
fn error_line(status: &Status) -> Bytes {
    let mut line = BytesMut::new();
    object::frame(&mut line, "ERROR", &status.to_json());
    line.freeze()
}

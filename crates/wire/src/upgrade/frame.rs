//! What the tasks of one connection tell its writer.

use bytes::Bytes;

/// How many pieces may wait for a slow client before writers wait too.
pub(super) const QUEUE: usize = 16;

/// One order to the task that writes a connection.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Bytes on a stream.
    Data { stream: u32, bytes: Bytes },
    /// The end of a stream.
    End { stream: u32 },
    /// SPDY: grants a stream that the client opened.
    Reply { stream: u32 },
    /// SPDY: cancels a stream.
    Reset { stream: u32 },
    /// SPDY: echoes a ping.
    Pong { id: u32 },
    /// WebSocket: a ping's answer, or a ping of our own.
    Message(tokio_tungstenite::tungstenite::Message),
    /// Ends the connection in the protocol's orderly way.
    Close,
}

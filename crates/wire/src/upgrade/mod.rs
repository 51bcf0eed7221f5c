//! Requests that turn into bundles of byte streams: exec, attach and port-forward.
//!
//! Three protocols carry them: SPDY/3.1 (all kubectls), WebSocket channels (`v5.channel.k8s.io`, `v4.channel.k8s.io`; kubectl from 1.30,
//! kube-rs) and, for port-forward, SPDY frames inside WebSocket messages (kubectl from 1.31). Whoever uses this module sees none of them:
//! [`accept_channels`] and [`accept_forwards`] read the request's headers, give the `101` answer, and a future of the streams.

mod channels;
mod client;
mod forward;
mod frame;
mod negotiate;
mod spdy;
mod websocket;

pub use channels::{
    Channels, Output, Pending, PendingOutput, Reader, TerminalSize, Wanted, Writer, accept_channels, accept_output,
    is_wanted,
};
pub use client::{
    ClientChannels, ClientForward, ClientInput, ClientOutput, ForwardInput, ForwardOutput, Forwarded, Received,
    channels_request, dial_channels, dial_forward, forward_request,
};
pub use forward::{Forward, Forwards, PendingForwards, accept_forwards};
#[cfg(fuzzing)]
pub use spdy::fuzz as fuzz_spdy;

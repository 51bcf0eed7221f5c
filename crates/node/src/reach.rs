//! Whether a pod reaches an address: tried from within its network namespace, as its own programs would.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use network::Namespace;
use serde_json::{Value, json};

use crate::Error;

/// Who does not answer within this time is silent.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tries, from the network namespace of this process. `connection` is `open`, `refused`, `silent` or `unreachable`; `mtu` the largest packet
/// that arrives in one piece, if anybody answers.
pub(crate) async fn from_process(pid: u32, goal: IpAddr, port: u16) -> Result<Value, Error> {
    let tried = tokio::task::spawn_blocking(move || {
        let namespace = Namespace::of_process(pid)?;
        namespace.inside(|| attempt(goal, port))?
    });
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| Error::failed("looking from within a pod", error);
    tried.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
}

fn attempt(goal: IpAddr, port: u16) -> network::Result<Value> {
    let begun = Instant::now();
    let connected = TcpStream::connect_timeout(&SocketAddr::from((goal, port)), PATIENCE);
    let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (connection, error) = match connected {
        Ok(_) => ("open", None),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => ("refused", None),
            io::ErrorKind::TimedOut => ("silent", None),
            _ => ("unreachable", Some(error.to_string())),
        },
    };
    let ping = network::probe::quality(&[goal])?.first().copied().unwrap_or_default();
    let mtu = network::probe::largest(&[goal])?.first().copied().flatten();
    Ok(json!({"connection": connection, "error": error, "took_us": took_us, "mtu": mtu, "ping": ping}))
}

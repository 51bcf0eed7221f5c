//! `port-forward`: local ports that lead into a pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use client::resource::{self, with_query};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::timeout;
use wire::upgrade::{ForwardOutput, Forwarded, dial_forward, forward_request};

use crate::failure::Failure;
use crate::print;
use crate::session::{Connection, Session};
use crate::target;

/// After the local side has ended, the pod may go on for so long without a word: the protocol knows no half-closed connection.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// The options of `port-forward`.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,
    /// POD or pod/POD
    pod: String,
    /// PORT, LOCAL:REMOTE, or :REMOTE for a free local port
    #[arg(value_name = "[LOCAL:]REMOTE")]
    ports: Vec<String>,
    /// Addresses to listen on
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
    /// How long to wait for the pod to run
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = crate::session::duration)]
    pod_running_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

/// Forwards until the process is asked to end.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    if options.ports.is_empty() {
        return Err(Failure::text(
            "TYPE/NAME and list of ports are required for port-forward\nSee 'podling port-forward -h' for help and examples",
        ));
    }
    let session = Rc::new(options.connection.open()?);
    let name = target::pod(&options.pod)?;
    let pod = session.get(&session.pod(&name)).await?;
    let pairs = options.ports.iter().map(|text| pair(text, &pod)).collect::<Result<Vec<_>, _>>()?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if phase != "Running" {
        return Err(Failure::text(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let addresses = addresses(&options.address)?;
    let tasks = LocalSet::new();
    let mut has_listener = false;
    for pair in &pairs {
        for (listener, pair) in listen(&addresses, *pair).await {
            has_listener = true;
            tasks.spawn_local(serve(session.clone(), name.clone(), listener, pair));
        }
    }
    if !has_listener {
        let shown: Vec<String> = pairs.iter().map(|pair| format!("{{{} {}}}", pair.local, pair.remote)).collect();
        return Err(Failure::text(format!("unable to listen on any of the requested ports: [{}]", shown.join(" "))));
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ended = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tasks.run_until(ended).await;
    Ok(())
}

/// Listens on all addresses; what cannot be had is told.
async fn listen(addresses: &[IpAddr], pair: Pair) -> Vec<(TcpListener, Pair)> {
    let mut listeners: Vec<(TcpListener, Pair)> = Vec::new();
    let mut failures = Vec::new();
    for address in addresses {
        // All addresses of a free port get the same one.
        let local = listeners.first().map_or(pair.local, |(_, pair)| pair.local);
        let wanted = SocketAddr::new(*address, local);
        match TcpListener::bind(wanted).await {
            Ok(listener) => {
                let bound = listener.local_addr().unwrap_or(wanted);
                print::line(&format!("Forwarding from {bound} -> {}", pair.remote));
                listeners.push((listener, Pair { local: bound.port(), ..pair }));
            }
            Err(error) => {
                let family = if address.is_ipv4() { "tcp4" } else { "tcp6" };
                failures.push(format!(
                    "unable to create listener: Error listen {family} {wanted}: bind: {}",
                    reason(&error)
                ));
            }
        }
    }
    if listeners.is_empty() {
        print::line(&format!(
            "Unable to listen on port {}: Listeners failed to create with the following errors: [{}]",
            pair.local,
            failures.join(" ")
        ));
    }
    listeners
}

/// What went wrong, as Go says it.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

async fn serve(session: Rc<Session>, pod: String, listener: TcpListener, pair: Pair) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                print::line(&format!("Handling connection for {}", pair.local));
                let (session, pod) = (session.clone(), pod.clone());
                tokio::task::spawn_local(async move {
                    if let Err(failure) = connect(&session, &pod, stream, pair.remote).await {
                        let text = failure.lines();
                        let text = text.trim_start_matches("error: ").trim_end();
                        let Pair { local, remote } = pair;
                        print::complain(&format!("error: an error occurred forwarding {local} -> {remote}: {text}"));
                    }
                });
            }
            Err(error) => {
                print::complain(&format!("error: accepting a connection for {}: {error}", pair.local));
                return;
            }
        }
    }
}

/// Carries one connection.
async fn connect(session: &Session, pod: &str, stream: TcpStream, port: u16) -> Result<(), Failure> {
    let path = resource::PODS.subresource(Some(&session.namespace), pod, "portforward");
    let path = with_query(&path, &[("ports", &port.to_string())]);
    let uri = path.parse().map_err(|error| Failure::text(format!("{error}: \"{path}\"")))?;
    let response = session.client.upgrade(forward_request(uri)?).await.map_err(|error| session.failure(error))?;
    let (mut input, mut output) = dial_forward(response).await?.split();
    let (mut local, mut back) = stream.into_split();
    let mut buffer = vec![0; 32 << 10];
    loop {
        tokio::select! {
            piece = output.next() => if !give(piece, &mut back).await? {
                input.close().await;
                return Ok(());
            },
            read = local.read(&mut buffer) => match read {
                Ok(length) if length > 0 => input.send(&buffer[..length]).await?,
                _ => break,
            },
        }
    }
    drain(&mut output, &mut back).await?;
    input.close().await;
    Ok(())
}

/// Gives on what the pod says; false when it has ended.
async fn give(piece: Option<Forwarded>, back: &mut OwnedWriteHalf) -> Result<bool, Failure> {
    match piece {
        Some(Forwarded::Data(bytes)) => Ok(back.write_all(&bytes).await.is_ok()),
        Some(Forwarded::Error(text)) => Err(Failure::text(text)),
        None => {
            // A local side that has gone needs no end.
            drop(back.shutdown().await);
            Ok(false)
        }
    }
}

async fn drain(output: &mut ForwardOutput, back: &mut OwnedWriteHalf) -> Result<(), Failure> {
    while let Ok(piece) = timeout(LAST_WORDS, output.next()).await {
        if !give(piece, back).await? {
            return Ok(());
        }
    }
    Ok(())
}

fn addresses(words: &[String]) -> Result<Vec<IpAddr>, Failure> {
    let mut addresses = Vec::new();
    for word in words {
        match word.as_str() {
            "localhost" => addresses.extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]),
            other => {
                addresses.push(other.parse().map_err(|_| Failure::text(format!("{other} is not a valid IP")))?);
            }
        }
    }
    Ok(addresses)
}

/// Reads `8888:8080`, `8080`, `:8080`; the remote port may be the name of a port of a container.
fn pair(text: &str, pod: &Value) -> Result<Pair, Failure> {
    let (local, remote) = match text.split_once(':') {
        Some((local, remote)) if !remote.contains(':') => (local, remote),
        None => (text, text),
        Some(_) => return Err(Failure::text(format!("invalid port format '{text}'"))),
    };
    let remote = match remote.parse::<u16>() {
        Ok(0) => return Err(Failure::text("remote port must be > 0")),
        Ok(port) => port,
        Err(_) => named(remote, pod)?,
    };
    let local = match local {
        "" => 0,
        same if same.parse::<u16>().is_err() && !text.contains(':') => remote,
        other => {
            other.parse().map_err(|_| Failure::text(format!("error parsing local port '{other}': invalid port")))?
        }
    };
    Ok(Pair { local, remote })
}

fn named(name: &str, pod: &Value) -> Result<u16, Failure> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let port = ports.find(|port| port["name"] == name).and_then(|port| port["containerPort"].as_u64());
    port.and_then(|port| u16::try_from(port).ok())
        .ok_or_else(|| Failure::text(format!("Pod '{}' does not have a named port '{name}'", api::meta::name(pod))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Pair, pair};

    #[test]
    fn ports_are_read() {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
        });
        let read = |text| pair(text, &pod).map_err(|failure| failure.lines());
        assert_eq!(read("8888:8080"), Ok(Pair { local: 8888, remote: 8080 }));
        assert_eq!(read("8080"), Ok(Pair { local: 8080, remote: 8080 }));
        assert_eq!(read(":8080"), Ok(Pair { local: 0, remote: 8080 }));
        assert_eq!(read("80:http"), Ok(Pair { local: 80, remote: 8080 }));
        assert_eq!(read("http"), Ok(Pair { local: 8080, remote: 8080 }));
        assert_eq!(read("x"), Err("error: Pod 'p' does not have a named port 'x'".to_owned()));
        assert_eq!(read("1:2:3"), Err("error: invalid port format '1:2:3'".to_owned()));
    }
}

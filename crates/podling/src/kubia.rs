//! The program of the image `luksa/kubia`: without words a server that tells on port 8080 which host was hit and logs each request; with
//! words one of the small tools by which the demonstration looks around inside a container.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::signals;

const PORT: u16 = 8080;
/// A server must answer within this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until the process is asked to end, or does what the words say.
pub(crate) fn run(words: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match words.as_slice() {
            [] => serve().await,
            ["idle"] => signals::ended().await,
            ["hostname"] => say(&host()?),
            ["fetch", address] => say(timeout(PATIENCE, fetch(address)).await.context("no answer")??.trim_end()),
            ["listen", port] => listen(port.parse().context("reading a port")?).await.map(drop),
            ["write", path, text] => {
                std::fs::write(path, format!("{text}\n")).with_context(|| format!("writing {path}"))
            }
            ["read", path] => {
                let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
                say(text.trim_end())
            }
            other => bail!("kubia knows no {other:?}"),
        }
    })
}

#[expect(clippy::print_stdout, reason = "the answer of a tool")]
#[expect(clippy::unnecessary_wraps, reason = "a tool like the others")]
fn say(text: &str) -> anyhow::Result<()> {
    println!("{text}");
    Ok(())
}

fn host() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host name")?;
    Ok(name.trim().to_owned())
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("listening on port {port}"))
}

/// The body of the answer of the HTTP server at `address`.
async fn fetch(address: &str) -> anyhow::Result<String> {
    // There is no resolver in an image without files.
    let address = address.replace("localhost", "127.0.0.1");
    let mut stream = TcpStream::connect(&address).await.with_context(|| format!("connecting to {address}"))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.with_context(|| format!("reading from {address}"))?;
    let (_, body) = text.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    Ok(body.to_owned())
}

#[expect(clippy::print_stdout, reason = "the log of a container is its standard output")]
async fn serve() -> anyhow::Result<()> {
    println!("Kubia server starting...");
    let host = host()?;
    let listener = listen(PORT).await?;
    let mut ended = std::pin::pin!(signals::ended());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted.context("accepting a connection")?;
                println!("Received request from ::ffff:{}", peer.ip());
                let answer = format!("You've hit {host}\n");
                tokio::spawn(async move {
                    // A client that has gone wants no answer.
                    drop(respond(stream, &answer).await);
                });
            }
            result = ended.as_mut() => return result,
        }
    }
}

/// Reads one request's head and answers it.
async fn respond(stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    let text = format!("{head}Content-Length: {}\r\n\r\n{answer}", answer.len());
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

//! The server of the image `luksa/kubia`: tells on port 8080 which host was hit, and logs each request.

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::signals;

const PORT: u16 = 8080;

/// Serves until the process is asked to end.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())
}

#[expect(clippy::print_stdout, reason = "the log of a container is its standard output")]
async fn serve() -> anyhow::Result<()> {
    println!("Kubia server starting...");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host name")?;
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await.with_context(|| format!("listening on port {PORT}"))?;
    let mut ended = std::pin::pin!(signals::ended());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted.context("accepting a connection")?;
                println!("Received request from ::ffff:{}", peer.ip());
                let answer = format!("You've hit {}\n", host.trim());
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

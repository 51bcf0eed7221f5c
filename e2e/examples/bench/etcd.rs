//! The peer: etcd's puts, over its HTTP gateway.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Cluster;
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Bench, rate, row};

pub(crate) fn run(bench: &Bench) -> Result<()> {
    for clients in [1, 10, 100] {
        let measured = bench.runtime.block_on(measure(&bench.cluster, clients))?;
        row(&format!("etcd's puts, {clients} clients"), &measured, "peer");
    }
    Ok(())
}

/// Starts an etcd for one measurement.
async fn measure(cluster: &Cluster, clients: usize) -> Result<String> {
    let mut server = Command::new("etcd")
        .arg("--data-dir")
        .arg(cluster.path(&format!("etcd-{clients}")))
        .args(["--listen-client-urls", "http://127.0.0.1:23790", "--advertise-client-urls", "http://127.0.0.1:23790"])
        .args([
            "--listen-peer-urls",
            "http://127.0.0.1:23800",
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:23800",
        ])
        .args(["--initial-cluster", "default=http://127.0.0.1:23800"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("etcd")?;
    let result = puts(clients).await;
    server.kill()?;
    server.wait()?;
    result
}

async fn puts(clients: usize) -> Result<String> {
    let deadline = Instant::now() + e2e::PATIENCE;
    while put(&mut None, 0).await.is_err() {
        ensure!(Instant::now() < deadline, "etcd does not answer");
        tokio::task::yield_now().await;
    }
    let each = 2000 / clients;
    let begun = Instant::now();
    let write = async |number: usize| -> Result<()> {
        let mut stream = None;
        for entry in 0..each {
            put(&mut stream, number * each + entry).await?;
        }
        Ok(())
    };
    try_join_all((0..clients).map(write)).await?;
    Ok(format!("{} (over its HTTP gateway)", rate((each * clients) as f64 / begun.elapsed().as_secs_f64())))
}

/// One put over a connection that is kept.
async fn put(stream: &mut Option<TcpStream>, number: usize) -> Result<()> {
    let connection = match stream {
        Some(connection) => connection,
        None => stream.insert(TcpStream::connect(("127.0.0.1", 23790)).await?),
    };
    let body = json!({"key": format!("{number:08}"), "value": "A".repeat(200)}).to_string();
    let head = format!("POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = vec![0; 4096];
    let length = connection.read(&mut answer).await?;
    ensure!(
        answer[..length].starts_with(b"HTTP/1.1 200"),
        "etcd answers {}",
        String::from_utf8_lossy(&answer[..length])
    );
    Ok(())
}

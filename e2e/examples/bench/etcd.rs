//! The peer: etcd's puts, over its HTTP gateway.

use std::time::Instant;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use testkit::etcd::{Etcd, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Bench, rate, row};

pub(crate) fn run(bench: &Bench) -> Result<()> {
    if !Etcd::is_here() {
        return Ok(());
    }
    for clients in [1, 10, 100] {
        let measured = bench.runtime.block_on(measure(clients))?;
        row(&format!("etcd's puts, {clients} clients"), &measured, "peer");
    }
    Ok(())
}

/// Starts an etcd for one measurement.
async fn measure(clients: usize) -> Result<String> {
    let etcd = Etcd::start(&Options::default()).await?;
    let endpoint = etcd.endpoints().remove(0);
    puts(clients, endpoint.trim_start_matches("http://")).await
}

async fn puts(clients: usize, address: &str) -> Result<String> {
    let deadline = Instant::now() + e2e::PATIENCE;
    while put(address, &mut None, 0).await.is_err() {
        ensure!(Instant::now() < deadline, "etcd does not answer");
        tokio::task::yield_now().await;
    }
    let each = 2000 / clients;
    let begun = Instant::now();
    let write = async |number: usize| -> Result<()> {
        let mut stream = None;
        for entry in 0..each {
            put(address, &mut stream, number * each + entry).await?;
        }
        Ok(())
    };
    try_join_all((0..clients).map(write)).await?;
    Ok(format!("{} (over its HTTP gateway)", rate((each * clients) as f64 / begun.elapsed().as_secs_f64())))
}

/// One put over a connection that is kept.
async fn put(address: &str, stream: &mut Option<TcpStream>, number: usize) -> Result<()> {
    let connection = match stream {
        Some(connection) => connection,
        None => stream.insert(TcpStream::connect(address).await?),
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

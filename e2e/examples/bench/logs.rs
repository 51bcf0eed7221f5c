//! Logs: from a container into its file, from the file to a client, and how late a follower hears.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::resource::PODS;
use client::watch::Event;
use client::{Client, Delete};
use e2e::image;
use http::Request;
use jiff::Timestamp;
use serde_json::json;

use crate::{Bench, row, spread};

/// The image: busybox and a file of 100 MB in lines of 100 bytes.
const IMAGE: &str = "bench/lines";
const LINES: usize = 1_000_000;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let Some(busybox) = image::busybox_path() else {
        row("logs", "SKIPPED: there is no static busybox", "");
        return Ok(());
    };
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name(busybox, "bin/busybox")?;
    let lines = format!("{}\n", "x".repeat(99)).repeat(LINES);
    let mut header = tar::Header::new_gnu();
    header.set_size(lines.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "lines", lines.as_bytes())?;
    bench.cluster.import(IMAGE, &tar.into_inner()?, &["--cmd", "/bin/busybox"]);
    let client = bench.cluster.client();
    bench.runtime.block_on(async {
        pump(&client).await?;
        read(&client).await?;
        lag(&client).await
    })
}

/// What a pod that prints the file nine times takes longer than one that prints it once.
async fn pump(client: &Client) -> Result<()> {
    let mut rates = Vec::new();
    for round in 0..3 {
        let once = print(client, &format!("once-{round}"), 1).await?;
        let often = print(client, &format!("often-{round}"), 9).await?;
        rates.push(800.0 / (often.as_secs_f64() - once.as_secs_f64()));
    }
    rates.sort_by(f64::total_cmp);
    row("log: stdout → file, lines of 100 bytes", &format!("{:.0} MB/s (p50 of 3)", rates[1]), "≥ 400 MB/s");
    Ok(())
}

async fn start(client: &Client, name: &str, command: &[&str]) -> Result<client::watch::Watch> {
    let path = PODS.collection(Some("default"));
    let selector = format!("metadata.name={name}");
    let version = client.list(&path, &[("fieldSelector", &selector)]).await?.resource_version;
    let container = json!({"name": "main", "image": IMAGE, "command": command});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}});
    let watch = client.watch(&path, &[("fieldSelector", &selector)], &version).await?;
    client.create(&path, &pod).await?;
    Ok(watch)
}

/// Waits until the pod is in a phase.
async fn until(watch: &mut client::watch::Watch, phase: &str) -> Result<()> {
    loop {
        match watch.next().await?.context("the watch ended")? {
            Event::Added(pod) | Event::Modified(pod) if pod["status"]["phase"] == phase => return Ok(()),
            _ => {}
        }
    }
}

async fn print(client: &Client, name: &str, times: usize) -> Result<Duration> {
    let begun = Instant::now();
    let command: Vec<&str> = ["/bin/busybox", "cat"].into_iter().chain(std::iter::repeat_n("/lines", times)).collect();
    until(&mut start(client, name, &command).await?, "Succeeded").await?;
    Ok(begun.elapsed())
}

/// What is left of the largest log, the way `logs` takes.
async fn read(client: &Client) -> Result<()> {
    let path = PODS.subresource(Some("default"), "often-2", "log");
    let mut rates = Vec::new();
    let mut size = 0;
    for _ in 0..7 {
        let begun = Instant::now();
        size = client.raw(Request::get(&path).body(wire::body::empty())?).await?.1.len();
        rates.push(size as f64 / 1e6 / begun.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let measured = format!("{:.0} MB/s (p50 of 7), {} MB", rates[3], size / 1_000_000);
    row("log: file → client, API and TLS on two cores", &measured, "≥ 1000 MB/s in the node");
    Ok(())
}

/// From the time that the shim wrote into a line to its arrival.
async fn lag(client: &Client) -> Result<()> {
    let script = "while :; do echo tick; /bin/busybox sleep 0.02; done";
    let mut watch = start(client, "ticks", &["/bin/busybox", "sh", "-c", script]).await?;
    until(&mut watch, "Running").await?;
    let path = PODS.subresource(Some("default"), "ticks", "log");
    let request = Request::get(format!("{path}?follow=true&timestamps=true&tailLines=0")).body(wire::body::empty())?;
    let mut body = client.stream(request).await?.into_body();
    let mut lags = Vec::new();
    while lags.len() < 100 {
        use http_body_util::BodyExt;
        let frame = body.frame().await.context("the log ended")??;
        let now = Timestamp::now();
        let Ok(data) = frame.into_data() else { continue };
        let text = String::from_utf8_lossy(&data);
        let time = text.split(' ').next().and_then(|time| time.parse::<Timestamp>().ok());
        lags.push(Duration::try_from(now.duration_since(time.context("no time")?))?);
    }
    ensure!(lags.len() == 100, "a hundred lines");
    spread("log: lag of -f", lags, "≤ 2 ms");
    client.delete(&PODS.object(Some("default"), "ticks"), &Delete::default()).await?;
    Ok(())
}

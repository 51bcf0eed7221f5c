//! Watch fan-out: how many events reach how many watchers, and how late.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use client::resource::CONFIG_MAPS;
use client::{Client, Patch};
use futures_util::future::try_join_all;
use http::Request;
use http_body_util::BodyExt;
use serde_json::json;

use crate::{Bench, percentile, rate, row};

/// Watchers that share a connection.
const SHARED: usize = 100;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    for (watchers, events) in [(100, 1000), (1000, 200)] {
        bench.runtime.block_on(fan_out(bench, watchers, events))?;
    }
    Ok(())
}

async fn fan_out(bench: &Bench, watchers: usize, events: usize) -> Result<()> {
    let writer = bench.cluster.client();
    let (collection, name) = (CONFIG_MAPS.collection(Some("default")), format!("fan-{watchers}"));
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let version = writer.create(&collection, &object).await?["metadata"]["resourceVersion"].take();
    let version = version.as_str().context("no version")?;
    let uri = format!("{collection}?watch=true&resourceVersion={version}");
    let clients: Vec<Client> = (0..watchers.div_ceil(SHARED)).map(|_| bench.cluster.client()).collect();
    let open = (0..watchers).map(async |number| -> Result<wire::Body> {
        let request = Request::get(&uri).body(wire::body::empty())?;
        Ok(clients[number / SHARED].stream(request).await?.into_body())
    });
    let mut bodies = try_join_all(open).await?;
    let begun = Instant::now();
    let path = CONFIG_MAPS.object(Some("default"), &name);
    let write = async {
        for _ in 0..events {
            let patch = json!({"data": {"sent": format!("{:020}", since_epoch())}});
            writer.patch(&path, Patch::Merge, &patch).await?;
        }
        Ok(Vec::new())
    };
    let reads = bodies.iter_mut().map(|body| read(body, events));
    let (_, lags): (Vec<Duration>, Vec<Vec<Duration>>) =
        futures_util::future::try_join(write, try_join_all(reads)).await?;
    let per_second = (watchers * events) as f64 / begun.elapsed().as_secs_f64();
    let mut lags = lags.concat();
    lags.sort();
    let measured = format!("{} delivered, lag p99 {:.1} ms", rate(per_second), percentile(&lags, 99));
    row(&format!("watch fan-out, {watchers} watchers, TLS"), &measured, "≥ 100 k per s, p99 ≤ 20 ms");
    Ok(())
}

fn since_epoch() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Reads lines without parsing them, but for the time at which they were sent.
async fn read(body: &mut wire::Body, events: usize) -> Result<Vec<Duration>> {
    const FIELD: &[u8] = b"\"sent\":\"";
    let mut lags = Vec::with_capacity(events);
    let mut rest = Vec::new();
    while lags.len() < events {
        let Ok(data) = body.frame().await.context("the watch ended")??.into_data() else { continue };
        rest.extend_from_slice(&data);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        let now = since_epoch();
        for line in rest[..end].split(|byte| *byte == b'\n') {
            let at = line.windows(FIELD.len()).position(|window| window == FIELD).context("a line without a time")?;
            let digits = std::str::from_utf8(&line[at + FIELD.len()..][..20])?;
            lags.push(Duration::from_nanos(u64::try_from(now.saturating_sub(digits.parse()?))?));
        }
        rest.drain(..=end);
    }
    Ok(lags)
}

//! Durable creates through the API, and the disk's floor under them.

use std::time::Instant;

use anyhow::Result;
use client::resource::CONFIG_MAPS;
use e2e::cluster::Cluster;
use futures_util::future::try_join_all;
use serde_json::json;

use crate::{Bench, cpu, rate, row};

/// How many objects a run creates.
const OBJECTS: usize = 4000;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    row("bare fdatasync of 4 KiB, one by one", &rate(fdatasync(&bench.cluster)?), "floor");
    for (clients, target) in [(1, "≥ 2350 per s, ≤ 0.2 ms"), (10, "≤ 0.2 ms"), (100, "≤ 0.2 ms")] {
        bench.runtime.block_on(creates(&bench.cluster, "durable creates", clients, target))?;
    }
    Ok(())
}

/// Each client has a connection of its own, over TLS, which is open before the clock starts.
pub(crate) async fn creates(cluster: &Cluster, what: &str, clients: usize, target: &str) -> Result<()> {
    let each = OBJECTS / clients;
    let path = &CONFIG_MAPS.collection(Some("default"));
    let connected = (0..clients).map(async |_| {
        let client = cluster.client();
        client.get("/version").await.map(|_| client)
    });
    let connected = try_join_all(connected).await?;
    let (begun, cpu_before) = (Instant::now(), cpu(cluster)?);
    let write = async |(number, client): (usize, client::Client)| -> Result<()> {
        for entry in 0..each {
            let name = format!("bench-{clients}-{number}-{entry}");
            let object =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}});
            client.create(path, &object).await?;
        }
        Ok(())
    };
    try_join_all(connected.into_iter().enumerate().map(write)).await?;
    let per_second = (each * clients) as f64 / begun.elapsed().as_secs_f64();
    let each_cpu = (cpu(cluster)? - cpu_before) * 1000.0 / (each * clients) as f64;
    let measured = format!("{}, {each_cpu:.2} ms of the server's CPU each", rate(per_second));
    row(&format!("{what}, {clients} clients"), &measured, target);
    Ok(())
}

/// The disk's floor under a durable write.
fn fdatasync(cluster: &Cluster) -> Result<f64> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(cluster.path("floor"))?;
    file.set_len(4 << 20)?;
    file.sync_all()?;
    let begun = Instant::now();
    for number in 0..1000u64 {
        file.write_all_at(&[7; 4096], number * 4096)?;
        file.sync_data()?;
    }
    Ok(1000.0 / begun.elapsed().as_secs_f64())
}

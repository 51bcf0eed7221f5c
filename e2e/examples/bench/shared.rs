//! The state in etcd: durable creates and fresh reads through a server without a disk log of its own.

use std::time::Instant;

use anyhow::Result;
use client::resource::CONFIG_MAPS;
use e2e::cluster::Cluster;
use testkit::etcd::{Etcd, Options};

use crate::creates::creates;
use crate::{Bench, percentile, row};

const READS: usize = 500;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    if !Etcd::is_here() {
        return Ok(());
    }
    let etcd = bench.runtime.block_on(Etcd::start(&Options::default()))?;
    let store = format!("etcd={}", etcd.endpoints().join(","));
    let cluster = Cluster::control_plane(&["--store", &store]);
    for clients in [1, 10, 100] {
        bench.runtime.block_on(creates(&cluster, "creates into etcd", clients, "beside etcd's puts (--peers)"))?;
    }
    bench.runtime.block_on(reads(&cluster))
}

async fn reads(cluster: &Cluster) -> Result<()> {
    let client = cluster.client();
    let path = CONFIG_MAPS.object(Some("default"), "bench-1-0-0");
    let mut times = Vec::new();
    for _ in 0..READS {
        let begun = Instant::now();
        client.get(&path).await?;
        times.push(begun.elapsed());
    }
    times.sort();
    let measured = format!("p50 {:.2} ms, p90 {:.2} ms", percentile(&times, 50), percentile(&times, 90));
    row("linearizable get, state in etcd, one client", &measured, "-");
    Ok(())
}

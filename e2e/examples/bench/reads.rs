//! Reading among ten thousand pods.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use client::Client;
use client::resource::{NAMESPACES, PODS};
use futures_util::future::try_join_all;
use http::Request;
use serde_json::{Value, json};

use crate::{Bench, spread};

const PODS_MADE: usize = 10_000;
const WRITERS: usize = 20;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let client = bench.cluster.client();
    bench.runtime.block_on(async {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "many"}});
        client.create(&NAMESPACES.collection(None), &namespace).await?;
        let account = client::resource::SERVICE_ACCOUNTS.object(Some("many"), "default");
        let deadline = Instant::now() + e2e::PATIENCE;
        while client.get(&account).await.is_err() {
            ensure!(Instant::now() < deadline, "the namespace gets no service account");
        }
        let write = async |writer: usize| -> Result<()> {
            for number in (writer..PODS_MADE).step_by(WRITERS) {
                client.create(&PODS.collection(Some("many")), &pod(number)).await?;
            }
            Ok(())
        };
        try_join_all((0..WRITERS).map(write)).await?;
        let path = PODS.collection(Some("many"));
        let selected = time(&client, &format!("{path}?labelSelector=rare%3Dyes"), 21).await?;
        spread("get -l: 10 of 10 000 pods", selected, "≤ 5 ms");
        let all = time(&client, &path, 9).await?;
        spread("all 10 000 pods as JSON", all, "≤ 150 ms");
        Ok(())
    })
}

/// A pod that no scheduler touches.
fn pod(number: usize) -> Value {
    let rare = if number.is_multiple_of(PODS_MADE / 10) { "yes" } else { "no" };
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "labels": {"rare": rare, "app": format!("app-{}", number % 100)}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "main", "image": "none"}]}})
}

async fn time(client: &Client, uri: &str, rounds: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        let (_, body) = client.raw(Request::get(uri).body(wire::body::empty())?).await?;
        times.push(begun.elapsed());
        ensure!(body.len() > 5000, "{} bytes", body.len());
    }
    Ok(times)
}

//! Pods: one after the other, and many at once.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use client::resource::PODS;
use client::watch::Event;
use client::{Client, Delete};
use e2e::cluster::condition;
use e2e::image;
use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::memory::Memory;
use crate::{Bench, row, spread};

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let client = bench.cluster.client();
    bench.runtime.block_on(async {
        one_by_one(&client).await?;
        at_once(&client, 50, "≤ 0.8 s").await?;
        at_once(&client, 100, "≤ 1.5 s").await
    })
}

fn pod(name: &str) -> Value {
    let container = json!({"name": "kubia", "image": image::KUBIA});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}})
}

async fn one_by_one(client: &Client) -> Result<()> {
    let (mut running, mut answering, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..20 {
        let name = format!("one-{number}");
        let list = client.list(&PODS.collection(Some("default")), &[]).await?;
        let mut watch = client.watch(&PODS.collection(Some("default")), &[], &list.resource_version).await?;
        let begun = Instant::now();
        client.create(&PODS.collection(Some("default")), &pod(&name)).await?;
        let mut address = None;
        let mut is_running = false;
        while address.is_none() || !is_running {
            if let Some(Event::Added(pod) | Event::Modified(pod)) = watch.next().await? {
                address = pod["status"]["podIP"].as_str().map(str::to_owned);
                is_running = condition(&pod, "Ready") == "True";
            }
        }
        running.push(begun.elapsed());
        fetch(&address.context("no address")?).await?;
        answering.push(begun.elapsed());
        let begun = Instant::now();
        client.delete(&PODS.object(Some("default"), &name), &Delete::default()).await?;
        while !matches!(watch.next().await?, Some(Event::Deleted(_))) {}
        gone.push(begun.elapsed());
    }
    spread("one pod: create → Running, by a watch", running, "");
    spread("one pod: create → HTTP 200 after that", answering, "p50 ≤ 15 ms");
    spread("delete → gone", gone, "≤ 50 ms");
    Ok(())
}

/// Asks the server in a pod until it answers.
async fn fetch(address: &str) -> Result<()> {
    let deadline = Instant::now() + e2e::PATIENCE;
    loop {
        if let Ok(answer) = ask(address).await {
            ensure!(answer.starts_with("HTTP/1.1 200"), "{address} answers {answer}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{address} does not answer");
        tokio::task::yield_now().await;
    }
}

async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, 8080)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn at_once(client: &Client, count: usize, target: &str) -> Result<()> {
    let before = Memory::now()?;
    let path = PODS.collection(Some("default"));
    let list = client.list(&path, &[]).await?;
    let mut watch = client.watch(&path, &[], &list.resource_version).await?;
    let begun = Instant::now();
    let pods: Vec<Value> = (0..count).map(|number| pod(&format!("many-{number}"))).collect();
    try_join_all(pods.iter().map(|pod| client.create(&path, pod))).await?;
    let mut ready = std::collections::BTreeMap::new();
    while ready.len() < count {
        if let Some(Event::Added(pod) | Event::Modified(pod)) = watch.next().await?
            && condition(&pod, "Ready") == "True"
        {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            ready.insert(text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]));
        }
    }
    let running = begun.elapsed();
    for answer in join_all(ready.values().map(|address| fetch(address))).await {
        answer?;
    }
    let measured = format!("Running {:.2} s, all answer {:.2} s", running.as_secs_f64(), begun.elapsed().as_secs_f64());
    row(&format!("{count} pods at once"), &measured, target);
    Memory::now()?.report(&before, count);
    let begun = Instant::now();
    let how = Delete::default();
    let names: Vec<String> = ready.keys().map(|name| PODS.object(Some("default"), name)).collect();
    try_join_all(names.iter().map(|name| client.delete(name, &how))).await?;
    let mut left = count;
    while left > 0 {
        if let Some(Event::Deleted(_)) = watch.next().await? {
            left -= 1;
        }
    }
    row(&format!("{count} deletes at once → gone"), &format!("{:.2} s", begun.elapsed().as_secs_f64()), "");
    Ok(())
}

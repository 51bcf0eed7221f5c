//! `cargo xtask bench`: figures of the real binary, printed beside what they are measured against. `--peers` measures etcd's puts too.
#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::resource::{CONFIG_MAPS, PODS};
use client::watch::Event;
use client::{Client, Delete};
use e2e::cluster::{Cluster, condition};
use e2e::image;
use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cluster = Cluster::with_kubia();
    println!("{:<44} {}", "up to Ready, as it says itself", cluster.ready_line);
    idle(&cluster)?;
    let client = cluster.client();
    runtime.block_on(one_by_one(&client))?;
    runtime.block_on(at_once(&client, 50))?;
    for clients in [1, 10, 100] {
        runtime.block_on(creates(&cluster, clients))?;
    }
    println!("{:<44} {}", "bare fdatasync of 4 KiB, one by one", rate(fdatasync(&cluster)?));
    if std::env::args().any(|word| word == "--peers") {
        for clients in [1, 10, 100] {
            println!(
                "{:<44} {}",
                format!("etcd's puts, {clients} clients"),
                runtime.block_on(etcd(&cluster, clients))?
            );
        }
    }
    Ok(())
}

fn rate(per_second: f64) -> String {
    format!("{per_second:.0} per s")
}

/// The smallest, the middle and the ninth tenth.
fn spread(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |tenth: usize| times[(times.len() - 1) * tenth / 10].as_secs_f64() * 1000.0;
    println!("{name:<44} min {:.1}  p50 {:.1}  p90 {:.1} ms  (n = {})", at(0), at(5), at(9), times.len());
}

/// Memory and processor time of the process with nothing to do.
fn idle(cluster: &Cluster) -> Result<()> {
    let pid = std::fs::read_to_string(cluster.data().join("podling.pid"))?;
    let pid = pid.trim();
    let ticks = || -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<f64>()? + fields[12].parse::<f64>()?)
    };
    let before = ticks()?;
    // What is measured is that time passes and nothing happens.
    let (_keep, silence) = std::sync::mpsc::channel::<()>();
    ensure!(silence.recv_timeout(Duration::from_secs(10)).is_err(), "nobody speaks");
    let used = (ticks()? - before) / 100.0 / 10.0 * 100.0;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no RSS")?;
    println!("{:<44} RSS {}, {used:.1} % of a core over 10 s", "idle", rss.trim());
    Ok(())
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
    spread("one pod: create → Running, by a watch", running);
    spread("one pod: create → HTTP 200 after that", answering);
    spread("delete → gone", gone);
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

async fn at_once(client: &Client, count: usize) -> Result<()> {
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
    println!(
        "{:<44} Running {:.2} s, all answer {:.2} s",
        format!("{count} pods at once"),
        running.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
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
    println!("{:<44} {:.2} s", format!("{count} deletes at once → gone"), begun.elapsed().as_secs_f64());
    Ok(())
}

/// Durable creates through the API, each client with a connection of its own, over TLS.
async fn creates(cluster: &Cluster, clients: usize) -> Result<()> {
    let each = 2000 / clients;
    let path = CONFIG_MAPS.collection(Some("default"));
    let begun = Instant::now();
    let path = &path;
    let write = async |number: usize| -> Result<()> {
        let client = cluster.client();
        for entry in 0..each {
            let name = format!("bench-{clients}-{number}-{entry}");
            let object =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}});
            client.create(path, &object).await?;
        }
        Ok(())
    };
    try_join_all((0..clients).map(write)).await?;
    let per_second = (each * clients) as f64 / begun.elapsed().as_secs_f64();
    println!("{:<44} {}", format!("durable creates, {clients} clients"), rate(per_second));
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

/// Starts an etcd for one measurement.
async fn etcd(cluster: &Cluster, clients: usize) -> Result<String> {
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

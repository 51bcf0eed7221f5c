//! One control plane, many simulated nodes, many pods: what goes through the API, and what it costs. `SCALE=nodes,pods,clients` changes
//! the size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use client::{Client, resource};
use e2e::cluster::Cluster;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use testkit::nodes::{Node, OnRunning};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::{Bench, cpu, percentile, pid, rate, row};

const DEADLINE: Duration = Duration::from_secs(600);
const STEADY: Duration = Duration::from_secs(20);
const JOINING_AT_ONCE: usize = 32;

/// How much of each.
struct Size {
    nodes: u16,
    pods: usize,
    clients: usize,
}

/// When each pod was asked for and when it ran, in nanoseconds since the beginning.
struct Times {
    begun: Instant,
    asked: Vec<AtomicU64>,
    ran: Vec<AtomicU64>,
    running: AtomicUsize,
    all: Notify,
}

pub(crate) fn run(_: &Bench) -> Result<()> {
    let size = size().context("SCALE is nodes,pods,clients")?;
    let cluster = Cluster::control_plane(&[]);
    // The simulated nodes need more than one thread, and take what they need from the server's two cores.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (stop, shutdown) = watch::channel(false);
    let measured = runtime.block_on(measure(&cluster, &size, &shutdown));
    stop.send_replace(true);
    runtime.shutdown_timeout(Duration::from_secs(10));
    measured
}

fn size() -> Result<Size> {
    let text = std::env::var("SCALE").unwrap_or_else(|_| "1000,30000,8".into());
    let numbers: Vec<usize> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let [nodes, pods, clients] = numbers[..] else { anyhow::bail!("\"{text}\" is not three numbers") };
    Ok(Size { nodes: u16::try_from(nodes)?, pods, clients })
}

async fn measure(cluster: &Cluster, size: &Size, shutdown: &watch::Receiver<bool>) -> Result<()> {
    let times = Arc::new(Times::new(size.pods));
    let (begun, before) = (Instant::now(), cpu(cluster)?);
    join(cluster, size, &times, shutdown).await?;
    let took = begun.elapsed().as_secs_f64();
    let spent = cpu(cluster)? - before;
    let name = format!("{} simulated nodes join", size.nodes);
    row(&name, &format!("{took:.1} s, {spent:.1} s of the server's CPU, {}", memory(cluster)?), "");
    steady(cluster, "with no pods").await?;
    flood(cluster, size, &times).await?;
    steady(cluster, &format!("with {} pods", size.pods)).await
}

async fn join(cluster: &Cluster, size: &Size, times: &Arc<Times>, shutdown: &watch::Receiver<bool>) -> Result<()> {
    let seen = times.clone();
    let on_running: OnRunning = Arc::new(move |name| seen.runs(name));
    let nodes = (0..size.nodes).map(|number| Node::new(cluster.node_client(&Node::name(number)), number));
    let joined = stream::iter(nodes).map(async |node| node.join().await.map(|()| node));
    let mut joined = joined.buffer_unordered(JOINING_AT_ONCE);
    while let Some(node) = joined.try_next().await? {
        tokio::spawn(node.run(on_running.clone(), shutdown.clone()));
    }
    Ok(())
}

/// All pods are asked for as fast as the server takes them, and all have to run.
async fn flood(cluster: &Cluster, size: &Size, times: &Arc<Times>) -> Result<()> {
    let clients = (0..size.clients).map(async |_| {
        let client = cluster.client();
        client.get("/version").await.map(|_| client)
    });
    let clients = try_join_all(clients).await?;
    let before = (Instant::now(), cpu(cluster)?, own_cpu()?);
    try_join_all(clients.iter().enumerate().map(async |(number, client)| create(client, number, size, times).await))
        .await?;
    let created = before.0.elapsed().as_secs_f64();
    let all = timeout(DEADLINE, times.all.notified()).await;
    all.with_context(|| format!("only {} pods run", times.running.load(Ordering::Relaxed)))?;
    let ran = before.0.elapsed().as_secs_f64();
    let (spent, own) = (cpu(cluster)? - before.1, own_cpu()? - before.2);
    let pods = size.pods as f64;
    let name = format!("{} pods on {} nodes, {} clients", size.pods, size.nodes, size.clients);
    let measured = format!("created {}, all Running {} ({ran:.1} s)", rate(pods / created), rate(pods / ran));
    row(&name, &measured, "≥ 1000 per s");
    let each = spent * 1000.0 / pods;
    row("  the server's CPU", &format!("{spent:.1} s, {each:.2} ms per pod; generator {own:.1} s"), "");
    let waits = times.waits();
    let [half, most] = [50, 99].map(|hundredth| percentile(&waits, hundredth) / 1000.0);
    row("  asked for → Running", &format!("p50 {half:.2}  p99 {most:.2} s"), "");
    row("  the server's memory", &memory(cluster)?, "");
    Ok(())
}

async fn create(client: &Client, number: usize, size: &Size, times: &Times) -> Result<()> {
    let path = resource::PODS.collection(Some("default"));
    for pod in (number..size.pods).step_by(size.clients) {
        times.asked[pod].store(times.now(), Ordering::Relaxed);
        client.create(&path, &object(pod)).await?;
    }
    Ok(())
}

fn object(pod: usize) -> Value {
    let requests = json!({"cpu": format!("{}m", 100 + pod % 10), "memory": "128Mi"});
    let container = json!({"name": "main", "image": "registry.k8s.io/pause:3.10", "resources": {"requests": requests}});
    let labels = json!({"app": format!("app-{}", pod % 100)});
    let spec = json!({"containers": [container], "automountServiceAccountToken": false});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{pod}"), "labels": labels}, "spec": spec})
}

/// What the nodes' signs of life cost.
async fn steady(cluster: &Cluster, state: &str) -> Result<()> {
    let before = cpu(cluster)?;
    sleep(STEADY).await;
    let share = (cpu(cluster)? - before) * 100.0 / STEADY.as_secs_f64();
    row(&format!("  only heartbeats, {state}"), &format!("{share:.1} % of a core, {}", memory(cluster)?), "");
    Ok(())
}

fn memory(cluster: &Cluster) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(cluster)?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(format!("RSS {} MB", kib / 1000 * 1024 / 1000))
}

fn own_cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

impl Times {
    fn new(pods: usize) -> Self {
        let zeros = || (0..pods).map(|_| AtomicU64::new(0)).collect();
        Self { begun: Instant::now(), asked: zeros(), ran: zeros(), running: AtomicUsize::new(0), all: Notify::new() }
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    fn runs(&self, name: &str) {
        let Some(pod) = name.strip_prefix("pod-").and_then(|number| number.parse::<usize>().ok()) else { return };
        if self.ran[pod].swap(self.now(), Ordering::Relaxed) == 0
            && self.running.fetch_add(1, Ordering::Relaxed) + 1 == self.ran.len()
        {
            self.all.notify_one();
        }
    }

    fn waits(&self) -> Vec<Duration> {
        let load = |times: &[AtomicU64], pod: usize| times[pod].load(Ordering::Relaxed);
        let wait = |pod| Duration::from_nanos(load(&self.ran, pod).saturating_sub(load(&self.asked, pod)));
        let mut waits: Vec<Duration> = (0..self.ran.len()).map(wait).collect();
        waits.sort();
        waits
    }
}

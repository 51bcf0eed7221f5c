//! Simulated nodes: each registers, renews its lease, watches its pods and reports them Running and Ready through the API, as a node's agent
//! does. Only the pods are missing: they run nowhere.
//!
//! They answer how many nodes and pods a server carries. They know nothing of containers, images, volumes and networks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use api::time;
use client::cache::{Cache, Change, Key};
use client::{Client, Delete, Patch, resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// As often as a node's agent gives signs of life.
const BEAT: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u64 = 40;

/// Told the name of each pod that the server has taken for running.
pub type OnRunning = Arc<dyn Fn(&str) + Send + Sync>;

/// A node that is not there.
pub struct Node {
    client: Client,
    name: String,
    number: u16,
    labels: Value,
    allocatable: Value,
}

impl Node {
    /// A node with 32 cores, 64 GiB and room for 110 pods. `client` speaks for it; `number` makes its addresses and its zone, one of three.
    pub fn new(client: Client, number: u16) -> Self {
        let name = Self::name(number);
        let labels = json!({
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
        });
        let allocatable = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
        Self { client, name, number, labels, allocatable }
    }

    /// What the node of a number is called.
    pub fn name(number: u16) -> String {
        format!("node-{number:04}")
    }

    /// Registers: the Node, its lease, its status.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn join(&self) -> Result<()> {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": self.labels}});
        self.client.create(&resource::NODES.collection(None), &node).await.context("creating a node")?;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": LEASE_NAMESPACE},
            "spec": self.lease(),
        });
        let leases = resource::LEASES.collection(Some(LEASE_NAMESPACE));
        self.client.create(&leases, &lease).await.context("creating a lease")?;
        let path = resource::NODES.subresource(None, &self.name, "status");
        let status = json!({"status": self.status(Timestamp::now())});
        self.client.patch(&path, Patch::Merge, &status).await.context("reporting a node's status")?;
        Ok(())
    }

    /// Lives until the shutdown.
    pub async fn run(self, on_running: OnRunning, mut shutdown: watch::Receiver<bool>) {
        let selector = vec![("fieldSelector".to_owned(), format!("spec.nodeName={}", self.name))];
        let pods = resource::PODS.collection(None);
        let (_, mut pods) = Cache::start_trimmed(self.client.clone(), pods, selector, trim, shutdown.clone());
        // Real machines do not beat in step.
        let phase = BEAT * u32::from(self.number % 1000) / 1000;
        let mut beats = interval_at(Instant::now() + phase, BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                () = client::stopped(&mut shutdown) => return,
                _ = beats.tick() => self.beat().await,
                change = pods.recv() => match change {
                    Some(Change::Set(pod)) => self.care(&pod, &on_running).await,
                    Some(_) => Ok(()),
                    None => return,
                },
            };
            if let Err(error) = done {
                tracing::warn!(%error, node = self.name, "a simulated node");
            }
        }
    }

    async fn beat(&self) -> Result<(), client::Error> {
        let path = resource::LEASES.object(Some(LEASE_NAMESPACE), &self.name);
        self.client.patch_unread(&path, Patch::Merge, &json!({"spec": self.lease()})).await
    }

    /// Starts a pod that is new, ends one that is to go.
    async fn care(&self, pod: &Value, on_running: &OnRunning) -> Result<(), client::Error> {
        let key = Key::of(pod);
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            let now = Delete { grace_seconds: Some(0), uid: Some(uid.to_owned()), ..Delete::default() };
            let gone = self.client.delete(&resource::PODS.object(Some(&key.namespace), &key.name), &now).await;
            return gone.map(drop).or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) });
        }
        if pod["status"]["phase"] == "Running" {
            return Ok(());
        }
        let path = resource::PODS.subresource(Some(&key.namespace), &key.name, "status");
        let patch = json!({"metadata": {"uid": uid}, "status": self.pod_status(pod, Timestamp::now())});
        self.client.patch_unread(&path, Patch::Strategic, &patch).await?;
        on_running(&key.name);
        Ok(())
    }

    fn lease(&self) -> Value {
        json!({
            "holderIdentity": self.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": time::format_micro(Timestamp::now()),
        })
    }

    fn address(&self) -> String {
        let [high, low] = self.number.to_be_bytes();
        format!("172.16.{high}.{low}")
    }

    fn status(&self, now: Timestamp) -> Value {
        let now = time::format(now);
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "simulated", "lastHeartbeatTime": now, "lastTransitionTime": now});
        json!({
            "capacity": self.allocatable,
            "allocatable": self.allocatable,
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": self.address()}, {"type": "Hostname", "address": self.name}],
        })
    }

    fn pod_status(&self, pod: &Value, now: Timestamp) -> Value {
        let now = time::format(now);
        let holds = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
        let conditions = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"].map(holds);
        let run = |container: &Value| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "simulated", "ready": true, "started": true,
                "restartCount": 0, "containerID": format!("simulated://{}", pod["metadata"]["uid"].as_str().unwrap_or_default()),
                "state": {"running": {"startedAt": now}},
            })
        };
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten().map(run);
        json!({
            "phase": "Running",
            "startTime": now,
            "hostIP": self.address(),
            "hostIPs": [{"ip": self.address()}],
            "conditions": conditions,
            "containerStatuses": Value::Array(containers.collect()),
        })
    }
}

/// Keeps of a pod what a simulated node needs: thirty thousand of them are to fit in the process that measures.
fn trim(pod: &mut Value) {
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.retain(|field, _| {
            matches!(field.as_str(), "name" | "namespace" | "uid" | "resourceVersion" | "deletionTimestamp")
        });
    }
    pod["spec"] = json!({"containers": pod["spec"]["containers"].take()});
    pod["status"] = json!({"phase": pod["status"]["phase"].take()});
}

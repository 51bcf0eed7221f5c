//! The node's own object and its lease: what it says of itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::time;
use client::{Patch, resource};
use jiff::Timestamp;
use runtime::image::architecture;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Error;
use crate::agent::{Shared, text};
use crate::pressure::{self, Pressure};
use crate::resources::Capacity;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const MAX_PODS: u64 = 1000;

/// What the machine has: cores, memory, and the disk that holds `directory`.
pub fn capacity(directory: &Path) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let disk = existing(directory).and_then(|path| rustix::fs::statvfs(path).ok());
    Capacity {
        cpu_milli: cores * 1000,
        memory_bytes: memory().unwrap_or(0),
        storage_bytes: disk.map_or(0, |disk| disk.f_blocks * disk.f_frsize),
        pods: MAX_PODS,
    }
}

fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Writes the node's object and lease.
pub struct Registration {
    pub(crate) shared: Arc<Shared>,
    pub(crate) version: String,
    pub(crate) port: u16,
    pub(crate) grace: Duration,
}

impl Registration {
    /// Creates or updates the Node, makes sure of its blocks of addresses, reports it Ready and takes the lease.
    ///
    /// # Errors
    /// [`Error::Api`] when the API refuses.
    pub async fn register(&self) -> Result<(), Error> {
        let name = &self.shared.node_name;
        let begun = Instant::now();
        let object = match self.shared.client.create(&resource::NODES.collection(None), &self.node()).await {
            Err(error) if error.is_conflict() => {
                let patch = json!({"metadata": {"labels": self.labels()}});
                self.shared.client.patch(&resource::NODES.object(None, name), Patch::Merge, &patch).await?
            }
            answer => answer?,
        };
        // Not before: whoever gives the blocks of a node that is gone to others looks for the node between.
        if self.shared.addresses.confirm().await? {
            self.shared.end_strays();
        }
        self.shared.tell_blocks().await?;
        // First the sign of life: a status of a node that seems lost would be taken for an old one.
        self.renew().await?;
        self.report().await?;
        self.shared.presence.set(text(&object, "/metadata/uid"), begun);
        self.shared.recorder.node(name, "NodeReady", &format!("Node {name} status is now: NodeReady"));
        Ok(())
    }

    fn labels(&self) -> Value {
        let arch = architecture();
        json!({
            "kubernetes.io/hostname": self.shared.node_name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": arch,
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": arch,
        })
    }

    fn node(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.shared.node_name, "labels": self.labels()},
        })
    }

    pub(crate) async fn report(&self) -> Result<(), Error> {
        let path = resource::NODES.object(None, &self.shared.node_name);
        let begun = Instant::now();
        let present = self.shared.client.get(&path).await?;
        self.shared.presence.renew(text(&present, "/metadata/uid"), begun);
        let patch = json!({"status": self.status(&present, Timestamp::now())});
        self.shared.client.patch_unread(&format!("{path}/status"), Patch::Merge, &patch).await?;
        Ok(())
    }

    fn status(&self, present: &Value, now: Timestamp) -> Value {
        let capacity = self.shared.capacity;
        let amounts = json!({
            "cpu": format!("{}", capacity.cpu_milli / 1000),
            "memory": format!("{}Ki", capacity.memory_bytes / 1024),
            "ephemeral-storage": format!("{}Ki", capacity.storage_bytes / 1024),
            "pods": capacity.pods.to_string(),
            "hugepages-1Gi": "0",
            "hugepages-2Mi": "0",
        });
        let internal = self.shared.node_addresses();
        let internal = internal.iter().map(|address| json!({"type": "InternalIP", "address": address}));
        let name = json!({"type": "Hostname", "address": self.shared.node_name});
        let addresses: Vec<Value> = internal.chain([name]).collect();
        json!({
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": conditions(present, pressure::read(&self.shared.directory), now),
            "addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "nodeInfo": self.info(),
            "images": self.shared.images.status().unwrap_or_else(|| present["status"]["images"].clone()),
        })
    }

    fn info(&self) -> Value {
        let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let machine = read("/etc/machine-id");
        json!({
            "machineID": machine,
            "systemUUID": machine,
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "osImage": os_name().unwrap_or_else(|| "Linux".into()),
            "containerRuntimeVersion": format!("podling://{}", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": self.version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        })
    }

    pub(crate) async fn renew(&self) -> Result<(), Error> {
        let name = &self.shared.node_name;
        let path = resource::LEASES.object(Some(LEASE_NAMESPACE), name);
        let now = time::format_micro(Timestamp::now());
        let patch =
            json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": self.grace.as_secs()}});
        match self.shared.client.patch_unread(&path, Patch::Merge, &patch).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
                    "spec": patch["spec"],
                });
                self.shared.client.create(&resource::LEASES.collection(Some(LEASE_NAMESPACE)), &lease).await?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The conditions of the node; each keeps the moment since when it holds.
fn conditions(present: &Value, pressure: Pressure, now: Timestamp) -> Value {
    let memory = match pressure.memory {
        true => ("MemoryPressure", "True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        false => ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    };
    let disk = match pressure.disk {
        true => ("DiskPressure", "True", "KubeletHasDiskPressure", "kubelet has disk pressure"),
        false => ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    };
    let own = [
        memory,
        disk,
        // As upstream's default: no number of processes is too many.
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "podling is posting ready status"),
    ];
    let known = present["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let list = own.into_iter().map(|(kind, status, reason, message)| {
        let old = known.iter().find(|old| old["type"] == kind && old["status"] == status);
        let since = old.map(|old| text(old, "/lastTransitionTime").to_owned()).filter(|since| !since.is_empty());
        json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": time::format(now),
            "lastTransitionTime": since.unwrap_or_else(|| time::format(now)),
        })
    });
    Value::Array(list.collect())
}

fn os_name() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

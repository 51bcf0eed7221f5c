//! CPU, memory and what follows from them: cgroup limits, quality of service, the order in which the kernel kills.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::pod::Pod;

const PERIOD_US: u64 = 100_000;
const MIN_QUOTA_US: u64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// What the node has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk for images, logs and writable layers.
    pub storage_bytes: u64,
    /// Number of pods.
    pub pods: u64,
}

/// How well a pod is served when resources run short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// Every container has equal requests and limits.
    Guaranteed,
    /// Some container requests or limits something.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

/// One amount of a container: `section` is `requests` or `limits`.
pub fn amount(container: &core::Container, section: Section, resource: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    let map = match section {
        Section::Requests => resources.requests.as_ref(),
        Section::Limits => resources.limits.as_ref(),
    };
    parse(map?, resource)
}

/// The two halves of a container's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What is set aside.
    Requests,
    /// What is not exceeded.
    Limits,
}

fn parse(map: &BTreeMap<String, Text>, resource: &str) -> Option<Quantity> {
    Quantity::parse(&map.get(resource)?.0).ok()
}

/// Limits and weight of one container.
pub fn of_container(container: &core::Container) -> runtime::Resources {
    let limit = |resource| amount(container, Section::Limits, resource);
    // A request that is not given is the limit, which the API server has written down already.
    let request = amount(container, Section::Requests, "cpu").or_else(|| limit("cpu"));
    runtime::Resources {
        cpu_shares: Some(shares(request.map_or(0, milli))),
        cpu_quota_us: limit("cpu").map(|cpu| (milli(cpu) * PERIOD_US / 1000).max(MIN_QUOTA_US)),
        cpu_period_us: Some(PERIOD_US),
        memory_bytes: limit("memory").map(bytes),
        pids: None,
    }
}

/// Limits and weight of all containers of a pod together: limits only if every container has one.
pub fn of_pod(pod: &Pod) -> runtime::Resources {
    let sum = |section, resource, unit: fn(Quantity) -> u64| {
        pod.containers().iter().map(|c| amount(c, section, resource).map(unit)).sum::<Option<u64>>()
    };
    let requested: u64 =
        pod.containers().iter().filter_map(|container| amount(container, Section::Requests, "cpu")).map(milli).sum();
    let has_init = !pod.init_containers().is_empty();
    runtime::Resources {
        cpu_shares: Some(shares(requested)),
        cpu_quota_us: sum(Section::Limits, "cpu", milli)
            .filter(|_| !has_init)
            .map(|cpu| (cpu * PERIOD_US / 1000).max(MIN_QUOTA_US)),
        cpu_period_us: Some(PERIOD_US),
        memory_bytes: sum(Section::Limits, "memory", bytes).filter(|_| !has_init),
        pids: None,
    }
}

fn shares(cpu_milli: u64) -> u64 {
    (cpu_milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Thousandths of a unit, rounded up.
pub fn milli(quantity: Quantity) -> u64 {
    u64::try_from(quantity.milli_value()).unwrap_or(u64::MAX)
}

/// Whole units, rounded up.
pub fn bytes(quantity: Quantity) -> u64 {
    u64::try_from(quantity.value()).unwrap_or(u64::MAX)
}

/// The quality of service that a pod's resources amount to, as the API server computed it.
pub fn quality(pod: &Pod) -> Quality {
    match pod.status().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => Quality::Guaranteed,
        Some("Burstable") => Quality::Burstable,
        _ => Quality::BestEffort,
    }
}

/// The order in which the kernel kills when memory runs out: -997 for guaranteed pods, 1000 for best effort, and in between the lower the
/// more memory was requested.
pub fn oom_score(pod: &Pod, container: &core::Container, capacity: &Capacity) -> i32 {
    match quality(pod) {
        Quality::Guaranteed => -997,
        Quality::BestEffort => 1000,
        Quality::Burstable => {
            let requested = amount(container, Section::Requests, "memory").map_or(0, bytes);
            let share = requested.saturating_mul(1000) / capacity.memory_bytes.max(1);
            i32::try_from(1000_u64.saturating_sub(share)).unwrap_or(1000).clamp(3, 999)
        }
    }
}

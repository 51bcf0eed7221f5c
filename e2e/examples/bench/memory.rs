//! Memory: of the idle process, and of each pod beside its containers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Bench, cpu, pid, row};

/// What the kernel keeps for processes, namespaces, mounts and cgroups.
const KERNEL: [&str; 4] = ["Slab", "KernelStack", "PageTables", "Percpu"];

/// The shims of the machine by process id, and the kernel's own memory, in kB.
pub(crate) struct Memory {
    shims: BTreeMap<String, u64>,
    kernel: u64,
}

impl Memory {
    pub(crate) fn now() -> Result<Self> {
        let mut shims = BTreeMap::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let path = entry.path();
            let is_shim = std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "podling-shim");
            // One that has just gone is none.
            if let (true, Ok(text)) = (is_shim, std::fs::read_to_string(path.join("smaps_rollup"))) {
                shims.insert(entry.file_name().to_string_lossy().into_owned(), kilobytes(&text, "Pss"));
            }
        }
        let text = std::fs::read_to_string("/proc/meminfo")?;
        Ok(Self { shims, kernel: KERNEL.iter().map(|name| kilobytes(&text, name)).sum() })
    }

    /// What `count` pods have added.
    pub(crate) fn report(&self, before: &Self, count: usize) {
        let fresh = self.shims.iter().filter(|(pid, _)| !before.shims.contains_key(*pid));
        let mut sizes: Vec<u64> = fresh.map(|(_, size)| *size).collect();
        sizes.sort_unstable();
        let Some(middle) = sizes.get(sizes.len() / 2) else { return };
        row(&format!("a pod's shim, {count} pods"), &format!("PSS p50 {middle} kB (n = {})", sizes.len()), "≤ 100 kB");
        let kernel = self.kernel.saturating_sub(before.kernel) / count as u64;
        let measured = format!("{} kB, of it the kernel's {kernel} kB", middle + kernel);
        row("memory per pod, its containers' kernel objects too", &measured, "≤ 400 kB");
    }
}

/// The amount in a line `NAME: AMOUNT kB`.
fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// Memory and processor time of the process with nothing to do.
pub(crate) fn idle(bench: &Bench) -> Result<()> {
    let cluster = &bench.cluster;
    let before = cpu(cluster)?;
    // What is measured is that time passes and nothing happens.
    let (_keep, silence) = std::sync::mpsc::channel::<()>();
    ensure!(silence.recv_timeout(Duration::from_secs(10)).is_err(), "nobody speaks");
    let used = (cpu(cluster)? - before) / 10.0 * 100.0;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(cluster)?))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no RSS")?;
    let measured = format!("RSS {}, {used:.1} % of a core over 10 s", rss.trim());
    row("idle", &measured, "≤ 40 MB, ≤ 0.3 %");
    Ok(())
}

//! The files of limits and of use, and how the two versions express the same.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::spec::{Resources, Stats};

const DEFAULT_PERIOD_US: u64 = 100_000;

fn write(directory: &Path, file: &str, value: &str) -> Result<()> {
    let path = directory.join(file);
    fs::write(&path, value).doing(|| format!("write {value} to {}", path.display()))
}

/// For what not every kernel has.
fn write_if_there(directory: &Path, file: &str, value: &str) -> Result<()> {
    match fs::write(directory.join(file), value) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(()),
        other => other.doing(|| format!("write {value} to {file}")),
    }
}

pub(super) fn apply_unified(directory: &Path, resources: &Resources) -> Result<()> {
    if let Some(shares) = resources.cpu_shares {
        write(directory, "cpu.weight", &weight(shares).to_string())?;
    }
    if let Some(quota) = resources.cpu_quota_us {
        write(directory, "cpu.max", &format!("{quota} {}", resources.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US)))?;
    }
    if let Some(bytes) = resources.memory_bytes {
        write(directory, "memory.max", &bytes.to_string())?;
        write_if_there(directory, "memory.swap.max", "0")?;
    }
    resources.pids.map_or(Ok(()), |pids| write(directory, "pids.max", &pids.to_string()))
}

/// Maps 2..=262144 onto 1..=10000, as all engines do.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

pub(super) fn apply_separate(controller: &str, directory: &Path, resources: &Resources) -> Result<()> {
    match controller {
        "cpu" => apply_cpu(directory, resources),
        "memory" => match resources.memory_bytes {
            Some(bytes) => {
                write(directory, "memory.limit_in_bytes", &bytes.to_string())?;
                write_if_there(directory, "memory.memsw.limit_in_bytes", &bytes.to_string())
            }
            None => Ok(()),
        },
        "pids" => resources.pids.map_or(Ok(()), |pids| write(directory, "pids.max", &pids.to_string())),
        _ => Ok(()),
    }
}

fn apply_cpu(directory: &Path, resources: &Resources) -> Result<()> {
    if let Some(shares) = resources.cpu_shares {
        write(directory, "cpu.shares", &shares.max(2).to_string())?;
    }
    if let Some(quota) = resources.cpu_quota_us {
        write(directory, "cpu.cfs_period_us", &resources.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US).to_string())?;
        write(directory, "cpu.cfs_quota_us", &quota.to_string())?;
    }
    Ok(())
}

type Read<'a> = &'a dyn Fn(&str, &str) -> String;

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map_or(0, number)
}

pub(super) fn stats_unified(read: Read<'_>) -> Stats {
    let memory = number(&read("", "memory.current"));
    Stats {
        cpu: Duration::from_micros(field(&read("", "cpu.stat"), "usage_usec")),
        memory_bytes: memory,
        working_set_bytes: memory.saturating_sub(field(&read("", "memory.stat"), "inactive_file")),
        pids: number(&read("", "pids.current")),
    }
}

pub(super) fn stats_separate(read: Read<'_>) -> Stats {
    let memory = number(&read("memory", "memory.usage_in_bytes"));
    let own = number(&read("cpuacct", "cpuacct.usage"));
    // Where cpu and cpuacct are one tree it is known by the first name.
    let cpu = if own == 0 { number(&read("cpu", "cpuacct.usage")) } else { own };
    Stats {
        cpu: Duration::from_nanos(cpu),
        memory_bytes: memory,
        working_set_bytes: memory.saturating_sub(field(&read("memory", "memory.stat"), "total_inactive_file")),
        pids: number(&read("pids", "pids.current")),
    }
}

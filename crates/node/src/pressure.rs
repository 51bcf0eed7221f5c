//! Whether the machine runs short of something, by the thresholds at which upstream's kubelet says so; for the disk by smaller ones: a
//! tenth of a large disk is much, and a laptop is often that full.

use std::path::Path;

/// Less available memory than this is too little.
const MEMORY_BYTES: u64 = 100 << 20;
/// Less of the disk or its inodes free than this is too little, in hundredths.
const PERCENT: u64 = 5;
/// So much room is enough, whatever the disk's size.
const ENOUGH_BYTES: u64 = 10 << 30;

/// What the machine is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Of memory.
    pub memory: bool,
    /// Of room on the disk, for files or for their names.
    pub disk: bool,
}

/// Looks at the memory and at the disk that holds `directory`. What cannot be read is not short.
pub fn read(directory: &Path) -> Pressure {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = available(&meminfo).is_some_and(|bytes| bytes < MEMORY_BYTES);
    let disk = rustix::fs::statvfs(directory).is_ok_and(|disk| {
        let is_roomy = disk.f_bavail.saturating_mul(disk.f_frsize) >= ENOUGH_BYTES;
        !is_roomy && is_short(disk.f_bavail, disk.f_blocks) || is_short(disk.f_favail, disk.f_files)
    });
    Pressure { memory, disk }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Some file systems make inodes as they are needed, and have none to count.
fn is_short(left: u64, all: u64) -> bool {
    all > 0 && u128::from(left) * 100 < u128::from(all) * u128::from(PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_read() {
        let text = "MemTotal:        8048000 kB\nMemFree:          100 kB\nMemAvailable:     102399 kB\n";
        assert_eq!(available(text), Some(102_399 * 1024));
        assert!(available(text) < Some(MEMORY_BYTES));
        assert_eq!(available(""), None);
    }

    #[test]
    fn shares_are_of_the_whole() {
        assert!(is_short(4, 100));
        assert!(!is_short(5, 100));
        assert!(!is_short(0, 0), "nothing to count");
    }
}

//! What podling leaves in a machine if it leaves something: looked for before and after the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::bail;

use crate::command::program;

/// Traces of clusters: their words, one for each.
pub(crate) fn find() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    names(Path::new("/run/podling"), |name| found_in(&mut found, "state /run/podling/", name));
    names(Path::new("/sys/class/net"), |name| {
        if is_link(name) {
            found_in(&mut found, "link ", name);
        }
    });
    let cgroups = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu"];
    for root in cgroups {
        names(Path::new(root), |name| {
            if name.starts_with("podling-") {
                found_in(&mut found, &format!("cgroup {root}/"), name);
            }
        });
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.contains("podling") && line.contains("overlay")) {
        found_in(&mut found, "mount ", line.split(' ').nth(4).unwrap_or(line));
    }
    let tables = program("nft").args(["list", "tables"]).output().unwrap_or_default();
    for line in tables.lines().filter(|line| line.contains("podling-")) {
        found_in(&mut found, "nft ", line);
    }
    found
}

fn found_in(found: &mut BTreeSet<String>, prefix: &str, name: &str) {
    found.insert(format!("{prefix}{name}"));
}

fn names(directory: &Path, mut each: impl FnMut(&str)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        each(&entry.file_name().to_string_lossy());
    }
}

/// `p`, four digits of a cluster's id, then a hash.
fn is_link(name: &str) -> bool {
    name.len() == 15 && name.starts_with('p') && name[1..].bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Fails if something is there now that was not there before.
pub(crate) fn compare(before: &BTreeSet<String>) -> anyhow::Result<()> {
    let left: Vec<String> = find().difference(before).cloned().collect();
    if !left.is_empty() {
        bail!("the tests left something behind:\n{}", left.join("\n"));
    }
    Ok(())
}

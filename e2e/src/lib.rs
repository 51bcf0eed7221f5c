//! The real binary with real clients.
//!
//! In reading order: [`cluster`] is a throw-away cluster, [`shell`] types commands at it as people do, [`finger`] says with which client,
//! [`image`] makes what the containers run, [`oracle`] compares with the real API server. Tests fail by panicking, so do these parts.

pub mod cluster;
pub mod finger;
pub mod image;
pub mod oracle;
pub mod shell;

use std::time::Duration;

/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether tests with clusters can run here; says why not.
pub fn can_run() -> bool {
    let is_root = std::process::Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !is_root {
        eprintln!("SKIPPED: needs root");
    } else if image::busybox_path().is_none() {
        eprintln!("SKIPPED: needs busybox-static");
    } else {
        return true;
    }
    false
}

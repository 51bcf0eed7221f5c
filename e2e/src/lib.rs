//! The real binary with real clients.
//!
//! In reading order: [`cluster`] is a throw-away cluster, [`shell`] types commands at it as people do, [`finger`] says with which client,
//! [`lab`] is several machines, [`image`] makes what the containers run, [`oracle`] compares with the real API server. Tests fail by panicking, so do these parts.

pub mod cluster;
pub mod finger;
pub mod image;
pub mod lab;
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

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none for as long as anything may take.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
    }
}

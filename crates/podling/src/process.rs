//! Other processes of this program: asking them to end, waiting for their end.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::unix::pipe;
use tokio::time::timeout;

/// Asks a process to end. One that has ended already is content.
pub(crate) fn terminate(pid: i32) -> anyhow::Result<()> {
    match open(pid)? {
        Some(process) => pidfd_send_signal(&process, Signal::TERM).with_context(|| format!("ending process {pid}")),
        None => Ok(()),
    }
}

/// Waits for the end of a process; false if it does not come in time.
pub(crate) async fn has_ended(pid: i32, deadline: Duration) -> anyhow::Result<bool> {
    let Some(process) = open(pid)? else { return Ok(true) };
    let doing = || format!("waiting for process {pid}");
    // The descriptor of a process becomes readable when the process has ended, as a pipe does at its end.
    let ending = pipe::Receiver::from_owned_fd_unchecked(process).with_context(doing)?;
    match timeout(deadline, ending.readable()).await {
        Ok(ended) => ended.with_context(doing).map(|()| true),
        Err(_) => Ok(false),
    }
}

fn open(pid: i32) -> anyhow::Result<Option<OwnedFd>> {
    let Some(target) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(target, PidfdFlags::NONBLOCK) {
        Ok(process) => Ok(Some(process)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("looking at process {pid}")),
    }
}

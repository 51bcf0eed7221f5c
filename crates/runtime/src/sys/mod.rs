//! The few calls of this crate that the compiler cannot check.
#![expect(
    unsafe_code,
    reason = "registering descriptors and loading device programs have no safe interface"
)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the reactor, which keeps it until the result is dropped.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` owns its descriptor, always names the same one, and nothing takes it out before `AsyncFd` deregisters it.
    Ok(unsafe { AsyncFd::register(File::from(fd)) }?)
}

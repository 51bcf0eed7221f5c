//! The few calls of this crate that the compiler cannot check.
#![expect(unsafe_code, reason = "registering descriptors and loading device programs have no safe interface")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the reactor, which keeps it until the result is dropped.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` owns its descriptor, always names the same one, and nothing takes it out before `AsyncFd` deregisters it.
    Ok(unsafe { AsyncFd::register(File::from(fd)) }?)
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE_HOOK: u32 = 6;
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    rest: [u64; 8],
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<i32> {
    // SAFETY: callers pass the struct that belongs to the command, whose pointers outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Has the kernel check and keep a program over device accesses.
pub(crate) fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let attributes = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        rest: [0; 8],
    };
    let fd = bpf(PROG_LOAD, &attributes)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a program asked for a cgroup, beside those that are there.
pub(crate) fn attach_device_program(program: &OwnedFd, group: &File) -> io::Result<()> {
    let attributes = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        hook: CGROUP_DEVICE_HOOK,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attributes).map(|_| ())
}

//! Calls that the compiler cannot check, each behind an interface that cannot be misused by a single-threaded process.
#![expect(unsafe_code, reason = "clone3, setns, seccomp and raw prctl have no safe interface")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::thread::UnshareFlags;

/// Which namespaces a child gets of its own.
pub(crate) const NEW_PID: u64 = libc::CLONE_NEWPID as u64;
/// An own mount table.
pub(crate) const NEW_MOUNT: u64 = libc::CLONE_NEWNS as u64;

const INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks with new namespaces, born in a cgroup. The child runs `child` and never comes back.
pub(crate) fn clone_child(flags: u64, cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce() -> i32) -> io::Result<u32> {
    let into = if cgroup.is_some() { INTO_CGROUP } else { 0 };
    let arguments = CloneArgs {
        flags: flags | into,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM the child gets a copy of this memory, and this process has one thread, so no lock is held by another. The
    // kernel reads `arguments` only during the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => exit_now(child()),
        pid => Ok(pid as u32),
    }
}

/// Ends the process without running what was registered for its end: that belongs to the parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Leaves shared namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only unsharing the descriptor table could break others' assumptions; no caller here does.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Joins namespaces, by the descriptor of one or of a process.
pub(crate) fn setns(fd: impl AsFd, kinds: i32) -> io::Result<()> {
    // SAFETY: a plain system call on a borrowed descriptor.
    check(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds) })
}

/// A raw process control with numbers only.
pub(crate) fn prctl(option: i32, a: u64, b: u64) -> io::Result<()> {
    // SAFETY: callers pass options that take numbers.
    check(unsafe { libc::prctl(option, a, b, 0u64, 0u64) })
}

/// Sets user, group and supplementary groups of this process, for good.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the raw calls concern the one thread there is; the list outlives the call.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) as i32)?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid) as i32)?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as i32)
    }
}

/// The format of capability sets that the kernel uses since 2.6.26.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The permitted capabilities of this process.
pub(crate) fn permitted_capabilities() -> io::Result<u64> {
    let mut header = [CAPABILITY_VERSION, 0];
    let mut data = [0u32; 6];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    check(result as i32)?;
    Ok(u64::from(data[1]) | u64::from(data[4]) << 32)
}

/// Sets permitted and effective capabilities; none are inheritable.
pub(crate) fn set_capabilities(set: u64) -> io::Result<()> {
    let header = [CAPABILITY_VERSION, 0];
    let (low, high) = (set as u32, (set >> 32) as u32);
    let data = [low, low, 0, high, high, 0];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } as i32)
}

/// Installs a classic BPF program over system calls.
pub(crate) fn install_seccomp(program: &[u8]) -> io::Result<()> {
    let instruction = |bytes: &[u8; 8]| libc::sock_filter {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    let mut filter: Vec<libc::sock_filter> = program.as_chunks::<8>().0.iter().map(instruction).collect();
    let fprog = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its head outlive the call, which copies and verifies them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const fprog) } as i32)
}

/// Replaces the program. Comes back only with an error.
pub(crate) fn execve(path: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with null and point to strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: changes flags only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } as i32)
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: for a child that uses none of its parent's descriptors any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } as i32)
}

/// Makes `fd` the standard stream of number `target`.
pub(crate) fn set_stdio(fd: impl AsFd, target: i32) -> io::Result<()> {
    // SAFETY: standard streams are owned by nobody here.
    check(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), target) })
}

/// Takes over the standard input, on which the first agent waits.
pub(crate) fn take_stdin() -> OwnedFd {
    // SAFETY: called once at the start, before anything else uses descriptor 0.
    unsafe { OwnedFd::from_raw_fd(0) }
}

/// Sets a resource limit.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the struct outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit>())
    } as i32)
}

/// Lets signals that a shim ignores or blocks behave as usual again.
pub(crate) fn reset_signals() {
    // SAFETY: an empty set and default actions have no preconditions.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// Ignores what service managers send to everything they once started: a sandbox ends when its agent says so.
pub(crate) fn ignore_termination() {
    // SAFETY: ignoring a signal runs no code.
    unsafe {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// A descriptor that becomes readable when a child ends; the signal itself is blocked.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before use; a new descriptor is owned by nobody else.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sends a signal to a child that was not reaped yet, or to all (-1) of the caller's pid namespace.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: a plain system call.
    check(unsafe { libc::kill(pid, signal) })
}

/// Waits for any child; (pid, wait status).
pub(crate) fn reap(block: bool) -> Option<(u32, i32)> {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    // SAFETY: the status outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, flags | libc::__WALL) };
    (pid > 0).then_some((pid as u32, status))
}

/// The position of a byte.
pub(crate) fn find_byte(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: pointer and length are of one slice.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), i32::from(byte), bytes.len()) };
    (!found.is_null()).then(|| found as usize - bytes.as_ptr() as usize)
}

/// Makes this process the leader of a new session whose terminal is its stdin.
pub(crate) fn take_terminal() -> io::Result<()> {
    // SAFETY: a plain system call.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) })
}

/// Changes flags and propagation of the mount a descriptor stands for.
pub(crate) fn mount_setattr(fd: impl AsFd, flags: i32, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    let attributes = [set, clear, propagation, 0];
    // SAFETY: the four words are the kernel's struct mount_attr, and the empty path names the descriptor.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    } as i32)
}

/// Has buffers of the size of a message given back to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
pub(crate) fn keep_memory_small() {
    // SAFETY: sets a parameter of the allocator before much was allocated.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 16 * 1024) };
}

/// Gives back what was freed: a sandbox is idle nearly all its life.
#[cfg(target_env = "gnu")]
pub(crate) fn give_memory_back() {
    // SAFETY: has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do so on their own.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_memory_small() {}

/// Other allocators do so on their own.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_memory_back() {}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! Giving up what the image's process must not have.

use std::io::Write;
use std::os::fd::AsFd;

use super::{Refusal, Refuse};
use crate::protocol::StartFailure;
use crate::spec::{CAPABILITIES, Process, Rlimit};
use crate::sys;

const RLIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", 0),
    ("RLIMIT_FSIZE", 1),
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_CORE", 4),
    ("RLIMIT_RSS", 5),
    ("RLIMIT_NPROC", 6),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
    ("RLIMIT_LOCKS", 10),
    ("RLIMIT_SIGPENDING", 11),
    ("RLIMIT_MSGQUEUE", 12),
    ("RLIMIT_NICE", 13),
    ("RLIMIT_RTPRIO", 14),
    ("RLIMIT_RTTIME", 15),
];

/// Best effort: going below the present value takes CAP_SYS_RESOURCE, which not even root has everywhere.
pub(crate) fn adjust_oom_score(score: Option<i32>) {
    let Some(score) = score else { return };
    let path = "/proc/self/oom_score_adj";
    if std::fs::write(path, score.to_string()).is_err() {
        // Goes to the shim's own log.
        let warned = writeln!(std::io::stderr(), "oom_score_adj {score} is not permitted here, it stays as it is");
        debug_assert!(warned.is_ok(), "stderr is a file");
    }
}

pub(super) fn set_rlimits(limits: &[Rlimit]) -> Result<(), Refusal> {
    for limit in limits {
        let Some((_, number)) = RLIMITS.iter().find(|(name, _)| *name == limit.name) else {
            return Err(Refusal::new(StartFailure::Other, format!("unknown resource limit {}", limit.name)));
        };
        sys::set_rlimit(*number, limit.soft, limit.hard)
            .refuse(StartFailure::Other, || format!("set {}", limit.name))?;
    }
    Ok(())
}

/// Lets the user open /dev/stdout again, which is its pipe under another name. What cannot change its owner is open to all anyway.
pub(super) fn own_stdio(uid: u32) {
    if uid == 0 {
        return;
    }
    let owner = Some(rustix::fs::Uid::from_raw(uid));
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let is_device = |found: &rustix::fs::Stat| found.st_rdev == rustix::fs::makedev(1, 3);
        if rustix::fs::fstat(stream).is_ok_and(|found| !is_device(&found)) {
            rustix::fs::fchown(stream, owner, None).unwrap_or_default();
        }
    }
}

/// In the one order that works: a filter without no_new_privs needs privileges, and the bounding set must go before the user does.
pub(super) fn drop(process: &Process) -> Result<(), Refusal> {
    let program = process.seccomp.as_deref().map(decode).transpose()?;
    let install = || match &program {
        Some(program) => {
            sys::install_seccomp(program).refuse(StartFailure::Other, || "install the system call filter".into())
        }
        None => Ok(()),
    };
    if !process.no_new_privs {
        install()?;
    }
    // What the machine itself was not given cannot be passed on.
    let owned = sys::permitted_capabilities().refuse(StartFailure::Other, || "read capabilities".into())?;
    bound(process.capabilities)?;
    let user = &process.user;
    sys::become_user(user.uid, user.gid, &user.groups)
        .refuse(StartFailure::Other, || format!("become user {}:{}", user.uid, user.gid))?;
    let kept = if user.uid == 0 { process.capabilities & owned } else { 0 };
    sys::set_capabilities(kept).refuse(StartFailure::Other, || "drop capabilities".into())?;
    // If the shim dies nobody watches this process any more. Changing the user cleared this, so it comes after.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
        .refuse(StartFailure::Other, || "bind to the shim".into())?;
    if process.no_new_privs {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).refuse(StartFailure::Other, || "set no_new_privs".into())?;
        install()?;
    }
    Ok(())
}

/// Takes capabilities out of the bounding set, so that no program can bring them back.
pub(crate) fn bound(keep: u64) -> Result<(), Refusal> {
    for (number, name) in CAPABILITIES.iter().enumerate().filter(|(number, _)| keep & (1 << number) == 0) {
        match sys::prctl(libc::PR_CAPBSET_DROP, number as u64, 0) {
            // An older kernel does not know it, so nobody has it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => other.refuse(StartFailure::Other, || format!("drop {name}"))?,
        }
    }
    Ok(())
}

fn decode(digits: &str) -> Result<Vec<u8>, Refusal> {
    let pair = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or_else(|| Refusal::new(StartFailure::Other, "the system call filter is not hexadecimal"))
}

//! Which devices a container may use: it may make any device file (CAP_MKNOD is customary), and open only harmless ones.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::error::{Doing, Result};
use crate::sys;

/// Version 1: null, zero, full, random, urandom, tty, console, ptmx, all slaves of terminals; making any.
const ALLOWED: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Writes version 1's list.
pub(super) fn list(directory: &Path) -> Result<()> {
    let doing = || format!("restrict devices of {}", directory.display());
    fs::write(directory.join("devices.deny"), "a").doing(doing)?;
    ALLOWED.iter().try_for_each(|rule| fs::write(directory.join("devices.allow"), rule).doing(doing))
}

/// Version 2: a program that is asked about each access.
pub(super) fn load() -> io::Result<OwnedFd> {
    sys::load_device_program(&program())
}

/// Has the program asked for what is in a group.
pub(super) fn attach(program: &OwnedFd, directory: &Path) -> Result<()> {
    let doing = || format!("restrict devices of {}", directory.display());
    let group = File::open(directory).doing(doing)?;
    sys::attach_device_program(program, &group).doing(doing)
}

const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_DIFFERENT: u8 = 0x55;
const SET: u8 = 0xb7;
const EXIT: u8 = 0x95;

const MKNOD: i32 = 1;
const CHARACTER: i32 = 2;

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    u64::from(code) | u64::from(from << 4 | to) << 8 | u64::from(offset as u16) << 16 | u64::from(value as u32) << 32
}

/// Register 1 points to: access in the upper and kind in the lower half of a word, major number, minor number.
fn program() -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
        instruction(COPY, 3, 2, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(AND, 2, 0, 0, 0xffff),
    ];
    let mut tests =
        vec![(JUMP_EQUAL, 3, MKNOD, true), (JUMP_DIFFERENT, 2, CHARACTER, false), (JUMP_EQUAL, 4, 136, true)];
    for (major, minors) in [(1, [3, 5, 7, 8, 9].as_slice()), (5, [0, 1, 2].as_slice())] {
        // Past the minors of this major, which follow.
        tests.push((JUMP_DIFFERENT, 4, major, false));
        tests.extend(minors.iter().map(|minor| (JUMP_EQUAL, 5, *minor, true)));
    }
    let count = tests.len();
    for (position, (jump, register, value, allows)) in tests.into_iter().enumerate() {
        let to_deny = (count - position - 1) as i16;
        let offset = match (allows, register, value) {
            (true, ..) => to_deny + 2,
            (false, 4, 1) => 5,
            (false, ..) => to_deny,
        };
        code.push(instruction(jump, register, 0, offset, value));
    }
    code.extend([SET, EXIT].map(|code| instruction(code, 0, 0, 0, 0)));
    code.extend([instruction(SET, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_program_lets_harmless_devices_through_and_no_others() {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let Some(root) = root
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists())
            .filter(|_| rustix::process::geteuid().is_root())
        else {
            eprintln!("SKIPPED: needs root and a version 2 tree");
            return;
        };
        let group = root.join(format!("podling-test-devices-{}", std::process::id()));
        fs::create_dir(&group).expect("mkdir");
        let result = load().map(|program| attach(&program, &group));
        let script = format!(
            "echo $$ > {0}/cgroup.procs && echo x > /dev/null && head -c1 /dev/zero > /dev/null && head -c1 /dev/urandom > /dev/null \
             && mknod /tmp/podling-test-node-$$ b 254 0 && rm /tmp/podling-test-node-$$ && ! head -c1 /dev/kmsg 2> /dev/null",
            group.display()
        );
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh runs");
        fs::remove_dir(&group).expect("rmdir");
        result.expect("load").expect("attach");
        assert!(status.success(), "{status}");
    }
}

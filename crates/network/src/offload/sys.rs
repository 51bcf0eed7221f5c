//! The kernel's call for its virtual machine, bpf(2), made safe: each function says which numbers and buffers it hands over.
#![expect(unsafe_code, reason = "no library that the project uses makes this call")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const MAP_CREATE: i32 = 0;
const MAP_LOOK_UP: i32 = 1;
const MAP_NEXT_KEY: i32 = 4;
const PROGRAM_LOAD: i32 = 5;

/// Forgets what was not used for longest when it is full.
const LRU_HASH: u32 = 9;
/// For packets on links.
const SCHED_CLS: u32 = 3;
/// The verifier's words, if it refuses.
const LOG_BYTES: usize = 1 << 20;

/// `union bpf_attr`: zero where nothing is said.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn address<T: ?Sized>(mut self, at: usize, of: *const T) -> Self {
        self.0[at..at + 8].copy_from_slice(&(of.cast::<u8>() as u64).to_ne_bytes());
        self
    }
}

/// # Safety
/// Each address in `attributes` must be that of a buffer as large as the command takes it to be, and writable where it writes.
unsafe fn call(command: i32, attributes: &mut Attributes) -> io::Result<i32> {
    let address: *mut Attributes = attributes;
    // SAFETY: the attributes are as long as is said; what they point to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, address, size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// # Safety
/// As for [`call`]; the command must answer with a new descriptor.
unsafe fn open(command: i32, attributes: &mut Attributes) -> io::Result<OwnedFd> {
    // SAFETY: as promised by the caller; what is returned belongs to nobody else yet.
    unsafe { call(command, attributes).map(|number| OwnedFd::from_raw_fd(number)) }
}

/// A table of so many entries that forgets the oldest.
pub(super) fn table(key_bytes: u32, value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    let sizes = Attributes::new().u32(0, LRU_HASH).u32(4, key_bytes).u32(8, value_bytes).u32(12, entries);
    let mut attributes = sizes;
    // SAFETY: nothing in it is an address.
    unsafe { open(MAP_CREATE, &mut attributes) }
}

/// Has the kernel check and compile a program. Where it refuses, the error has the verifier's last words.
pub(super) fn program(code: &[u8], license: &CStr) -> io::Result<OwnedFd> {
    let count = (code.len() / 8) as u32;
    let described = Attributes::new().u32(0, SCHED_CLS).u32(4, count);
    let described = described.address(8, code.as_ptr()).address(16, license.as_ptr());
    let mut attributes = described;
    // SAFETY: the code has `count` instructions of eight bytes, and the license ends with a zero.
    match unsafe { open(PROGRAM_LOAD, &mut attributes) } {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
            Err(explain(error, described))
        }
        other => other,
    }
}

/// Once more, with a log: that costs time, so it is asked for only after a refusal.
fn explain(error: io::Error, described: Attributes) -> io::Error {
    let mut log = vec![0u8; LOG_BYTES];
    let mut attributes = described.u32(24, 1).u32(28, LOG_BYTES as u32).address(32, log.as_mut_ptr());
    // SAFETY: as before, and the log is writable and as long as is said.
    let _ = unsafe { open(PROGRAM_LOAD, &mut attributes) };
    let length = log.iter().position(|byte| *byte == 0).unwrap_or(LOG_BYTES);
    let text = String::from_utf8_lossy(&log[..length]);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(4)..].join("; ");
    io::Error::new(error.kind(), format!("{error}: {last}"))
}

/// All values of a table, while it changes: one may be missing or be there twice.
pub(super) fn values(table: &OwnedFd, key_bytes: usize) -> io::Result<Vec<u64>> {
    let number = table.as_raw_fd() as u32;
    let (mut key, mut next, mut all) = (None::<Vec<u8>>, vec![0u8; key_bytes], Vec::new());
    loop {
        let attributes = Attributes::new().u32(0, number).address(16, next.as_mut_ptr());
        let mut attributes = match &key {
            Some(key) => attributes.address(8, key.as_ptr()),
            None => attributes,
        };
        // SAFETY: both keys have the table's length, and the next one is writable.
        match unsafe { call(MAP_NEXT_KEY, &mut attributes) } {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(error) => return Err(error),
        }
        let mut value = 0u64;
        let place: *mut u64 = &raw mut value;
        let mut attributes = Attributes::new().u32(0, number).address(8, next.as_ptr()).address(16, place);
        // SAFETY: the key has the table's length, and values have eight bytes.
        if unsafe { call(MAP_LOOK_UP, &mut attributes) }.is_ok() {
            all.push(value);
        }
        key = Some(std::mem::replace(&mut next, vec![0u8; key_bytes]));
    }
}

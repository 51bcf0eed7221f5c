//! Files that are said to be backups, and values in etcd that are said to be objects: no input may panic, and what is believed is whole.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use store::Backup;

const CHECKED: usize = 4;

fuzz_target!(|bytes: &[u8]| {
    if let Some(place) = api::object::stamp(bytes) {
        assert_eq!(&bytes[place - 1..=place], b"\"\"");
    }
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let file = scratch.path().join("backup");
    // With a checksum that is right, so that what is behind it is reached.
    let whole = [&b"podsnap\x01"[..], bytes].concat();
    let sum = crc32fast::hash(&whole).to_le_bytes();
    fs::write(&file, [&whole[..], &sum[..CHECKED]].concat()).expect("a file");
    let Ok(backup) = Backup::read(&file) else { return };
    for entry in &backup.entries {
        // A place that is not in the value must have been refused.
        drop(entry.unstamped());
    }
});

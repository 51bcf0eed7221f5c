//! A damaged log: it is refused, or it opens with a state that the store once had; nothing is made up.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use store::{Config, Disk, Store, Txn, Value};

const WRITES: u64 = 8;
/// Where the log ends, with some room: what lies behind is zeros.
const END: usize = 1024;

/// Each four bytes damage one: where (two), how (one, not zero), and whether the file ends there.
fuzz_target!(|bytes: &[u8]| {
    let (name, log) = sound();
    let mut damaged = log.clone();
    for edit in bytes.chunks_exact(4) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % END.min(damaged.len().max(1));
        if let Some(byte) = damaged.get_mut(at) {
            *byte ^= edit[2];
        }
        if edit[3] == 0xff {
            damaged.truncate(at);
        }
    }
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    fs::write(scratch.path().join(name), &damaged).expect("a file");
    let Ok(disk) = Disk::open(config(scratch.path())) else { return };
    let listing = wait(disk.list(store::Range::prefix("/"))).expect("what is in memory can be listed");
    let numbers: Vec<String> = listing.entries.iter().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).collect();
    let count = u64::try_from(numbers.len()).expect("few");
    assert!(count <= WRITES);
    let sound: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(numbers, sound, "not a state that the store had");
});

/// The one segment of a store with a few writes: its name and bytes.
fn sound() -> &'static (PathBuf, Vec<u8>) {
    static SOUND: OnceLock<(PathBuf, Vec<u8>)> = OnceLock::new();
    SOUND.get_or_init(|| {
        let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let disk = Disk::open(config(scratch.path())).expect("a new store");
        for number in 0..WRITES {
            let write = Txn::create(format!("/{number}").into(), Value::plain(number.to_string()));
            wait(disk.commit(write)).expect("it is written");
        }
        drop(disk);
        let files = fs::read_dir(scratch.path()).expect("it is there").map(|entry| entry.expect("an entry").path());
        let segment = files.filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 0)).min().expect("a segment");
        (segment.file_name().expect("a name").into(), fs::read(&segment).expect("a segment"))
    })
}

fn config(dir: &Path) -> Config {
    Config { segment_bytes: 4096, ..Config::new(dir) }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}

//! Layers of images: whatever paths, links and whiteouts they name, in whatever order, nothing outside of the layer's directory changes.
#![no_main]

use std::path::Path;

use runtime::image::{Overrides, Reference, Registries, Store};
use tar::{EntryType, Header};

const NAMES: [&str; 8] = ["a", "b", "..", ".", "", "/", ".wh.a", ".wh..wh..opq"];
const KINDS: [EntryType; 6] =
    [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char];
/// What a hostile layer would like to change: it lies beside the store.
const VICTIM: &str = "victim";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let victim = scratch.path().join(VICTIM);
    std::fs::create_dir(&victim).expect("a directory");
    std::fs::write(victim.join("a"), "untouched").expect("a file");
    let store = Store::open(&scratch.path().join("images"), Registries::default()).expect("a new store");
    let name = Reference::parse("layer").expect("a name");
    drop(store.import(&name, layer(bytes, &victim).as_slice(), &Overrides::default()));
    assert_eq!(std::fs::read(victim.join("a")).expect("it is still there"), b"untouched");
    assert_eq!(std::fs::read_dir(&victim).expect("it is there").count(), 1);
    assert_eq!(std::fs::read_dir(scratch.path()).expect("it is there").count(), 2);
});

/// A tar with an entry for each three bytes: its kind, its path and what it points to.
fn layer(bytes: &[u8], victim: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in bytes.chunks_exact(3).take(32) {
        let mut header = Header::new_gnu();
        header.set_entry_type(KINDS[usize::from(entry[0]) % KINDS.len()]);
        header.set_mode(u32::from(entry[0]) << 4 | 0o600);
        // The raw field, since the library refuses what a hostile writer would not.
        put(&mut header.as_old_mut().name, &path(entry[1], victim));
        put(&mut header.as_old_mut().linkname, &path(entry[2], victim));
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, std::io::empty()).expect("a tar in memory");
    }
    tar.into_inner().expect("a tar in memory")
}

fn path(byte: u8, victim: &Path) -> String {
    if byte >= 0xf8 {
        return victim.join(NAMES[usize::from(byte) % NAMES.len()]).to_string_lossy().into_owned();
    }
    let part = |shift: u8| NAMES[usize::from(byte >> shift & 7)];
    match byte >> 6 {
        0 => part(0).to_owned(),
        1 => format!("{}/{}", part(0), part(3)),
        2 => format!("{}/{}/a", part(0), part(3)),
        _ => format!("{}/{}/../../{VICTIM}/a", part(0), part(3)),
    }
}

fn put(field: &mut [u8], text: &str) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}

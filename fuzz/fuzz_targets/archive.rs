//! Archives of images: no input may panic, leave half an image, or write anywhere but into the store.
#![no_main]

use runtime::image::{Registries, Store};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let root = scratch.path().join("images");
    let store = Store::open(&root, Registries::default()).expect("a new store");
    let loaded = store.load_archive(bytes);
    let listed = store.list().expect("a store that can be read");
    assert!(loaded.is_ok() || listed.is_empty());
    drop(store);
    Store::open(&root, Registries::default()).expect("a store that opens again");
    assert_eq!(std::fs::read_dir(scratch.path()).expect("it is there").count(), 1);
});

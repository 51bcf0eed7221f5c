//! Lines of container logs, which containers may write to: no input may panic, and no text comes from outside of its line.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    for line in file.split(|byte| *byte == b'\n') {
        if let Some(parsed) = node::logs::parse(line) {
            assert!(parsed.text().count() <= line.len() + 1);
        }
    }
});

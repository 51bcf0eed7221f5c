//! SPDY frames: no input may panic, or unpack without end.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::upgrade::fuzz_spdy(bytes));

//! Quantities: no input may panic, and the canonical form is its own.
#![no_main]

use api::quantity::canonical;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(once) = canonical(text) {
        assert_eq!(canonical(&once).expect("its own text"), once);
    }
});

//! YAML documents: no input may panic or nest without end, and what was decoded is the same after it was written and read again.
#![no_main]

use api::codec::yaml::{decode, encode};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for value in decode(text).unwrap_or_default() {
        // Only objects are ever written.
        let value = serde_json::json!({"in": {"an": [value]}});
        let written = encode(&value);
        let again = decode(&written).unwrap_or_else(|error| panic!("{error}:\n{written}"));
        assert_eq!(again, [value], "{written}");
    }
});

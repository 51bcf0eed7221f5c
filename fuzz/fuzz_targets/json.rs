//! JSON bodies: no input may panic, and what was decoded decodes to itself.
#![no_main]

use api::codec::json::{Policy, decode, normalize};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for kind in api::kind::ALL {
        if let Ok(decoded) = decode(kind, body, Policy::Warn) {
            let again = normalize(kind, &decoded.value, Policy::Strict).expect("its own output is strictly good");
            assert_eq!(again.value, decoded.value);
        }
    }
});

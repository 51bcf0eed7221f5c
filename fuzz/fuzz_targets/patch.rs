//! Patches: no patch of any object may panic, and what a merge patch says is so afterwards.
#![no_main]

use api::patch::{Form, apply};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut halves = bytes.splitn(2, |byte| *byte == 0xff);
    let (Some(current), Some(patch)) = (halves.next(), halves.next()) else { return };
    let Ok(current) = serde_json::from_slice::<serde_json::Value>(current) else { return };
    for kind in api::kind::ALL {
        for form in [Form::Json, Form::Merge, Form::Strategic] {
            let Ok(once) = apply(form, kind, &current, patch) else { continue };
            if matches!(form, Form::Merge) {
                assert_eq!(apply(form, kind, &once, patch).expect("it applied before"), once);
            }
        }
    }
});

//! Selectors: no input may panic, and what is shown of one reads as the same.
#![no_main]

use api::selector::{FieldSelector, LabelSelector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        assert_eq!(LabelSelector::parse(&selector.to_string()).expect("its own text").to_string(), selector.to_string());
    }
    drop(FieldSelector::parse(text));
});

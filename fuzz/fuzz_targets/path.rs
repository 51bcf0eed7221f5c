//! Paths and queries: no input may panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    drop(api::path::RequestPath::parse(text));
    drop(api::query::Query::parse(text));
});

//! Names of images: no input may panic, and a name that was understood means the same when it is written out.
#![no_main]

use runtime::image::Reference;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let again = Reference::parse(&reference.to_string()).expect("its own form is a name");
        assert_eq!(again.to_string(), reference.to_string());
        assert!(!reference.registry().is_empty() && !reference.repository().contains(".."));
    }
});

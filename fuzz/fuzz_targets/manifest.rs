//! What registries and archives say of images: no input may panic.
#![no_main]

use runtime::image::manifest::{ConfigDocument, Document};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Document::parse(bytes) {
        drop(manifest.for_this_machine());
    }
    if let Ok(config) = ConfigDocument::parse(bytes) {
        drop((config.diff_ids().len(), config.config()));
    }
});

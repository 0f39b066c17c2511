//! Any bytes as a GGUF file.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let file = folder.path().join("fuzz.gguf");
    if std::fs::write(&file, bytes).is_ok() {
        common::read(&file);
    }
});

//! Any bytes as a folder: `config.json` up to the first zero byte, `model.safetensors` after it.
#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let weights = bytes.get(end + 1..).unwrap_or_default();
    let config = std::fs::write(folder.path().join("config.json"), &bytes[..end]);
    let weights = std::fs::write(folder.path().join("model.safetensors"), weights);
    if config.and(weights).is_ok() {
        common::read(folder.path());
    }
});

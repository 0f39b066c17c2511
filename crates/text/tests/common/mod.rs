//! What the tests share: where the fixtures are, and how to read them.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::Value;
use text::Tokenizer;

pub const NAMES: [&str; 4] = ["qwen", "llama2", "mistral", "llama3"];

pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

pub fn folder(name: &str) -> PathBuf {
    fixtures().join("tokenizers").join(name)
}

pub fn json(path: PathBuf) -> Value {
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

pub fn load(name: &str) -> Tokenizer {
    Tokenizer::from_folder(folder(name)).unwrap()
}

/// The four tokenisers, loaded once.
pub static ALL: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| NAMES.map(load).into());

pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

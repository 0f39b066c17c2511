//! A small tokeniser, shards made of given documents, and recipes for them.

use data::encode::Encoder;
use data::shards::{SetWriter, TokenizerId};
use data::{Mixture, MixtureError};
use spec::recipe::DataRecipe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use text::Tokenizer;

pub const SEED: u64 = 7;

/// A text about nothing, different for each number.
pub fn text(number: u64, words: u64) -> String {
    let word = |i| match spec::random::hash(number, 0, i, 0) % 7 {
        0 => "fn main() {\n    let x = 12;\n}\n".into(),
        1 => "naïve 日本 ".into(),
        k => format!("word{} ", (number * 31 + i * k) % 50),
    };
    (0..words).map(word).collect()
}

/// A tokeniser of 330 ids.
pub static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(text::train((0..300).map(|i| text(i, 40)), 330).unwrap()));

/// A tokeniser with other ids.
pub static OTHER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(text::train((0..300).map(|i| text(i, 40)), 320).unwrap()));

/// Writes shards of plain texts; every fifth is held out if wanted.
pub fn write_set(folder: &Path, texts: &[String], shard_tokens: u64, hold_out: bool) {
    let encoder = Encoder::new(&TOKENIZER).unwrap();
    let id = TokenizerId::of(&TOKENIZER).unwrap();
    let mut writer = SetWriter::new(folder, "test", id, encoder.end_of_text(), shard_tokens).unwrap();
    for (i, text) in texts.iter().enumerate() {
        writer.push(&encoder.text(text).unwrap(), hold_out && i % 5 == 4).unwrap();
    }
    writer.finish().unwrap();
}

/// A folder with two sources, `a` and `b`.
pub struct Sources {
    pub folder: tempfile::TempDir,
    pub texts: [Vec<String>; 2],
}

impl Sources {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let texts = [(60, 1), (40, 1000)]
            .map(|(count, first)| (first..first + count).map(|i| text(i, 1 + i * i % 97)).collect::<Vec<_>>());
        write_set(&folder.path().join("a"), &texts[0], 900, false);
        write_set(&folder.path().join("b"), &texts[1], 1 << 20, true);
        Self { folder, texts }
    }

    pub fn open(&self, recipe: serde_json::Value) -> Result<Mixture, MixtureError> {
        let recipe: DataRecipe = serde_json::from_value(recipe).unwrap();
        Mixture::open(&recipe, self.folder.path(), &TOKENIZER, SEED)
    }
}

/// The files of a folder and those in it.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

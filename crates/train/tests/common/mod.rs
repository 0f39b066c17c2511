//! A run of seconds: a tiny model, two tiny sources.
#![allow(dead_code)]

use data::shards::{Document, SetWriter, TokenizerId};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use text::Tokenizer;

/// A recipe with its data, in a folder of its own.
pub struct Project {
    folder: tempfile::TempDir,
}

pub const RECIPE: &str = r#"
[model]
tokenizer = "tokenizer"
hidden_size = 32
layers = 2
heads = 2
ffn_size = 32
experts = 4
top_k = 2

[data]
context = 32
sources = [
    { name = "up", path = "up", weight = 2 },
    { name = "down", path = "down", weight = 1 },
]

[train]
seed = 3
tokens = 7_680
batch = [[0, 128], [1_280, 256]]
micro_batch = 2
lr = 1e-2
warmup_tokens = 1_280
checkpoint_every = 4
eval_every = 10
eval_samples = 2
z = 1e-3

[hardware]
threads = 1
peak_gflops = 100
"#;

impl Project {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = folder.path().join("tokenizer");
        fs::create_dir(&tokenizer).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture("models/qwen3_moe_bpe").join(file), tokenizer.join(file)).unwrap();
        }
        write_source(&tokenizer, &folder.path().join("up"), "up", 1);
        write_source(&tokenizer, &folder.path().join("down"), "down", 599);
        fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// Documents that count in steps of `step`, modulo 600.
pub fn write_source(tokenizer: &Path, folder: &Path, name: &str, step: u32) {
    let tokenizer = Tokenizer::from_folder(tokenizer).unwrap();
    let id = TokenizerId::of(&tokenizer).unwrap();
    let mut writer = SetWriter::new(folder, name, id, 620, 4096).unwrap();
    for i in 0..300u32 {
        let len = 10 + i * 7 % 50;
        let tokens: Vec<u32> = (0..len).map(|k| (i * 13 + k * step) % 600).collect();
        let document = Document { text_bytes: u64::from(len), tokens, mask: None };
        writer.push(&document, i % 20 == 0).unwrap();
    }
    writer.finish().unwrap();
}

/// Every file of a finished run that must not depend on what happened on the way: names and contents.
pub fn outcome(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in ["log.jsonl", "ledger.json", "recipe.toml"] {
        files.insert(name.to_owned(), fs::read(run.join(name)).unwrap());
    }
    let newest = checkpoints(run).into_iter().max().unwrap();
    collect(&run.join(format!("checkpoints/step-{newest}")), "checkpoint", &mut files);
    collect(&run.join("model"), "model", &mut files);
    files
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}/{}", path.file_name().unwrap().to_str().unwrap());
        match path.is_dir() {
            true => collect(&path, &name, files),
            false => drop(files.insert(name, fs::read(path).unwrap())),
        }
    }
}

#[track_caller]
pub fn assert_same(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>) {
    assert!(ours.keys().eq(theirs.keys()), "{:?} {:?}", ours.keys(), theirs.keys());
    for (name, bytes) in ours {
        assert!(bytes == &theirs[name], "{name} differs");
    }
}

/// The steps that a run has checkpoints of.
pub fn checkpoints(run: &Path) -> Vec<u64> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// The lines of a run's log.
pub fn log(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

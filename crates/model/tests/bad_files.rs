//! Damaged, lying and foreign files: an error that names the place, never a panic.

mod common;

use common::{fixture_model, fixtures, read_all, tiny};
use model::files::{Checkpoint, GgufWeights, Vocabulary, write_gguf};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

/// The message of opening and reading a folder, which must fail and contain each of `parts`.
#[track_caller]
fn refused(path: &Path, parts: &[&str]) {
    let message = read_all(path).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

/// A tiny folder after `change`.
fn changed(change: impl FnOnce(&mut Value, &mut tiny::Tensors)) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let (mut config, mut tensors) = (tiny::config(), tiny::tensors());
    change(&mut config, &mut tensors);
    tiny::write(&path, &config, &tensors);
    (folder, path)
}

fn tiny_folder() -> (TempDir, PathBuf) {
    changed(|_, _| ())
}

/// The bytes of the tiny model as a GGUF file, made once.
static TINY_GGUF: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let (folder, path) = tiny_folder();
    let file = folder.path().join("tiny.gguf");
    let vocabulary = Vocabulary {
        model: "llama".into(),
        tokens: (0..6).map(|i| format!("t{i}")).collect(),
        scores: vec![0.5; 6],
        merges: vec!["t 0".into()],
        bos: Some(1),
        ..Vocabulary::default()
    };
    let source = Checkpoint::open(&path).unwrap();
    write_gguf(&source, &vocabulary, GgufWeights::F16, &file, &mut |_, _| {}).unwrap();
    std::fs::read(&file).unwrap()
});

fn tiny_gguf() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    std::fs::write(&file, &*TINY_GGUF).unwrap();
    (folder, file)
}

#[test]
fn the_tiny_models_are_whole() {
    read_all(&tiny_folder().1).unwrap();
    read_all(&tiny_gguf().1).unwrap();
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() {
    let name = "model.layers.0.self_attn.k_proj.weight";
    let (_keep, path) = changed(|_, t| drop(t.remove(name)));
    refused(&path, &["missing", name]);
    let (_keep, path) = changed(|_, t| drop(t.insert("model.surprise".into(), (vec![1], vec![0.0]))));
    refused(&path, &["model.surprise", "belongs to nothing"]);
    let (_keep, path) = changed(|_, t| t.get_mut(name).unwrap().0 = vec![4, 2]);
    refused(&path, &[name, "[4, 2]", "[2, 4]"]);
    let (_keep, path) = changed(|c, _| c["vocab_size"] = json!(7));
    refused(&path, &["model.embed_tokens.weight", "[6, 4]", "[7, 4]"]);
    let (_keep, path) = changed(|c, _| c["hidden_size"] = json!(1 << 18));
    refused(&path, &["is the download complete?"]);
}

#[test]
fn harmless_extras_pass() {
    let frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq";
    let (_keep, path) = changed(|_, t| drop(t.insert(frequencies.into(), (vec![1], vec![1.0]))));
    read_all(&path).unwrap();
    let (_keep, path) = changed(|c, _| c["tie_word_embeddings"] = json!(true));
    read_all(&path).unwrap();
    let (_keep, path) = changed(|c, t| {
        c["tie_word_embeddings"] = json!(true);
        t.remove("lm_head.weight");
    });
    read_all(&path).unwrap();
}

#[test]
fn values_that_are_no_numbers_are_found() {
    for (name, value) in [("model.norm.weight", f32::NAN), ("lm_head.weight", f32::INFINITY)] {
        let (_keep, path) = changed(|_, t| t.get_mut(name).unwrap().1[3] = value);
        refused(&path, &[name, if value.is_nan() { "NaN" } else { "inf" }]);
    }
}

#[test]
fn foreign_models_are_named() {
    let (_keep, path) = changed(|c, _| {
        c["architectures"] = json!(["GPT2LMHeadModel"]);
    });
    refused(&path, &["GPT2LMHeadModel", "MixtralForCausalLM"]);
    let gguf = fixtures().join("gguf/types.gguf");
    refused(&gguf, &["general.architecture", "\"test\"", "llama, qwen3, qwen3moe, gpt-oss"]);
    refused(Path::new("/nowhere/at/all"), &["nothing of this name"]);
    refused(&fixtures(), &["no config.json"]);
    refused(&fixtures().join("gguf"), &["did you mean"]);
    refused(&fixtures().join("README.md"), &["neither"]);
    let (_keep, path) = tiny_folder();
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    refused(&path, &["neither model.safetensors nor"]);
}

#[test]
fn unsupported_types_are_named() {
    let (_keep, path) = tiny_folder();
    let file = path.join("model.safetensors");
    let text = std::fs::read(&file).unwrap();
    let at = text.windows(5).position(|w| w == b"\"F32\"").unwrap();
    let mut bytes = text.clone();
    bytes[at..at + 5].copy_from_slice(b"\"I32\"");
    std::fs::write(&file, bytes).unwrap();
    refused(&path, &["I32", "F32, F16"]);
}

#[test]
fn an_index_may_not_point_elsewhere() {
    for target in ["../model.safetensors", "/etc/passwd", "model.bin"] {
        let (_keep, path) = tiny_folder();
        std::fs::remove_file(path.join("model.safetensors")).unwrap();
        let index = json!({ "weight_map": { "lm_head.weight": target } });
        std::fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
        refused(&path, &["lm_head.weight", target]);
    }
    let (_keep, path) = tiny_folder();
    std::fs::rename(path.join("model.safetensors"), path.join("a.safetensors")).unwrap();
    let index = json!({ "weight_map": { "lm_head.weight": "a.safetensors", "ghost": "a.safetensors" } });
    std::fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    refused(&path, &["ghost", "missing"]);
    let index = json!({ "weight_map": { "lm_head.weight": "b.safetensors" } });
    std::fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    refused(&path, &["b.safetensors", "open"]);
}

#[test]
fn every_truncation_of_a_safetensors_file_is_an_error() {
    let (_keep, path) = tiny_folder();
    let file = path.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for length in 0..bytes.len() {
        std::fs::write(&file, &bytes[..length]).unwrap();
        refused(&path, &[]);
    }
}

#[test]
fn every_truncation_of_a_gguf_file_is_an_error() {
    let (_keep, file) = tiny_gguf();
    let bytes = std::fs::read(&file).unwrap();
    // The last tensor (the head, 6 x 4 halves) is followed by padding, without which the file is still whole.
    let padding = 16;
    for length in 0..bytes.len() - padding {
        std::fs::write(&file, &bytes[..length]).unwrap();
        refused(&file, &["tiny.gguf"]);
    }
    std::fs::write(&file, &bytes[..bytes.len() - padding]).unwrap();
    read_all(&file).unwrap();
}

#[test]
fn lying_headers_allocate_nothing() {
    let (_keep, path) = tiny_folder();
    let file = path.join("model.safetensors");
    let good = std::fs::read(&file).unwrap();
    for claim in [u64::MAX, 1 << 40, good.len() as u64, 100_000_001] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&claim.to_le_bytes());
        std::fs::write(&file, bytes).unwrap();
        refused(&path, &["claims", &claim.to_string()]);
    }
    let huge = usize::MAX / 4;
    let offsets = [0, u64::MAX - 3];
    for header in [
        json!({ "a": { "dtype": "U8", "shape": [u64::MAX - 3], "data_offsets": offsets } }),
        json!({ "a": { "dtype": "F32", "shape": [huge, huge], "data_offsets": [0, 16] } }),
        json!({ "a": { "dtype": "F32", "shape": [2], "data_offsets": [8, 0] } }),
        json!({ "a": { "dtype": "F32", "shape": [-1], "data_offsets": [0, 4] } }),
        json!([]),
    ] {
        let text = header.to_string();
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend([0; 16]);
        std::fs::write(&file, bytes).unwrap();
        refused(&path, &["model.safetensors"]);
    }
}

/// A GGUF file of a few pieces.
fn gguf(tensors: u64, values: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(values.to_le_bytes());
    rest.iter().for_each(|piece| bytes.extend(*piece));
    bytes
}

#[test]
fn lying_gguf_headers_allocate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("liar.gguf");
    let most = &u64::MAX.to_le_bytes()[..];
    let one = &1u64.to_le_bytes()[..];
    let u32s = |n: u32| n.to_le_bytes();
    let tensor = |dimensions: u32, sizes: &[u64], kind: u32, offset: u64| {
        let mut bytes = [one, b"t", &u32s(dimensions)].concat();
        sizes.iter().for_each(|s| bytes.extend(s.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (gguf(u64::MAX, 0, &[]), "tensors"),
        (gguf(0, u64::MAX, &[]), "metadata values"),
        (gguf(0, 1, &[most, &[0; 64]]), "bytes of text"),
        (gguf(0, 1, &[one, b"k", &u32s(8), most, &[0; 8]]), "bytes of text"),
        (gguf(0, 1, &[one, b"k", &u32s(9), &u32s(0), most]), "array elements"),
        (gguf(0, 1, &[one, b"k", &u32s(9), &u32s(9), one, &[0; 8]]), "array of arrays"),
        (gguf(0, 1, &[one, b"k", &u32s(99), &[0; 8]]), "unknown value type 99"),
        (gguf(1, 0, &[&tensor(2, &[u64::MAX, 4], 0, 0)]), "\"t\""),
        (gguf(1, 0, &[&tensor(2, &[1 << 40, 1 << 40], 0, 0)]), "\"t\""),
        (gguf(1, 0, &[&tensor(1, &[4], 0, u64::MAX)]), "\"t\" starts past its end"),
        (gguf(1, 0, &[&tensor(1, &[33], 8, 0), &[0; 99]]), "\"t\""),
        (gguf(1, 0, &[&tensor(9, &[], 0, 0), &[0; 99]]), "9 dimensions"),
        (b"GGUF\0\0\0\x03aaaaaaaaaaaaaaaa".to_vec(), "big endian"),
        (b"GGUF\x01\0\0\0aaaaaaaaaaaaaaaa".to_vec(), "version 1"),
        (b"PK\x03\x04".to_vec(), "does not start with"),
        (Vec::new(), "liar.gguf"),
    ];
    for (bytes, part) in cases {
        std::fs::write(&file, bytes).unwrap();
        refused(&file, &[part]);
    }
}

#[test]
fn unknown_gguf_keys_of_the_architecture_are_refused() {
    let (_keep, file) = tiny_gguf();
    let mut bytes = std::fs::read(&file).unwrap();
    let key = b"llama.vocab_size";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap();
    bytes[at..at + key.len()].copy_from_slice(b"llama.softcap_xy");
    std::fs::write(&file, bytes).unwrap();
    refused(&file, &["llama.softcap_xy"]);
}

/// Flips bits and overwrites bytes; whatever comes out, reading ends in a value or an error.
fn damage(bytes: &mut [u8], changes: &[(usize, u8, bool)]) {
    for &(at, byte, flip) in changes {
        let at = at % bytes.len();
        bytes[at] = if flip { bytes[at] ^ (1 << (byte % 8)) } else { byte };
    }
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8, bool)>> {
    prop::collection::vec((0..4000usize, any::<u8>(), any::<bool>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_safetensors_never_panic(changes in changes()) {
        let (_keep, path) = tiny_folder();
        let file = path.join("model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes, &changes);
        std::fs::write(&file, bytes).unwrap();
        let _ = read_all(&path);
    }

    #[test]
    fn damaged_gguf_never_panics(changes in changes()) {
        let (_keep, file) = tiny_gguf();
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes, &changes);
        std::fs::write(&file, bytes).unwrap();
        let _ = read_all(&file);
    }

    #[test]
    fn damaged_configs_never_panic(changes in changes()) {
        let (_keep, path) = tiny_folder();
        let file = path.join("config.json");
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes, &changes);
        std::fs::write(&file, bytes).unwrap();
        let _ = read_all(&path);
    }
}

#[test]
fn a_shard_left_out_is_missed() {
    let source = fixture_model("mixtral_sharded");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    std::fs::remove_file(folder.path().join("model-00003-of-00004.safetensors")).unwrap();
    refused(folder.path(), &["model-00003-of-00004.safetensors"]);
}

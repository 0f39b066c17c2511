//! From files to a decoder: what is refused, by name, and what a format asked for means.

mod common;

use common::tiny::{self, Tensors};
use model::files::{Checkpoint, GgufWeights, Vocabulary, Weights, write_gguf, write_safetensors};
use model::{Batch, Decoder, LoadOptions, Workspace};
use std::path::Path;
use tensor::{Chunk, Device, Format, KvFormat};

fn load(path: &Path, weights: Format) -> Result<Decoder, String> {
    let checkpoint = Checkpoint::open(path).map_err(|e| e.to_string())?;
    let options = LoadOptions { weights: Some(weights), ..LoadOptions::default() };
    Decoder::load(&checkpoint, &mut Device::new(1), &options).map_err(|e| e.to_string())
}

/// Why the tiny model with one other value does not load.
fn refusal(name: &str, value: f32, weights: Format) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors: Tensors = tiny::tensors();
    tensors.get_mut(name).unwrap().1[3] = value;
    tiny::write(folder.path(), &tiny::config(), &tensors);
    load(folder.path(), weights).err().unwrap_or_else(|| panic!("{name} loads"))
}

/// Several tensors are packed as one matrix; the message names the one with the weight.
#[test]
fn a_weight_that_is_no_number_is_named() {
    let layer = "model.layers.0.";
    for name in ["self_attn.k_proj.weight", "self_attn.o_proj.weight", "block_sparse_moe.experts.1.w3.weight"] {
        let name = format!("{layer}{name}");
        let error = refusal(&name, f32::NAN, Format::F32);
        assert!(error.contains(&name) && error.contains("NaN"), "{error}");
    }
}

#[test]
fn a_weight_too_large_for_the_format_is_not_called_nan() {
    let name = "model.layers.0.self_attn.v_proj.weight";
    let error = refusal(name, -1e6, Format::F16);
    assert!(error.contains(name) && error.contains("-1000000") && error.contains("f16"), "{error}");
}

/// Logits of a short text, f32 throughout.
fn logits(path: &Path) -> Vec<f32> {
    let decoder = load(path, Format::F32).unwrap();
    let mut cache = decoder.new_cache(KvFormat::F32, 1);
    let mut workspace = Workspace::new(&decoder, 3, 1);
    let chunk = Chunk { row: 0, len: 3, position: 0, block_table: &[0] };
    let batch = Batch { tokens: &[1, 4, 2], chunks: &[chunk], logit_rows: &[2] };
    decoder.forward(&mut Device::new(1), &mut cache, &mut workspace, &batch).row(0).to_vec()
}

/// No format computes K-quants as they are, so an embedding of them must not keep "its own" when f32 is asked for.
#[test]
fn f32_means_f32_for_an_embedding_of_k_quants() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny::config();
    config["hidden_size"] = 256.into();
    let plain = folder.path().join("plain");
    tiny::write(&plain, &config, &tiny::tensors_of(&config));
    let gguf = folder.path().join("m.gguf");
    let source = Checkpoint::open(&plain).unwrap();
    write_gguf(&source, &Vocabulary::default(), GgufWeights::F16, &gguf, &mut |_, _| {}).unwrap();
    // The embedding's bytes as Q6_K, which needs fewer: its type stands behind name, dimensions and sizes.
    let mut bytes = std::fs::read(&gguf).unwrap();
    let name = b"token_embd.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    assert_eq!(bytes[at..at + 4], 1u32.to_le_bytes());
    bytes[at..at + 4].copy_from_slice(&14u32.to_le_bytes());
    std::fs::write(&gguf, bytes).unwrap();
    let expanded = folder.path().join("expanded");
    let source = Checkpoint::open(&gguf).unwrap();
    write_safetensors(&source, &expanded, Weights::F32, &mut |_, _| {}).unwrap();
    assert_eq!(logits(&gguf), logits(&expanded));
}

//! Checkpoints: opened, compared with what another reader sees, and converted there and back.

mod common;

use common::{assert_same, fixture_model, fixture_models, fixtures, values};
use model::ParameterRows;
use model::files::{
    Checkpoint, FileError, GgufWeights, StoredMatrix, Tokens, Vocabulary, Weights, write_gguf, write_safetensors,
};
use safetensors::SafeTensors;
use spec::{Family, ParameterId, Position, Role, RopeScaling, View, WeightFormat};
use std::path::Path;
use tensor::format::dequantise_row;
use tensor::{Format, MatrixSource};

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn quiet(_: u64, _: u64) {}

/// A tensor's values by the safetensors crate.
fn raw(bytes: &[u8], name: &str) -> Vec<f32> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let view = file.tensor(name).unwrap();
    match view.dtype() {
        safetensors::Dtype::F32 => {
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        safetensors::Dtype::BF16 => {
            view.data().chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn every_fixture_opens_and_reads() {
    for path in fixture_models() {
        common::read_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

#[test]
fn whole_tensors_are_read_as_another_reader_does() {
    for name in ["mixtral", "llama", "qwen3"] {
        let checkpoint = open(&fixture_model(name));
        let bytes = std::fs::read(fixture_model(name).join("model.safetensors")).unwrap();
        for parameter in checkpoint.table.iter() {
            assert_eq!(values(&checkpoint, parameter), raw(&bytes, &parameter.name), "{}", parameter.name);
        }
    }
}

#[test]
fn shards_hold_the_same_model() {
    assert_same(&open(&fixture_model("mixtral")), &open(&fixture_model("mixtral_sharded")));
}

#[test]
fn gpt_oss_experts_are_taken_apart() {
    let checkpoint = open(&fixture_model("gpt_oss"));
    let bytes = std::fs::read(fixture_model("gpt_oss").join("model.safetensors")).unwrap();
    for parameter in checkpoint.table.iter() {
        let View::Stacked { expert, start, step, .. } = parameter.view else {
            continue;
        };
        let stored = raw(&bytes, &parameter.name);
        let own = values(&checkpoint, parameter);
        let outputs = parameter.shape[0] * step;
        let inputs = parameter.shape.get(1).copied().unwrap_or(1);
        for (i, value) in own.iter().enumerate() {
            let (output, input) = (start + step * (i / inputs), i % inputs);
            assert_eq!(*value, stored[(expert * inputs + input) * outputs + output], "{}", parameter.name);
        }
    }
}

#[test]
fn mxfp4_codes_stand_for_the_values() {
    let checkpoint = open(&fixture_model("gpt_oss_mxfp4"));
    let mut matrices = 0;
    for parameter in checkpoint.table.iter().filter(|p| p.is_expert() && p.shape.len() == 2) {
        let matrix = checkpoint.matrix(parameter.id).unwrap();
        assert_eq!(matrix.format(), Format::Mxfp4);
        check_codes(&matrix);
        matrices += 1;
    }
    assert!(matrices > 0);
    let router = checkpoint.matrix(ParameterId::layer(Role::Router, 0)).unwrap();
    assert_eq!(router.format(), Format::Bf16);
}

/// A row's codes, where it has them, stand for the row's values.
fn check_codes(matrix: &StoredMatrix) {
    let format = matrix.format();
    let cols = matrix.cols();
    let (mut codes, mut scales) = (vec![0; cols], vec![0.0; cols.div_ceil(format.group())]);
    let (mut from_codes, mut from_floats) = (vec![0.0; cols], vec![0.0; cols]);
    for row in 0..matrix.rows() {
        assert!(matrix.read_codes(row, &mut codes, &mut scales));
        dequantise_row(format, &codes, &scales, &mut from_codes);
        matrix.read_f32(row, &mut from_floats);
        assert_eq!(from_codes, from_floats, "{} row {row}", matrix.name());
    }
}

#[test]
fn gguf_fixtures_are_the_same_models() {
    for name in ["mixtral_spm", "qwen3_moe_bpe"] {
        let gguf = open(&fixtures().join("gguf").join(format!("{name}.gguf")));
        let folder = open(&fixture_model(name));
        assert_eq!(gguf.decoder(), folder.decoder(), "{name}");
        assert_same(&folder, &gguf);
        let Tokens::Gguf(vocabulary) = &gguf.tokens else {
            panic!("no vocabulary");
        };
        assert_eq!(vocabulary.tokens.len(), gguf.decoder().vocab_size);
        assert!(vocabulary.chat_template.is_some());
        assert_eq!(vocabulary.merges.is_empty(), name == "mixtral_spm");
    }
}

/// Models that GGUF and llama.cpp can hold.
fn held_by_gguf(checkpoint: &Checkpoint) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    match write_gguf(checkpoint, &Vocabulary::default(), GgufWeights::Bf16, &file, &mut quiet) {
        Ok(()) => true,
        Err(FileError::CannotHold { .. }) => {
            assert!(!file.exists());
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn bf16_survives_the_way_to_gguf_and_back() {
    let mut held = Vec::new();
    for path in fixture_models() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !held_by_gguf(&open(&path)) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_safetensors(&open(&path), &at("first"), Weights::Bf16, &mut quiet).unwrap();
        let first = open(&at("first"));
        let file = at("model.gguf");
        write_gguf(&first, &Vocabulary::default(), GgufWeights::Bf16, &file, &mut quiet).unwrap();
        let gguf = open(&file);
        assert_same(&first, &gguf);
        write_safetensors(&gguf, &at("second"), Weights::Bf16, &mut quiet).unwrap();
        assert_same(&first, &open(&at("second")));
        check_frequencies(&first, &gguf);
        held.push(name);
    }
    for name in ["mixtral", "mixtral_mqa", "qwen3_moe", "qwen3", "llama", "gpt_oss", "rope_llama3", "rope_yarn"] {
        let dense_layer = name == "qwen3_moe";
        let low_limit = name == "gpt_oss";
        assert_eq!(held.iter().any(|h| h == name), !dense_layer && !low_limit, "{name}");
    }
}

/// Whatever the spelling, the rotary frequencies are the same to the last bit but one.
fn check_frequencies(a: &Checkpoint, b: &Checkpoint) {
    let resolve = |c: &Checkpoint| match &c.decoder().position {
        Position::Rope(rope) => rope.frequencies(c.decoder().head_dim, c.decoder().max_context),
        Position::Alibi => panic!("ALiBi"),
    };
    let ((a, a_factor), (b, b_factor)) = (resolve(a), resolve(b));
    assert!(a_factor.to_bits().abs_diff(b_factor.to_bits()) <= 1);
    assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits().abs_diff(b.to_bits()) <= 1), "{a:?} {b:?}");
}

#[test]
fn gguf_refuses_what_llama_cpp_would_compute_differently() {
    for name in ["alibi", "mistral", "rope_dynamic", "qwen3_moe_norenorm", "gpt_oss"] {
        assert!(!held_by_gguf(&open(&fixture_model(name))), "{name}");
    }
}

#[test]
fn q8_0_keeps_norms_and_router_and_comes_close() {
    let source = open(&fixture_model("mixtral_mqa"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("q8.gguf");
    write_gguf(&source, &Vocabulary::default(), GgufWeights::Q8_0, &file, &mut quiet).unwrap();
    let back = open(&file);
    for parameter in source.table.iter() {
        let (a, b) = (values(&source, parameter), values(&back, parameter));
        if parameter.shape.len() == 1 || parameter.id.role == Role::Router {
            assert_eq!(a, b);
            continue;
        }
        let matrix = back.matrix(parameter.id).unwrap();
        let whole = matrix.cols().is_multiple_of(32);
        assert_eq!(matrix.format(), if whole { Format::Int8 } else { Format::F16 });
        let largest = a.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= largest / 200.0), "{}", parameter.name);
    }
    // Quantised once: the codes of the file are the codes of the folder made from it.
    let int8 = folder.path().join("int8");
    write_safetensors(&back, &int8, Weights::Quantised(WeightFormat::Int8), &mut quiet).unwrap();
    let again = open(&int8);
    let id = ParameterId::layer(Role::QProj, 0);
    let parameter = source.table.get(id).unwrap();
    if back.matrix(id).unwrap().format() == Format::Int8 {
        assert_eq!(values(&back, parameter), values(&again, parameter));
    }
}

#[test]
fn quantised_folders_read_back() {
    for name in ["llama_odd", "mixtral", "gpt_oss", "gpt_oss_mxfp4", "qwen3"] {
        let source = open(&fixture_model(name));
        for format in WeightFormat::ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("quantised");
            write_safetensors(&source, &path, Weights::Quantised(format), &mut quiet).unwrap();
            let back = open(&path);
            assert_eq!(back.decoder(), source.decoder());
            let tolerance = match format {
                WeightFormat::Int8 => 0.01,
                WeightFormat::Fp8 => 0.07,
                WeightFormat::Int4 | WeightFormat::Mxfp4 => 0.35,
            };
            for parameter in source.table.iter() {
                let (a, b) = (values(&source, parameter), values(&back, parameter));
                if !parameter.id.role.is_quantisable() {
                    assert_eq!(a, b, "{name} {}", parameter.name);
                    continue;
                }
                check_codes(&back.matrix(parameter.id).unwrap());
                let largest = a.iter().fold(0f32, |m, v| m.max(v.abs()));
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= largest * tolerance;
                assert!(a.iter().zip(&b).all(near), "{name} {format:?} {}", parameter.name);
            }
        }
    }
}

#[test]
fn mxfp4_weights_stay_what_they_are() {
    let source = open(&fixture_model("gpt_oss_mxfp4"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours");
    write_safetensors(&source, &path, Weights::Quantised(WeightFormat::Mxfp4), &mut quiet).unwrap();
    let back = open(&path);
    for parameter in source.table.iter().filter(|p| p.is_expert()) {
        assert_eq!(values(&source, parameter), values(&back, parameter), "{}", parameter.name);
    }
}

#[test]
fn f16_refuses_what_it_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    write_safetensors(&open(&fixture_model("llama")), &path, Weights::F32, &mut quiet).unwrap();
    let file = path.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&1e6f32.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let half = folder.path().join("half");
    let error = write_safetensors(&open(&path), &half, Weights::F16, &mut quiet).unwrap_err();
    assert!(error.to_string().contains("1000000"), "{error}");
    assert!(!half.exists());
}

#[test]
fn companions_are_copied_and_the_vocabulary_survives() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture_model("mixtral_spm");
    let copy = folder.path().join("copy");
    write_safetensors(&open(&source), &copy, Weights::F32, &mut quiet).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(source.join(file).exists(), copy.join(file).exists(), "{file}");
    }
    let gguf = open(&fixtures().join("gguf/mixtral_spm.gguf"));
    let Tokens::Gguf(vocabulary) = &gguf.tokens else {
        panic!("no vocabulary");
    };
    let file = folder.path().join("again.gguf");
    write_gguf(&gguf, vocabulary, GgufWeights::F16, &file, &mut quiet).unwrap();
    assert_eq!(open(&file).tokens, gguf.tokens);
    assert_eq!(open(&file).config, gguf.config);
    assert_eq!(gguf.decoder().family, Family::Mixtral);
}

/// Without the word for it, llama.cpp refuses a file that has no tokeniser.
#[test]
fn a_gguf_without_a_vocabulary_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    write_gguf(&open(&fixture_model("mixtral")), &Vocabulary::default(), GgufWeights::F16, &file, &mut quiet).unwrap();
    let Tokens::Gguf(vocabulary) = open(&file).tokens else { panic!("a folder") };
    assert_eq!(*vocabulary, Vocabulary { model: "no_vocab".into(), ..Vocabulary::default() });
}

#[test]
fn llama3_frequencies_travel_as_divisors() {
    let source = open(&fixture_model("rope_llama3"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    write_gguf(&source, &Vocabulary::default(), GgufWeights::F16, &file, &mut quiet).unwrap();
    let back = open(&file);
    let Position::Rope(rope) = &back.decoder().position else {
        panic!("ALiBi");
    };
    assert!(matches!(rope.scaling, RopeScaling::LongRope { .. }));
    check_frequencies(&source, &back);
}

#[test]
fn releasing_pages_changes_nothing() {
    let checkpoint = open(&fixture_model("mixtral"));
    let parameter = checkpoint.table.get(ParameterId::global(Role::Embedding)).unwrap();
    let before = values(&checkpoint, parameter);
    checkpoint.matrix(parameter.id).unwrap().release();
    assert_eq!(values(&checkpoint, parameter), before);
}

/// gpt-oss with the limit that llama.cpp has built in: biases, sinks, windows and interleaved experts make the way
/// there and back, and MXFP4 stays MXFP4.
#[test]
fn gpt_oss_survives_the_way_to_gguf() {
    for name in ["gpt_oss", "gpt_oss_mxfp4"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::fs::create_dir(&path).unwrap();
        let from = fixture_model(name);
        std::fs::copy(from.join("model.safetensors"), path.join("model.safetensors")).unwrap();
        let text = std::fs::read_to_string(from.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["swiglu_limit"] = 7.0.into();
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        let source = open(&path);
        let file = folder.path().join("m.gguf");
        let weights = if name == "gpt_oss" { GgufWeights::Bf16 } else { GgufWeights::Q8_0 };
        write_gguf(&source, &Vocabulary::default(), weights, &file, &mut quiet).unwrap();
        let back = open(&file);
        assert_eq!(back.decoder(), source.decoder());
        let exact = |p: &&spec::Parameter| name == "gpt_oss" || p.is_expert();
        for parameter in source.table.iter().filter(exact) {
            assert_eq!(values(&source, parameter), values(&back, parameter), "{}", parameter.name);
        }
    }
}

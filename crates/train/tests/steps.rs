//! Optimiser steps against PyTorch's: losses, gradient norms and final weights.

use model::training::{MicroBatch, Objective};
use model::{Checkpoint, Decoder, LoadOptions};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tensor::{Device, Format};
use train::{Kind, Optimiser, OptimiserConfig};

const DOCUMENT: usize = 24;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gradients").join(case)
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    tensors.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn follows(case: &str, kind: Kind, prefix: &str) {
    let bytes = std::fs::read(folder(case).join("reference.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = reference.tensor("steps.tokens").unwrap().data();
    let tokens: Vec<u32> = tokens.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
    let rates = floats(&reference, "steps.lr");
    let losses = floats(&reference, &format!("{prefix}steps.loss"));
    let norms = floats(&reference, &format!("{prefix}steps.grad_norm"));

    let checkpoint = Checkpoint::open(&folder(case)).unwrap();
    let mut device = Device::new(2);
    let options = LoadOptions { weights: Some(Format::F32), ..LoadOptions::default() };
    let mut decoder = Decoder::load(&checkpoint, &mut device, &options).unwrap();
    let mut gradients = decoder.zeros_like();
    let mut optimiser = Optimiser::new(&OptimiserConfig { kind, ..OptimiserConfig::default() }, &decoder);
    let step_tokens = tokens.len() / rates.len();
    for (step, (&loss, &norm)) in losses.iter().zip(&norms).enumerate() {
        let rows = tokens[step * step_tokens..][..step_tokens].chunks_exact(DOCUMENT + 1);
        let inputs: Vec<u32> = rows.clone().flat_map(|r| r[..DOCUMENT].to_vec()).collect();
        let targets: Vec<u32> = rows.flat_map(|r| r[1..].to_vec()).collect();
        let documents = vec![DOCUMENT; inputs.len() / DOCUMENT];
        let scale = 1.0 / inputs.len() as f32;
        let batch = MicroBatch { tokens: &inputs, targets: &targets, documents: &documents };
        let objective = Objective { scale, share: 1.0, ..Objective::default() };
        let ours = decoder.loss_and_gradients(&mut device, &batch, &objective, &mut gradients);
        let mean = ours.tokens.iter().sum::<f32>() * scale;
        assert!((mean - loss).abs() < 1e-4, "{case} {kind:?} step {step}: loss {mean}, PyTorch's {loss}");
        let our_norm = Optimiser::gradient_norm(&mut device, &mut gradients);
        assert!(
            (our_norm / f64::from(norm) - 1.0).abs() < 1e-3,
            "{case} {kind:?} step {step}: norm {our_norm}, PyTorch's {norm}"
        );
        optimiser.step(&mut device, &mut decoder, &mut gradients, our_norm, rates[step]);
    }
    for parameter in checkpoint.table.iter() {
        let name = format!("{prefix}final.{}", parameter.name);
        if reference.tensor(&name).is_err() {
            continue;
        }
        let theirs = floats(&reference, &name);
        let ours = decoder.read_parameter(parameter.id).unwrap();
        let largest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(largest < 2e-3, "{case} {kind:?}: {name} is off by {largest}");
    }
}

const CASES: [&str; 4] = ["llama", "llama_tied", "mixtral_mqa", "qwen3_moe"];

#[test]
fn twenty_adamw_steps_follow_pytorch() {
    CASES.iter().for_each(|case| follows(case, Kind::AdamW, ""));
}

#[test]
fn ten_muon_steps_follow_pytorch() {
    CASES.iter().for_each(|case| follows(case, Kind::Muon, "muon."));
}

//! What a text costs is what transformers finds, and the same bits however it is computed.

use engine::perplexity::{Nats, ScoreError, Windows, score};
use model::training::MicroBatch;
use model::{Checkpoint, Decoder, LoadOptions};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tensor::{Device, Format, KvFormat};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    context: usize,
    stride: usize,
    tokens: Vec<u32>,
    nats: Vec<f64>,
}

fn reference() -> Vec<Case> {
    let text = std::fs::read_to_string(fixtures().join("perplexity.json")).unwrap();
    serde_json::from_str::<Reference>(&text).unwrap().cases
}

fn load(name: &str, device: &mut Device, weights: Format) -> Decoder {
    let checkpoint = Checkpoint::open(&fixtures().join("models").join(name)).unwrap();
    let options = LoadOptions { weights: Some(weights), ..LoadOptions::default() };
    Decoder::load(&checkpoint, device, &options).unwrap()
}

fn nats(
    model: (&Decoder, KvFormat),
    device: &mut Device,
    documents: &[Vec<u32>],
    (context, stride): (usize, usize),
    step: Option<usize>,
) -> Vec<Nats> {
    score(model, device, documents, &Windows { context, stride }, step, &|_, _| ()).unwrap()
}

#[test]
fn nats_are_those_of_transformers() {
    let mut device = Device::new(2);
    for case in reference() {
        let decoder = load(&case.model, &mut device, Format::F32);
        let windows = (case.context, case.stride);
        let found = nats((&decoder, KvFormat::F32), &mut device, std::slice::from_ref(&case.tokens), windows, None)[0];
        let expected = case.nats.iter().sum::<f64>();
        assert_eq!(found.tokens, case.nats.len() as u64);
        assert!((found.sum / expected - 1.0).abs() < 1e-4, "{}: {} instead of {expected}", case.model, found.sum);
    }
}

#[test]
fn windows_computed_together_and_apart_cost_the_same_bits() {
    let mut device = Device::new(2);
    let cases = reference();
    let tokens = &cases[0].tokens;
    let documents = [tokens.clone(), tokens[5..7].to_vec(), tokens[30..80].to_vec(), tokens[1..60].to_vec()];
    for (weights, kv) in [(Format::F32, KvFormat::F32), (Format::Int8, KvFormat::Int8), (Format::Bf16, KvFormat::Bf16)]
    {
        let decoder = load(&cases[0].model, &mut device, weights);
        let together = nats((&decoder, kv), &mut device, &documents, (48, 20), None);
        for step in [1, 7, 48, 100, 4096] {
            let apart = nats((&decoder, kv), &mut device, &documents, (48, 20), Some(step));
            assert!(
                apart == together,
                "{step} tokens at once with {} weights: {apart:?}, {together:?}",
                weights.name()
            );
        }
        for (document, expected) in documents.iter().zip(&together) {
            let alone = nats((&decoder, kv), &mut device, std::slice::from_ref(document), (48, 20), None)[0];
            assert!(alone == *expected);
        }
    }
}

#[test]
fn the_trainer_finds_the_same_loss() {
    let mut device = Device::new(2);
    for case in reference() {
        let decoder = load(&case.model, &mut device, Format::F32);
        let tokens = &case.tokens[..60];
        let documents = [59];
        let batch = MicroBatch { tokens: &tokens[..59], targets: &tokens[1..], documents: &documents };
        let losses = decoder.token_losses(&mut device, &batch);
        let expected: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        let found = nats((&decoder, KvFormat::F32), &mut device, &[tokens.to_vec()], (64, 64), None)[0];
        assert!((found.sum / expected - 1.0).abs() < 1e-6, "{}: {} and {expected}", case.model, found.sum);
    }
}

#[test]
fn what_cannot_be_scored_is_named() {
    let mut device = Device::new(1);
    let decoder = load("llama", &mut device, Format::F32);
    let mut refused = |documents: &[Vec<u32>], context, stride| {
        let windows = Windows { context, stride };
        score((&decoder, KvFormat::F32), &mut device, documents, &windows, None, &|_, _| ()).unwrap_err()
    };
    let short = refused(&[vec![1, 2], vec![1]], 8, 4);
    assert_eq!(short, ScoreError::TooShort { document: 1, tokens: 1 });
    assert_eq!(refused(&[vec![1, 2]], 8, 9), ScoreError::Stride { stride: 9, context: 8 });
    assert_eq!(refused(&[vec![1, 2]], 8, 0), ScoreError::Stride { stride: 0, context: 8 });
    assert!(matches!(refused(&[vec![1, 2]], 129, 9), ScoreError::Run(_)));
    assert!(refused(&[vec![1, 200]], 8, 4).to_string().contains("200"));
}

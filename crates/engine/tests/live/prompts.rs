//! What is wanted of prompts, against one forward pass of the decoder alone.

use crate::common::*;
use engine::live::{Finish, Job, KvMemory, Pooling, PromptOutputs, Scored};
use model::{Batch, Decoder, Workspace};
use tensor::{Chunk, Device, Format, KV_BLOCK, KvFormat};

const NAME: &str = "qwen3_moe_bpe";
const KV: KvFormat = KvFormat::Bf16;

/// Logits and hidden states of every position, in one pass.
fn forward(decoder: &Decoder, device: &mut Device, tokens: &[u32]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(KV_BLOCK) as u32).collect();
    let mut cache = decoder.new_cache(KV, blocks.len());
    let mut workspace = Workspace::new(decoder, tokens.len(), tokens.len());
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let chunk = Chunk { row: 0, len: tokens.len(), position: 0, block_table: &blocks };
    let batch = Batch { tokens, chunks: &[chunk], logit_rows: &rows };
    let logits = decoder.forward(device, &mut cache, &mut workspace, &batch);
    let logits = (0..tokens.len()).map(|row| logits.row(row).to_vec()).collect();
    let hidden = decoder.hidden(device, &mut workspace, &rows);
    (logits, (0..tokens.len()).map(|row| hidden.row(row).to_vec()).collect())
}

/// By the definition, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    logits.iter().map(|&x| f64::from(x) - sum.ln()).collect()
}

fn assert_scored(scored: &Scored, token: u32, logits: &[f32], top: usize) {
    let expected = log_softmax(logits);
    assert_eq!(scored.token, token);
    assert!((f64::from(scored.logprob.unwrap()) - expected[token as usize]).abs() < 1e-5);
    assert_eq!(scored.top.len(), top);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    for (&(token, logprob), &expected_token) in scored.top.iter().zip(&order) {
        assert_eq!(token as usize, expected_token);
        assert!((f64::from(logprob) - expected[expected_token]).abs() < 1e-5);
    }
}

#[test]
fn logprobs_of_prompt_and_completion_are_those_of_one_pass() {
    let (decoder, mut device) = load(NAME, Format::Int8);
    let engine = start(NAME, small(KV, KvMemory::Free));
    for (len, choices, max_tokens) in [(1, 1, 0), (1, 2, 5), (130, 1, 0), (130, 3, 20), (47, 2, 1)] {
        let prompt = prompt(len as u64, len, 500);
        // What is cached must not be taken: outputs of every position are wanted.
        ask(&engine, job(prompt.clone(), 1, sampling(0)));
        let wish = Job {
            choices,
            logprobs: Some(4),
            prompt_outputs: Some(PromptOutputs::Logprobs(3)),
            ..job(prompt.clone(), max_tokens, sampling(1))
        };
        let answer = ask(&engine, wish);
        let scores = answer.prompt.unwrap();
        assert_eq!(scores[0], Scored { token: prompt[0], logprob: None, top: Vec::new() });
        assert_eq!(scores.len(), len);
        for made in &answer.choices {
            assert_eq!(made.finish, Some(Finish::Length));
            let whole = [&prompt[..], &made.ids()].concat();
            let (logits, _) = forward(&decoder, &mut device, &whole);
            for position in 1..len {
                assert_scored(&scores[position], prompt[position], &logits[position - 1], 3);
            }
            for (i, scored) in made.tokens.iter().enumerate() {
                assert_scored(scored, whole[len + i], &logits[len + i - 1], 4);
            }
            assert_eq!(made.tokens.len(), max_tokens as usize);
        }
        assert_eq!(answer.choices[0].usage.cached, 0);
    }
    assert_empty(&engine);
}

#[test]
fn embeddings_are_pooled_hidden_states_of_unit_length() {
    let (decoder, mut device) = load(NAME, Format::Int8);
    let engine = start(NAME, small(KV, KvMemory::Free));
    for len in [1, 33, 130] {
        let prompt = prompt(len as u64, len, 500);
        let (_, hidden) = forward(&decoder, &mut device, &prompt);
        let embed = |pooling, max_tokens| {
            let outputs = Some(PromptOutputs::Embedding(pooling));
            ask(&engine, Job { prompt_outputs: outputs, ..job(prompt.clone(), max_tokens, sampling(0)) })
        };
        for max_tokens in [0, 4] {
            for pooling in [Pooling::Mean, Pooling::Last] {
                let answer = embed(pooling, max_tokens);
                let rows = if pooling == Pooling::Mean { &hidden[..] } else { &hidden[len - 1..] };
                let sum: Vec<f64> =
                    (0..rows[0].len()).map(|i| rows.iter().map(|row| f64::from(row[i])).sum()).collect();
                let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
                let expected: Vec<f32> = sum.iter().map(|x| (x / norm) as f32).collect();
                let given = answer.embedding.unwrap();
                assert!(given.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{len} {pooling:?}");
                assert_eq!(answer.choices[0].tokens.len(), max_tokens as usize);
            }
        }
    }
    assert_empty(&engine);
}

#[test]
fn scores_do_not_depend_on_preemption() {
    let (decoder, _) = load(NAME, Format::Int8);
    let run = |cache_blocks| {
        let engine = start(NAME, small(KV, blocks(&decoder, KV, cache_blocks)));
        let jobs = (0..12).map(|i| Job {
            logprobs: Some(2),
            prompt_outputs: Some(PromptOutputs::Logprobs(2)),
            ..job(prompt(i, 60 + 5 * i as usize, 500), 60, sampling(i))
        });
        let running: Vec<_> = jobs.map(|job| submit(&engine, job)).collect();
        let answers: Vec<_> = running.into_iter().map(|completion| answer(completion, 1)).collect();
        let made: Vec<_> = answers.into_iter().map(|mut a| (a.prompt.take(), a.choices.remove(0).tokens)).collect();
        (made, engine.stats().totals.preemptions)
    };
    let (calm, none) = run(400);
    let (crowded, some) = run(13);
    assert!(none == 0 && some > 0);
    assert_eq!(calm, crowded);
}

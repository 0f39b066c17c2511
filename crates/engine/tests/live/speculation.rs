//! Drafts change speed, never a token.

use crate::common::*;
use batch::{Proposer, Speculation, Totals};
use engine::live::{EngineConfig, Finish, Job, KvMemory, StartError};
use engine::sampling::Sampling;
use spec::random::hash;
use tensor::{Format, KvFormat};

const NAME: &str = "mixtral_spm";

fn drafting(proposer: Proposer, adaptive: bool) -> Option<Speculation> {
    Some(Speculation { proposer, most: 4, adaptive })
}

/// Runs jobs of every kind of sampling and compares each with plain decoding. Returns what the scheduler counted.
fn check(draft: Option<&str>, format: Format, proposer: Proposer, adaptive: bool, cache_blocks: usize) -> Totals {
    let kv = KvFormat::Int8;
    let (decoder, mut device) = load(NAME, Format::Int8);
    let draft = draft.map(|name| load(name, format).0);
    // Bytes for blocks of both models; they have shapes of their own.
    let engine::live::KvMemory::Bytes(own) = blocks(&decoder, kv, cache_blocks) else { unreachable!() };
    let beside = draft.as_ref().map_or(KvMemory::Bytes(0), |draft| blocks(draft, kv, cache_blocks));
    let KvMemory::Bytes(beside) = beside else { unreachable!() };
    let config = EngineConfig { speculation: drafting(proposer, adaptive), ..small(kv, KvMemory::Bytes(own + beside)) };
    let engine = start_with(NAME, draft, config);
    let common = prompt(7, 64, 500);
    let jobs: Vec<_> = (0..30u64)
        .map(|i| {
            let own = prompt(i, 1 + (hash(3, 1, i, 0) % 70) as usize, 500);
            // Some repeat themselves, some share a beginning.
            let prompt = match i % 3 {
                0 => [&common[..], &own].concat(),
                1 => own.repeat(1 + 60 / own.len()),
                _ => own,
            };
            Job { choices: 1 + (i % 5 == 0) as u32, ..job(prompt, 1 + (hash(3, 2, i, 0) % 80) as u32, sampling(i)) }
        })
        .collect();
    let running: Vec<_> = jobs.iter().map(|job| submit(&engine, job.clone())).collect();
    for (i, (job, completion)) in jobs.iter().zip(running).enumerate() {
        for (choice, made) in answer(completion, job.choices).choices.into_iter().enumerate() {
            assert_eq!(made.finish, Some(Finish::Length));
            let expected = plain(&decoder, &mut device, kv, job, choice as u32);
            assert_eq!(made.ids(), expected, "{proposer:?} job {i} choice {choice}");
            assert!(made.usage.accepted <= made.usage.drafted);
        }
    }
    assert_empty(&engine);
    engine.stats().totals
}

#[test]
fn a_draft_model_that_is_nearly_the_model_changes_nothing() {
    let Totals { drafted, accepted, .. } = check(Some(NAME), Format::Int4, Proposer::Draft, false, 400);
    assert!(accepted > drafted / 10 && accepted < drafted, "{accepted} of {drafted} accepted");
}

#[test]
fn a_draft_model_that_is_the_model_is_always_right() {
    // Its own K/V cache has the same bits, so every draft is the model's own choice.
    let Totals { drafted, accepted, .. } = check(Some(NAME), Format::Int8, Proposer::Draft, false, 400);
    assert!(drafted > 100);
    assert_eq!(drafted, accepted);
}

#[test]
fn a_draft_model_that_is_hardly_ever_right_changes_nothing() {
    let Totals { drafted, accepted, .. } = check(Some("qwen3_moe_bpe"), Format::Int8, Proposer::Draft, false, 400);
    assert!(drafted > 100 && accepted < drafted / 10, "{accepted} of {drafted} accepted");
}

#[test]
fn preemption_and_speculation_together_change_nothing() {
    let mut preemptions = 0;
    for draft in [NAME, "qwen3_moe_bpe"] {
        for adaptive in [false, true] {
            let totals = check(Some(draft), Format::Int4, Proposer::Draft, adaptive, 11);
            assert!(totals.drafted > 0);
            preemptions += totals.preemptions;
        }
    }
    assert!(preemptions > 0);
}

#[test]
fn tokens_looked_up_change_nothing() {
    for cache_blocks in [11, 400] {
        let ngrams = Proposer::Ngram { longest: 3, shortest: 1 };
        let Totals { drafted, accepted, .. } = check(None, Format::Int8, ngrams, false, cache_blocks);
        assert!(drafted > 100 && accepted > 0, "{accepted} of {drafted} accepted");
    }
}

#[test]
fn stop_strings_and_ends_inside_accepted_drafts_end_there() {
    let plain = start(NAME, small(KvFormat::Bf16, KvMemory::Free));
    let config =
        EngineConfig { speculation: drafting(Proposer::Draft, false), ..small(KvFormat::Bf16, KvMemory::Free) };
    let drafted = start_with(NAME, Some(load(NAME, Format::Int8).0), config);
    let mut accepted = 0;
    for i in 0..12 {
        let job = job(prompt(i, 20, 500), 40, sampling(i));
        let whole = ask(&plain, job.clone()).choices.remove(0);
        let chars: Vec<char> = whole.text.chars().collect();
        let stop: String = chars[chars.len() / 2..chars.len() / 2 + 2].iter().collect();
        let token = whole.ids()[25];
        for job in [Job { stop: vec![stop], ..job.clone() }, Job { stop_tokens: vec![token], logprobs: Some(3), ..job }]
        {
            let (a, b) = (ask(&plain, job.clone()).choices.remove(0), ask(&drafted, job).choices.remove(0));
            assert_eq!((a.tokens, a.text, a.finish), (b.tokens, b.text, b.finish));
            assert_eq!(a.usage.generated, b.usage.generated);
            accepted += b.usage.accepted;
        }
    }
    assert!(accepted > 0);
}

#[test]
fn lenient_acceptance_keeps_more_and_only_what_was_drafted_or_chosen() {
    let run = |typical_acceptance| {
        let config = EngineConfig {
            speculation: drafting(Proposer::Draft, false),
            typical_acceptance,
            ..small(KvFormat::Bf16, KvMemory::Free)
        };
        let engine = start_with(NAME, Some(load(NAME, Format::Int4).0), config);
        let sampling = |seed, temperature| Sampling { temperature, seed, ..Sampling::default() };
        let made: Vec<_> = (0..20)
            .map(|i| {
                ask(&engine, job(prompt(i, 20, 500), 60, sampling(i, if i < 10 { 0.0 } else { 1.5 })))
                    .choices
                    .remove(0)
                    .ids()
            })
            .collect();
        let totals = engine.stats().totals;
        (made, totals.accepted as f64 / totals.drafted as f64)
    };
    let (exact, few) = run(None);
    let (lenient, more) = run(Some(0.001));
    assert!(more > few, "{more} against {few}");
    // Greedy choices have no typical alternative.
    assert_eq!(exact[..10], lenient[..10]);
    assert_ne!(exact[10..], lenient[10..]);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let attempt = |draft: Option<&str>, config: EngineConfig| {
        let (decoder, device) = load(NAME, Format::Int8);
        let draft = draft.map(|name| load(name, Format::Int8).0);
        let parts = engine::live::Parts { decoder, tokenizer: tokenizer(NAME), device, draft, name: NAME.into() };
        engine::live::Engine::start(parts, config).err().unwrap()
    };
    let plain = || small(KvFormat::Bf16, KvMemory::Free);
    let with = |proposer| EngineConfig { speculation: drafting(proposer, true), ..plain() };
    assert!(matches!(attempt(None, with(Proposer::Draft)), StartError::NoDraft));
    assert!(matches!(attempt(Some(NAME), plain()), StartError::IdleDraft));
    // A vocabulary of 101 cannot follow a tokeniser of more.
    assert!(matches!(
        attempt(Some("mixtral_mqa"), with(Proposer::Draft)),
        StartError::DraftVocabulary { draft: 101, .. }
    ));
    let lenient = EngineConfig { typical_acceptance: Some(0.3), ..plain() };
    assert!(matches!(attempt(None, lenient), StartError::TypicalAlone));
    let nan = EngineConfig { typical_acceptance: Some(f32::NAN), ..with(Proposer::Ngram { longest: 3, shortest: 1 }) };
    assert!(matches!(attempt(None, nan), StartError::Typical(_)));
    let tiny = EngineConfig { kv_memory: KvMemory::Bytes(10), ..plain() };
    assert!(matches!(attempt(None, tiny), StartError::Memory(_)));
    let wide = EngineConfig { max_running: 1000, ..plain() };
    assert!(matches!(attempt(None, wide), StartError::Config(_)));
}

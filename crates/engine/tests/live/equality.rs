//! Tokens are those of plain decoding, with chunks, batches, prefix hits, preemption and several choices.

use crate::common::*;
use engine::live::{Finish, Job};
use spec::random::hash;
use tensor::{Format, KvFormat};

const MODELS: [&str; 2] = ["qwen3_moe_bpe", "mixtral_spm"];
/// Every id below has a text in both models' tokenisers.
const VOCAB: u64 = 500;

/// Jobs of many lengths, some with a common beginning.
fn jobs(count: u64) -> Vec<Job> {
    let common = prompt(99, 100, VOCAB);
    let make = |i: u64| {
        let own = prompt(i, 1 + (hash(7, 2, i, 0) % 90) as usize, VOCAB);
        let prompt = if i.is_multiple_of(3) { [&common[..40 + 10 * (i as usize % 7)], &own].concat() } else { own };
        job(prompt, 1 + (hash(7, 3, i, 0) % 80) as u32, sampling(i))
    };
    (0..count).map(make).collect()
}

/// Compares all jobs with plain decoding. Returns how often one was preempted.
fn check(name: &str, kv: KvFormat, cache_blocks: usize) -> u64 {
    let (decoder, mut device) = load(name, Format::Int8);
    let engine = start_on(2, name, None, small(kv, blocks(&decoder, kv, cache_blocks)));
    let jobs = jobs(40);
    let running: Vec<_> = jobs.iter().map(|job| submit(&engine, job.clone())).collect();
    let mut cached = 0;
    for (i, (job, completion)) in jobs.iter().zip(running).enumerate() {
        let made = answer(completion, 1).choices.remove(0);
        assert_eq!(made.finish, Some(Finish::Length));
        assert_eq!(made.ids(), plain(&decoder, &mut device, kv, job, 0), "{name} {kv:?} job {i}");
        assert_eq!(made.usage.generated, job.max_tokens);
        cached += made.usage.cached;
    }
    assert!(cached > 0, "nothing was found in the prefix cache");
    assert_empty(&engine);
    engine.stats().totals.preemptions
}

#[test]
fn many_jobs_at_once_are_decoded_as_one_by_one() {
    for name in MODELS {
        for kv in KvFormat::ALL {
            assert_eq!(check(name, kv, 400), 0);
        }
    }
}

#[test]
fn preempted_jobs_go_on_with_the_same_tokens() {
    let formats = [KvFormat::Bf16, KvFormat::Int8];
    let preemptions: u64 = MODELS.iter().flat_map(|name| formats.map(|kv| check(name, kv, 11))).sum();
    assert!(preemptions > 0);
}

#[test]
fn each_choice_is_drawn_with_its_own_noise() {
    let name = MODELS[0];
    let (decoder, mut device) = load(name, Format::Int8);
    let engine = start(name, small(KvFormat::Bf16, blocks(&decoder, KvFormat::Bf16, 100)));
    let job = Job { choices: 5, ..job(prompt(3, 70, VOCAB), 20, sampling(1)) };
    let made = ask(&engine, job.clone()).choices;
    for (choice, made) in made.iter().enumerate() {
        assert_eq!(made.ids(), plain(&decoder, &mut device, KvFormat::Bf16, &job, choice as u32), "choice {choice}");
    }
    assert!(made.iter().any(|m| m.ids() != made[0].ids()));
    // The prompt's full blocks were computed once.
    assert!(made[1..].iter().all(|m| m.usage.cached == 64), "{made:?}");
}

#[test]
fn a_prompt_that_came_before_is_found_and_changes_nothing() {
    let name = MODELS[1];
    let engine = start(name, small(KvFormat::Int8, engine::live::KvMemory::Free));
    let job = job(prompt(5, 130, VOCAB), 30, sampling(2));
    let first = ask(&engine, job.clone()).choices.remove(0);
    let again = ask(&engine, job.clone()).choices.remove(0);
    assert_eq!((first.usage.cached, again.usage.cached), (0, 128));
    assert_eq!(first.tokens, again.tokens);
    assert_eq!(first.text, again.text);
    // Another tenant finds nothing.
    let other = ask(&engine, Job { salt: 1, ..job }).choices.remove(0);
    assert_eq!((other.usage.cached, other.tokens), (0, first.tokens));
}

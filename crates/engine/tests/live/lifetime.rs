//! How jobs end: by a token, a string, a limit, a deadline, a client that leaves; and what is refused.

use crate::common::*;
use engine::live::{Busy, EngineConfig, Finish, Health, Job, KvMemory, Rejected, Stopped};
use engine::sampling::Sampling;
use spec::random::hash;
use std::time::Duration;
use tensor::{Format, KvFormat};

const NAME: &str = "qwen3_moe_bpe";

fn engine() -> engine::live::Engine {
    start(NAME, small(KvFormat::Bf16, KvMemory::Free))
}

#[test]
fn text_is_that_of_the_tokens() {
    let (engine, tokenizer) = (engine(), tokenizer(NAME));
    for i in 0..8 {
        let made = ask(&engine, job(prompt(i, 20, 500), 40, sampling(i))).choices.remove(0);
        let options = text::DecodeOptions { skip_special: true, continues: true };
        assert_eq!(made.text, tokenizer.decode_with(&made.ids(), options).unwrap());
    }
}

#[test]
fn a_stop_string_ends_text_and_choice() {
    let engine = engine();
    for i in 0..12 {
        let job = job(prompt(i, 20, 500), 40, sampling(i));
        let whole = ask(&engine, job.clone()).choices.remove(0);
        let chars: Vec<char> = whole.text.chars().collect();
        let from = chars.len() / 2;
        let stop: String = chars[from..from + 3].iter().collect();
        let expected = &whole.text[..whole.text.find(&stop).unwrap()];
        let made = ask(&engine, Job { stop: vec!["\u{1}never".into(), stop.clone()], ..job }).choices.remove(0);
        assert_eq!(made.text, expected);
        assert_eq!(made.finish, Some(Finish::Stop(Stopped::String(stop))));
        assert!(whole.ids().starts_with(&made.ids()));
        assert_eq!(made.usage.generated as usize, made.tokens.len());
    }
}

#[test]
fn stop_tokens_end_a_choice_and_are_not_part_of_it() {
    let engine = engine();
    let job = job(prompt(1, 20, 500), 40, sampling(1));
    let whole = ask(&engine, job.clone()).choices.remove(0).ids();
    let token = whole[20];
    let at = whole.iter().position(|&t| t == token).unwrap();
    let made = ask(&engine, Job { stop_tokens: vec![token], ..job }).choices.remove(0);
    assert_eq!(made.ids(), whole[..at]);
    assert_eq!(made.finish, Some(Finish::Stop(Stopped::Token(token))));
    assert_eq!(made.usage.generated as usize, at + 1);
}

#[test]
fn whoever_leaves_holds_no_blocks() {
    let (decoder, mut device) = load(NAME, Format::Int8);
    let kv = KvFormat::Int8;
    let engine = start(NAME, small(kv, blocks(&decoder, kv, 20)));
    let mut kept = Vec::new();
    for i in 0..120u64 {
        let job =
            job(prompt(i, 1 + (hash(1, 1, i, 0) % 120) as usize, 500), 1 + (hash(1, 2, i, 0) % 60) as u32, sampling(i));
        let mut completion = submit(&engine, job.clone());
        match i % 4 {
            0 => kept.push((job, completion)),
            1 => drop(completion),
            // After the first event, or a while later.
            2 => drop(completion.blocking_next()),
            _ => {
                for _ in 0..hash(1, 3, i, 0) % 8 {
                    completion.blocking_next();
                }
            }
        }
    }
    for (job, completion) in kept {
        let made = answer(completion, 1).choices.remove(0);
        assert_eq!(made.ids(), plain(&decoder, &mut device, kv, &job, 0));
    }
    assert_empty(&engine);
    assert!(engine.stats().finished.cancelled > 0);
}

/// What comes after a departure in the queue is planned without the one who left.
#[test]
fn whoever_leaves_has_no_part_in_the_next_step() {
    let engine = engine();
    for i in 0..20 {
        let mut leaving = submit(&engine, job(prompt(i, 20, 500), 290, sampling(i)));
        leaving.blocking_next();
        drop(leaving);
        ask(&engine, job(prompt(100 + i, 20, 500), 3, sampling(i)));
    }
    assert_empty(&engine);
    let stats = engine.stats();
    assert!(stats.finished.cancelled > 0);
    let together = stats.recent.iter().filter(|step| step.sequences > 1).count();
    assert_eq!(together, 0, "steps computed for one who had left and for the next");
}

#[test]
fn whoever_has_its_answer_can_ask_again() {
    let engine = start(NAME, EngineConfig { max_running: 1, max_queue: 0, ..small(KvFormat::Bf16, KvMemory::Free) });
    for i in 0..200 {
        let place = engine.reserve(1).unwrap_or_else(|busy| panic!("after {i} answers: {busy}"));
        let mut completion = engine.submit(place, job(prompt(i, 3, 500), 1, sampling(i))).unwrap();
        while !matches!(completion.blocking_next(), Some(engine::live::Event::Finished { .. })) {}
        assert_eq!(engine.stats().places, 0);
    }
}

#[test]
fn a_deadline_ends_a_choice_with_what_it_has() {
    let engine = engine();
    let job = Job { deadline: Some(Duration::from_micros(1)), ..job(prompt(1, 100, 500), 200, sampling(1)) };
    match engine.submit(engine.reserve(1).unwrap(), job.clone()) {
        Ok(completion) => assert_eq!(answer(completion, 1).choices[0].finish, Some(Finish::Deadline)),
        Err(error) => assert_eq!(error, Rejected::Refused(batch::Refusal::Late)),
    }
    let later = Job { deadline: Some(Duration::from_secs(3600)), max_tokens: 3, ..job };
    assert_eq!(ask(&engine, later).choices[0].finish, Some(Finish::Length));
    assert_empty(&engine);
}

#[test]
fn what_cannot_be_served_is_refused_at_once() {
    let engine = engine();
    let refused = |job: Job| {
        let error = engine.submit(engine.reserve(job.choices.max(1)).unwrap(), job).err().unwrap();
        assert!(engine.is_idle(), "a refused job gives its place back");
        error
    };
    assert!(matches!(refused(Job::new(vec![], 1)), Rejected::Refused(batch::Refusal::Empty)));
    let long = refused(Job::new(vec![1; CONTEXT], 1));
    assert!(matches!(long, Rejected::Refused(batch::Refusal::Context { prompt: CONTEXT, new: 1, .. })));
    let vocab = engine.info().config.vocab_size;
    assert!(matches!(refused(Job::new(vec![1, vocab as u32], 1)), Rejected::Token { .. }));
    for temperature in [f32::NAN, f32::INFINITY, -1.0, 1e30] {
        let sampling = Sampling { temperature, ..Sampling::default() };
        assert!(matches!(refused(Job { sampling, ..Job::new(vec![1], 1) }), Rejected::Sampling(_)));
    }
    assert!(matches!(refused(Job { choices: 0, ..Job::new(vec![1], 1) }), Rejected::NoChoices));
    assert!(matches!(
        refused(Job { logit_bias: vec![(1, f32::NAN)], ..Job::new(vec![1], 1) }),
        Rejected::Processors(_)
    ));
    let places = engine.submit(engine.reserve(2).unwrap(), Job::new(vec![1], 1));
    assert!(matches!(places, Err(Rejected::Place { choices: 1, places: 2 })));
}

#[test]
fn a_full_queue_says_when_to_come_again_and_a_draining_engine_refuses() {
    let config = EngineConfig { max_running: 2, max_queue: 1, ..small(KvFormat::Bf16, KvMemory::Free) };
    let engine = start(NAME, config);
    let mut places: Vec<_> = (0..3).map(|_| engine.reserve(1).unwrap()).collect();
    assert!(
        matches!(engine.reserve(1).err(), Some(Busy::Full { retry_after }) if retry_after >= Duration::from_secs(1))
    );
    places.pop();
    let place = engine.reserve(1).unwrap();
    engine.drain();
    assert!(!engine.is_idle());
    assert_eq!(engine.reserve(1).err(), Some(Busy::Draining));
    drop(places);
    assert_eq!(engine.reserve(1).err(), Some(Busy::Draining));
    // What has a place is served.
    let completion = engine.submit(place, Job::new(vec![1, 2], 3)).unwrap();
    assert_eq!(answer(completion, 1).choices[0].usage.generated, 3);
    assert_empty(&engine);
    assert_eq!(engine.health(), Health::Healthy);
}

#[test]
fn counts_add_up() {
    let engine = engine();
    let jobs: Vec<_> = (0..10).map(|i| job(prompt(i, 30, 500), 12, sampling(i))).collect();
    let running: Vec<_> = jobs.iter().map(|job| submit(&engine, job.clone())).collect();
    running.into_iter().for_each(|completion| drop(answer(completion, 1)));
    assert_empty(&engine);
    let stats = engine.stats();
    assert_eq!((stats.tokens_in, stats.tokens_out), (300, 120));
    assert_eq!(stats.finished.length, 10);
    assert_eq!(stats.first_token.count(), 10);
    assert_eq!(stats.inter_token.count(), 110);
    assert_eq!(stats.goodput.sequences, 10);
    assert_eq!(stats.steps.count(), stats.totals.steps);
    assert_eq!(stats.recent.iter().map(|s| u64::from(s.outputs)).sum::<u64>(), 120);
    // Two experts for each row and layer.
    let visits: Vec<u64> = stats.expert_tokens.iter().map(|layer| layer.iter().sum()).collect();
    assert_eq!(visits, vec![2 * stats.totals.rows; engine.info().config.layers.len()]);
}

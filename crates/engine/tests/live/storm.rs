//! Everything at once: grammars, penalties, scores and several choices, with drafts, preemption and clients that leave.

use crate::common::*;
use batch::{Proposer, Speculation};
use engine::grammar::Source;
use engine::live::{Engine, EngineConfig, Finish, Job, KvMemory, Penalties, PromptOutputs, Stopped};
use spec::random::hash;
use tensor::{Format, KvFormat};

const NAME: &str = "qwen3_moe_bpe";
const KV: KvFormat = KvFormat::Int8;

fn drafting(proposer: Proposer) -> EngineConfig {
    let speculation = Some(Speculation { proposer, most: 4, adaptive: false });
    EngineConfig { speculation, ..small(KV, KvMemory::Free) }
}

fn quiet() -> Engine {
    start(NAME, small(KV, KvMemory::Free))
}

/// Engines that draft, by a model that is nearly the model and by looking up, on so many blocks.
fn drafters(cache_blocks: usize) -> [Engine; 2] {
    let (decoder, _) = load(NAME, Format::Int8);
    let KvMemory::Bytes(own) = blocks(&decoder, KV, cache_blocks) else { unreachable!() };
    let looking_up =
        EngineConfig { kv_memory: KvMemory::Bytes(own), ..drafting(Proposer::Ngram { longest: 3, shortest: 1 }) };
    let modelled = EngineConfig { kv_memory: KvMemory::Bytes(2 * own), ..drafting(Proposer::Draft) };
    [start_with(NAME, Some(load(NAME, Format::Int4).0), modelled), start(NAME, looking_up)]
}

/// Jobs that want something of everything.
fn wishes(engine: &Engine, count: u64) -> Vec<Job> {
    let sources = [
        Source::JsonObject,
        Source::Regex("([a-f]{2,5} )*[0-9]{3}".into()),
        Source::Choice(vec!["yes".into(), "yes, but".into(), "no".into()]),
        Source::Lark("start: \"(\" item* \")\"\nitem: start | /[a-z ]+/".into()),
    ];
    let grammars: Vec<_> = sources.iter().map(|source| engine.grammars().compile(source).unwrap()).collect();
    let wish = |i: u64| {
        let draw = |purpose, bound| spec::random::below(hash(5, purpose, i, 0), bound);
        Job {
            choices: 1 + draw(1, 3) as u32,
            grammar: (!i.is_multiple_of(3)).then(|| grammars[draw(2, 4) as usize].clone()),
            logprobs: i.is_multiple_of(2).then(|| draw(3, 6) as u32),
            prompt_outputs: i.is_multiple_of(7).then_some(PromptOutputs::Logprobs(2)),
            penalties: match i % 4 {
                0 => Penalties { frequency: 0.4, presence: 0.2, repetition: 1.1 },
                _ => Penalties::default(),
            },
            logit_bias: if i.is_multiple_of(5) { vec![(draw(4, 500) as u32, 2.5)] } else { Vec::new() },
            stop: if i % 6 == 1 { vec!["e".into(), "12".into()] } else { Vec::new() },
            min_tokens: draw(5, 4) as u32,
            priority: draw(6, 3) as i32,
            ..job(prompt(i % 9, 10 + draw(7, 60) as usize, 500), 2 + draw(8, 70) as u32, sampling(i))
        }
    };
    (0..count).map(wish).collect()
}

/// What must not depend on drafts, the cache or company.
fn essence(answer: Answer) -> impl PartialEq + std::fmt::Debug {
    let choices = answer.choices.into_iter().map(|m| (m.tokens, m.text, m.finish, m.usage.generated));
    (choices.collect::<Vec<_>>(), answer.prompt, answer.failed)
}

#[test]
fn wishes_are_answered_alike_alone_and_in_a_crowd() {
    let alone = quiet();
    let jobs = wishes(&alone, 60);
    let expected: Vec<_> = jobs.iter().map(|job| essence(ask(&alone, job.clone()))).collect();
    for engine in drafters(14) {
        let running: Vec<_> = jobs.iter().map(|job| submit(&engine, job.clone())).collect();
        for (i, ((job, completion), expected)) in jobs.iter().zip(running).zip(&expected).enumerate() {
            let answer = answer(completion, job.choices);
            assert_eq!(format!("{:?}", essence(answer)), format!("{expected:?}"), "job {i}");
        }
        assert_empty(&engine);
        let totals = engine.stats().totals;
        assert!(totals.preemptions > 0 && totals.drafted > 0 && totals.accepted > 0, "{totals:?}");
    }
}

#[test]
fn several_choices_have_scores_of_their_own() {
    let engine = quiet();
    for i in 0..6 {
        let wish = Job { choices: 4, logprobs: Some(5), ..job(prompt(i, 33, 500), 20, sampling(1 + i)) };
        for made in ask(&engine, wish.clone()).choices {
            assert_eq!(made.tokens.len(), 20);
            for scored in &made.tokens {
                let own = scored.logprob.unwrap();
                assert!(own <= scored.top[0].1 && scored.top.len() == 5);
                assert!(scored.top.is_sorted_by(|a, b| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0)));
                assert!(scored.top.iter().all(|&(id, logprob)| id != scored.token || logprob == own));
                assert!(scored.top.iter().map(|t| f64::from(t.1).exp()).sum::<f64>() <= 1.0 + 1e-6);
            }
            // The prompt's scores of the whole text say the same: they come from an independent prefill.
            let whole = [&wish.prompt[..], &made.ids()].concat();
            let again = Job { prompt_outputs: Some(PromptOutputs::Logprobs(5)), ..Job::new(whole, 0) };
            let scores = ask(&engine, again).prompt.unwrap();
            assert_eq!(scores[wish.prompt.len()..], made.tokens);
        }
    }
}

#[test]
fn storms_of_clients_that_leave_change_nobody_else_and_leak_nothing() {
    let alone = quiet();
    let jobs = wishes(&alone, 24);
    let expected: Vec<_> = jobs.iter().map(|job| essence(ask(&alone, job.clone()))).collect();
    for engine in drafters(16) {
        std::thread::scope(|scope| {
            for storm in 0..4u64 {
                let (engine, jobs) = (&engine, &jobs);
                scope.spawn(move || {
                    for i in 0..60u64 {
                        let job = jobs[hash(storm, 1, i, 0) as usize % jobs.len()].clone();
                        // A full queue is an answer too.
                        let Ok(place) = engine.reserve(job.choices) else { continue };
                        let mut completion = engine.submit(place, job).unwrap();
                        for _ in 0..hash(storm, 2, i, 0) % 12 {
                            if completion.blocking_next().is_none() {
                                break;
                            }
                        }
                    }
                });
            }
            for (i, (job, expected)) in jobs.iter().zip(&expected).enumerate() {
                let place = loop {
                    match engine.reserve(job.choices) {
                        Ok(place) => break place,
                        Err(_) => std::thread::yield_now(),
                    }
                };
                let answer = answer(engine.submit(place, job.clone()).unwrap(), job.choices);
                assert_eq!(format!("{:?}", essence(answer)), format!("{expected:?}"), "job {i}");
            }
        });
        assert_empty(&engine);
        assert!(engine.stats().finished.cancelled > 0);
    }
}

/// A grammar whose only text is empty: there is nothing to choose, and the choice is complete.
#[test]
fn an_empty_text_may_be_all_that_a_grammar_allows() {
    for engine in [quiet(), drafters(40)[0].clone()] {
        let grammar = engine.grammars().compile(&Source::Choice(vec![String::new()])).unwrap();
        for choices in [1, 3] {
            let wish = Job { choices, grammar: Some(grammar.clone()), ..job(prompt(1, 20, 500), 10, sampling(1)) };
            for made in ask(&engine, wish).choices {
                assert_eq!((made.ids().len(), made.text.as_str()), (0, ""));
                assert_eq!(made.finish, Some(Finish::Stop(Stopped::Grammar)));
            }
        }
        assert_empty(&engine);
    }
}

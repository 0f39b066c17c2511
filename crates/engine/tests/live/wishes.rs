//! Grammars, bias, penalties and failures: what concerns one job alone.

use crate::common::*;
use batch::{Proposer, Speculation};
use engine::Runner;
use engine::grammar::Source;
use engine::live::{EngineConfig, Finish, Job, KvMemory, Penalties, Stopped};
use engine::logits::Processors;
use engine::sampling::sample;
use tensor::{Format, KvFormat};

const NAME: &str = "qwen3_moe_bpe";
const KV: KvFormat = KvFormat::Bf16;

/// Plain decoding with processed logits, until a token that ends it or a complete grammar.
fn processed(job: &Job) -> Vec<u32> {
    let (decoder, mut device) = load(NAME, Format::Int8);
    let eos = tokenizer(NAME);
    let processors = Processors::new(job, eos.eos(), decoder.config().vocab_size).unwrap();
    let mut state = processors.start();
    let prompts = std::slice::from_ref(&job.prompt);
    let mut runner = Runner::new(&decoder, &mut device, KV, prompts, job.max_tokens as usize).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < job.max_tokens as usize && !state.is_complete() && runner.step() {
        let Some(logits) = runner.logits(0) else { continue };
        let mut logits = logits.to_vec();
        processors.apply(&mut logits, &mut state).unwrap();
        let token = sample(&logits, &job.sampling, 0, runner.tokens(0).len() as u64);
        if processors.ends().contains(&token) {
            break;
        }
        state.push(token).unwrap();
        tokens.push(token);
        runner.push(0, token);
    }
    tokens
}

fn engines() -> [engine::live::Engine; 2] {
    let drafting = EngineConfig {
        speculation: Some(Speculation { proposer: Proposer::Draft, most: 4, adaptive: false }),
        ..small(KV, KvMemory::Free)
    };
    [start(NAME, small(KV, KvMemory::Free)), start_with(NAME, Some(load(NAME, Format::Int8).0), drafting)]
}

#[test]
fn processed_logits_give_the_tokens_of_plain_decoding() {
    for engine in engines() {
        for i in 0..8u64 {
            let wish = Job {
                penalties: Penalties { frequency: 0.5, presence: 0.3, repetition: if i % 2 == 0 { 1.2 } else { 1.0 } },
                logit_bias: vec![(10, 3.0), (11, -100.0)],
                min_tokens: 10,
                ignore_eos: i % 3 == 0,
                ..job(prompt(i, 40, 500), 40, sampling(i))
            };
            let made = ask(&engine, wish.clone()).choices.remove(0);
            assert_eq!(made.ids(), processed(&wish), "job {i}");
            assert!(!made.ids().contains(&11));
            assert!(made.usage.generated >= 10);
        }
    }
}

/// It proposes by the same bias, penalties, minimum and grammar, so every draft is the model's own choice.
#[test]
fn a_draft_model_that_is_the_model_is_right_whatever_is_wished() {
    let [_, engine] = engines();
    let grammar = engine.grammars().compile(&Source::Regex("[a-z ]{2000}".into())).unwrap();
    for i in 0..8u64 {
        let wish = Job {
            penalties: Penalties { frequency: 0.5, presence: 0.3, repetition: 1.2 },
            logit_bias: vec![(10, 3.0), (11, -100.0)],
            stop_tokens: vec![12],
            min_tokens: 40,
            grammar: (i % 2 == 0).then(|| grammar.clone()),
            ..job(prompt(i, 40, 500), 40, sampling(i))
        };
        let made = ask(&engine, wish).choices.remove(0);
        assert_eq!(made.finish, Some(Finish::Length));
        assert!(made.usage.drafted > 20, "job {i}: {:?}", made.usage);
        assert_eq!(made.usage.accepted, made.usage.drafted, "job {i}");
    }
}

#[test]
fn texts_under_a_grammar_are_those_of_plain_decoding_and_belong_to_it() {
    let pattern = regex::Regex::new("^[a-f]{3}-[0-9]{2}$").unwrap();
    for engine in engines() {
        let sources = [Source::Regex("[a-f]{3}-[0-9]{2}".into()), Source::Choice(vec!["yes".into(), "no".into()])];
        for (i, source) in (0..).zip(sources) {
            for seed in 0..4 {
                let grammar = Some(engine.grammars().compile(&source).unwrap());
                let wish = Job { grammar, ..job(prompt(seed, 30, 500), 60, sampling(seed)) };
                let made = ask(&engine, wish.clone()).choices.remove(0);
                assert_eq!(made.ids(), processed(&wish));
                assert!(matches!(made.finish, Some(Finish::Stop(Stopped::Grammar))), "{:?}", made.finish);
                let text = &made.text;
                match i {
                    0 => assert!(pattern.is_match(text), "{text}"),
                    _ => assert!(["yes", "no"].contains(&text.as_str()), "{text}"),
                }
            }
        }
        assert_empty(&engine);
    }
}

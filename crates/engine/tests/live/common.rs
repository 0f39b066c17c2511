//! Tiny models, and what a completion should be.

use engine::live::{Completion, Engine, EngineConfig, Event, Finish, Job, KvMemory, Parts, Scored, Usage};
use engine::sampling::{Sampling, sample};
use engine::{Options, Runner, generate};
use model::{Checkpoint, Decoder, LoadOptions};
use spec::random::hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensor::{Device, Format, KvFormat};
use text::Tokenizer;

/// Positions that the tiny models serve in these tests.
pub const CONTEXT: usize = 320;

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name)
}

/// A tiny model with weights in a format; each call gives the same.
pub fn load(name: &str, format: Format) -> (Decoder, Device) {
    let mut device = Device::new(1);
    let options = LoadOptions { weights: Some(format), context: Some(CONTEXT), ..LoadOptions::default() };
    let decoder = Decoder::load(&Checkpoint::open(&path(name)).unwrap(), &mut device, &options).unwrap();
    (decoder, device)
}

pub fn tokenizer(name: &str) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_folder(path(name)).unwrap())
}

/// Bytes of so many cache blocks.
pub fn blocks(decoder: &Decoder, kv: KvFormat, count: usize) -> KvMemory {
    let config = decoder.config();
    KvMemory::Bytes(tensor::KvCache::bytes_of(kv, config.layers.len(), count, config.kv_heads, config.head_dim))
}

pub fn start(name: &str, config: EngineConfig) -> Engine {
    start_with(name, None, config)
}

pub fn start_with(name: &str, draft: Option<Decoder>, config: EngineConfig) -> Engine {
    start_on(1, name, draft, config)
}

/// An engine whose device has so many workers.
pub fn start_on(threads: usize, name: &str, draft: Option<Decoder>, config: EngineConfig) -> Engine {
    let (decoder, _) = load(name, Format::Int8);
    let device = Device::new(threads);
    let parts = Parts { decoder, tokenizer: tokenizer(name), device, draft, name: name.into() };
    Engine::start(parts, config).unwrap()
}

/// A small configuration: several chunks to a prompt, several batches to a test.
pub fn small(kv: KvFormat, kv_memory: KvMemory) -> EngineConfig {
    EngineConfig { kv, kv_memory, step_tokens: 48, max_running: 16, ..EngineConfig::default() }
}

/// Random tokens that a text may have.
pub fn prompt(seed: u64, len: usize, vocab: u64) -> Vec<u32> {
    (0..len).map(|i| (hash(seed, 1, i as u64, 0) % vocab) as u32).collect()
}

/// Sampling of several kinds.
pub fn sampling(i: u64) -> Sampling {
    match i % 4 {
        0 => Sampling::default(),
        1 => Sampling { temperature: 0.9, seed: i, ..Sampling::default() },
        2 => Sampling { temperature: 0.9, top_k: 20, top_p: 0.9, seed: i, ..Sampling::default() },
        _ => Sampling { temperature: 1.3, min_p: 0.05, seed: i, ..Sampling::default() },
    }
}

/// A job that ends only at its limit.
pub fn job(prompt: Vec<u32>, max_tokens: u32, sampling: Sampling) -> Job {
    Job { sampling, ignore_eos: true, ..Job::new(prompt, max_tokens) }
}

/// What plain decoding gives: the prompt alone, one token after the other.
pub fn plain(decoder: &Decoder, device: &mut Device, kv: KvFormat, job: &Job, choice: u32) -> Vec<u32> {
    let max_tokens = job.max_tokens as usize;
    if choice == 0 {
        let options = Options { max_tokens, sampling: job.sampling.clone(), stop_tokens: Vec::new(), kv };
        return generate(decoder, device, &job.prompt, &options, &mut |_| true).unwrap().tokens;
    }
    let mut runner = Runner::new(decoder, device, kv, std::slice::from_ref(&job.prompt), max_tokens).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < max_tokens && runner.step() {
        let Some(logits) = runner.logits(0) else { continue };
        let position = runner.tokens(0).len() as u64;
        let token = sample(logits, &job.sampling, choice.into(), position);
        tokens.push(token);
        runner.push(0, token);
    }
    tokens
}

/// All that came of one choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    pub tokens: Vec<Scored>,
    pub text: String,
    pub finish: Option<Finish>,
    pub usage: Usage,
}

impl Made {
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|t| t.token).collect()
    }
}

/// All that came of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub choices: Vec<Made>,
    pub prompt: Option<Vec<Scored>>,
    pub embedding: Option<Vec<f32>>,
    pub failed: Option<String>,
}

impl Answer {
    /// Takes in an event, which must be allowed to come now.
    pub fn take(&mut self, event: Event) {
        assert!(self.failed.is_none(), "{event:?} after a failure");
        let untouched = self.choices.iter().all(|made| *made == Made::default());
        match event {
            Event::Prompt(scores) => {
                assert!(untouched && self.prompt.is_none(), "the prompt's scores come first");
                self.prompt = Some(scores);
            }
            Event::Embedding(embedding) => {
                assert!(untouched && self.embedding.is_none(), "the embedding comes first");
                self.embedding = Some(embedding);
            }
            Event::Delta { choice, tokens, text } => {
                let made = &mut self.choices[choice as usize];
                assert!(made.finish.is_none(), "a choice goes on after its end");
                made.tokens.extend(tokens);
                made.text.push_str(&text);
            }
            Event::Finished { choice, finish, usage } => {
                let made = &mut self.choices[choice as usize];
                assert!(made.finish.is_none(), "a choice ends twice");
                (made.finish, made.usage) = (Some(finish), usage);
            }
            Event::Failed(message) => self.failed = Some(message),
        }
    }
}

pub fn submit(engine: &Engine, job: Job) -> Completion {
    engine.submit(engine.reserve(job.choices).unwrap(), job).unwrap()
}

/// Waits for everything that comes of a job.
pub fn answer(mut completion: Completion, choices: u32) -> Answer {
    let mut answer = Answer { choices: vec![Made::default(); choices as usize], ..Answer::default() };
    while let Some(event) = completion.blocking_next() {
        answer.take(event);
    }
    assert!(answer.failed.is_some() || answer.choices.iter().all(|made| made.finish.is_some()), "{answer:?}");
    answer
}

/// Runs one job.
pub fn ask(engine: &Engine, job: Job) -> Answer {
    let choices = job.choices;
    answer(submit(engine, job), choices)
}

/// Waits until the thread has taken in what was sent, and checks that no block is held and no place taken.
pub fn assert_empty(engine: &Engine) {
    for _ in 0..10_000 {
        let stats = engine.stats();
        let owned: u32 = stats.occupancy.iter().map(|o| o.owned).sum();
        if engine.is_idle() && owned == 0 && stats.waiting + stats.running == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("blocks or places are still held: {:?}", engine.stats());
}

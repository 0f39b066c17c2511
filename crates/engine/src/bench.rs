//! How fast is a model? Prefill and decode, timed on random tokens.

use crate::runner::{RunError, Runner};
use model::Decoder;
use spec::random::hash;
use std::hint::black_box;
use std::time::Instant;
use tensor::{Device, KvFormat};

/// What to time.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Tokens of the prompt whose computation is timed.
    pub prompt_tokens: usize,
    /// Tokens decoded per sequence.
    pub gen_tokens: usize,
    /// Sequences decoded together.
    pub parallel: usize,
    /// Tokens in each sequence before decoding is timed.
    pub context: usize,
    /// How often; the median is what counts.
    pub repeats: usize,
    /// Cache format.
    pub kv: KvFormat,
}

/// Rates in tokens per second: median, least and most over the repeats.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The middle of the repeats.
    pub median: f64,
    /// The slowest.
    pub min: f64,
    /// The fastest.
    pub max: f64,
}

impl Rate {
    fn of(mut rates: Vec<f64>) -> Self {
        rates.sort_by(f64::total_cmp);
        Self { median: rates[rates.len() / 2], min: rates[0], max: rates[rates.len() - 1] }
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Prompt tokens per second, logits of the last only.
    pub prefill: Option<Rate>,
    /// New tokens per second of all sequences together, greedy choice included.
    pub decode: Option<Rate>,
}

/// Random tokens, different for each sequence.
fn prompt(decoder: &Decoder, len: usize, sequence: usize) -> Vec<u32> {
    let vocab = decoder.config().vocab_size as u64;
    (0..len).map(|i| (hash(0, 0x62_656e_6368, sequence as u64, i as u64) % vocab) as u32).collect()
}

/// Runs the plan, calling `progress` with (repeats done, repeats in all).
///
/// # Errors
/// If a prompt and its continuation do not fit the context.
pub fn run(
    decoder: &Decoder,
    device: &mut Device,
    plan: &Plan,
    progress: &dyn Fn(usize, usize),
) -> Result<Report, RunError> {
    let repeats = plan.repeats.max(1);
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for repeat in 0..repeats {
        if plan.prompt_tokens > 0 {
            let mut runner = Runner::new(decoder, device, plan.kv, &[prompt(decoder, plan.prompt_tokens, repeat)], 0)?;
            let start = Instant::now();
            while runner.step() {}
            prefill.push(plan.prompt_tokens as f64 / start.elapsed().as_secs_f64());
        }
        if plan.gen_tokens > 0 {
            let prompts: Vec<_> =
                (0..plan.parallel).map(|i| prompt(decoder, plan.context.max(1), 1000 * repeat + i)).collect();
            let mut runner = Runner::new(decoder, device, plan.kv, &prompts, plan.gen_tokens + 1)?;
            while runner.logits(plan.parallel - 1).is_none() {
                runner.step();
            }
            // Tokens drawn beforehand: what a random model chooses soon repeats itself, and so would its experts.
            let drawn: Vec<_> =
                (0..plan.parallel).map(|i| prompt(decoder, plan.gen_tokens, 1000 * (repeats + repeat) + i)).collect();
            let start = Instant::now();
            for step in 0..plan.gen_tokens {
                drawn.iter().enumerate().for_each(|(i, tokens)| runner.push(i, tokens[step]));
                runner.step();
                for i in 0..plan.parallel {
                    black_box(runner.logits(i).map(crate::sampling::argmax));
                }
            }
            decode.push((plan.gen_tokens * plan.parallel) as f64 / start.elapsed().as_secs_f64());
        }
        progress(repeat + 1, repeats);
    }
    let rate = |rates: Vec<f64>| (!rates.is_empty()).then(|| Rate::of(rates));
    Ok(Report { prefill: rate(prefill), decode: rate(decode) })
}

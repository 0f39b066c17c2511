//! Completions of prompts: step, sample, decode text, until something says stop.

use crate::runner::{RunError, Runner};
use crate::sampling::{InvalidSampling, Sampling, sample};
use model::Decoder;
use std::time::{Duration, Instant};
use tensor::{Device, KvFormat};

/// How to complete.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens at most.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Tokens that end a completion; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Cache format.
    pub kv: KvFormat,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was chosen, or the caller asked to stop.
    Stop,
    /// The limit of tokens was reached.
    Length,
}

impl Finish {
    /// `stop` or `length`, as in the OpenAI API.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// One completion.
#[derive(Clone, Debug)]
pub struct Generation {
    /// New tokens.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// From the start to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// Why nothing was generated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GenerateError {
    /// The sequence does not fit.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
}

/// Completes one prompt, calling `on_token` with each new token; it returns false to stop.
///
/// # Errors
/// Sampling parameters out of range; a prompt that is empty, too long or outside the vocabulary.
pub fn generate(
    decoder: &Decoder,
    device: &mut Device,
    prompt: &[u32],
    options: &Options,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<Generation, GenerateError> {
    options.sampling.validate()?;
    let start = Instant::now();
    let mut runner = Runner::new(decoder, device, options.kv, &[prompt.to_vec()], options.max_tokens)?;
    let mut first = None;
    let mut tokens = Vec::new();
    let mut finish = Finish::Length;
    while tokens.len() < options.max_tokens && runner.step() {
        let Some(logits) = runner.logits(0) else { continue };
        let position = runner.tokens(0).len() as u64;
        let token = sample(logits, &options.sampling, 0, position);
        first.get_or_insert_with(Instant::now);
        if options.stop_tokens.contains(&token) {
            finish = Finish::Stop;
            break;
        }
        tokens.push(token);
        runner.push(0, token);
        if !on_token(token) {
            finish = Finish::Stop;
            break;
        }
    }
    let first = first.unwrap_or_else(Instant::now);
    Ok(Generation { tokens, finish, prefill: first - start, decode: first.elapsed() })
}

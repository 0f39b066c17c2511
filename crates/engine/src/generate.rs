//! Completions of prompts, in tokens: step, sample, until something says stop.

use crate::runner::{RunError, Runner};
use crate::sampling::{InvalidSampling, Sampling, all_finite, sample};
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

/// Why a completion failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GenerateError {
    /// The sequence does not fit.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    /// The model's arithmetic overflowed, so there is nothing to choose by.
    #[error(
        "the logits at position {position} are not finite numbers: values overflow in this model, or in the format of its weights. \
         Choose a wider format; if f32 fails too, the weights themselves are broken"
    )]
    NotFinite {
        /// Position of the token that was to be chosen.
        position: u64,
    },
}

/// Completes one prompt, calling `on_token` with each new token; it returns false to stop.
///
/// # Errors
/// Sampling parameters out of range; a prompt that is empty, too long or outside the vocabulary; logits that are not finite.
pub fn generate(
    decoder: &Decoder,
    device: &mut Device,
    prompt: &[u32],
    options: &Options,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<Generation, GenerateError> {
    let mut runner = Runner::new(decoder, device, options.kv, &[prompt.to_vec()], options.max_tokens)?;
    complete(&mut runner, options, on_token)
}

/// Completes the first sequence of a runner that has room for it, computing only what is not computed yet.
///
/// # Errors
/// Sampling parameters out of range; logits that are not finite.
pub fn complete(
    runner: &mut Runner<'_>,
    options: &Options,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<Generation, GenerateError> {
    options.sampling.validate()?;
    let start = Instant::now();
    let mut first = None;
    let mut tokens = Vec::new();
    let mut finish = Finish::Length;
    while tokens.len() < options.max_tokens && runner.step() {
        let Some(logits) = runner.logits(0) else { continue };
        let position = runner.tokens(0).len() as u64;
        if !all_finite(logits) {
            return Err(GenerateError::NotFinite { position });
        }
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

//! What is asked of the engine.

use crate::live::handle::Rejected;
use crate::sampling::Sampling;
use std::time::Duration;

/// One prompt and what to do with it.
#[derive(Clone, Debug)]
pub struct Job {
    /// Token ids; at least one, all below the vocabulary's size.
    pub prompt: Vec<u32>,
    /// Completions of it, at least 1; they share the prompt's blocks. Choice `i` is drawn with the noise of choice `i`.
    pub choices: u32,
    /// Tokens of each completion at most. 0: only what `prompt_outputs` says is computed.
    pub max_tokens: u32,
    /// End-of-text tokens cannot be chosen, and stop strings do not count, before there are so many.
    pub min_tokens: u32,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// What makes tokens less likely that were there before.
    pub penalties: Penalties,
    /// Added to the logits of these tokens before anything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// Strings that end a completion; they and what follows are not part of its text.
    pub stop: Vec<String>,
    /// Tokens that end a completion besides the model's own end-of-text; they are not part of its text.
    pub stop_tokens: Vec<u32>,
    /// The model's end-of-text tokens do not end a completion.
    pub ignore_eos: bool,
    /// Special tokens are part of the text.
    pub show_special: bool,
    /// The logarithm of each chosen token's probability, with so many of the most probable ones.
    pub logprobs: Option<u32>,
    /// What is wanted of the prompt itself.
    pub prompt_outputs: Option<PromptOutputs>,
    /// What the text must look like.
    pub grammar: Option<crate::grammar::Grammar>,
    /// Higher goes first.
    pub priority: i32,
    /// It ends after this time whether or not it is done.
    pub deadline: Option<Duration>,
    /// Whose it is: cache blocks are shared only among jobs of the same salt.
    pub salt: u128,
}

impl Job {
    /// Greedy, one choice, no wishes.
    pub fn new(prompt: Vec<u32>, max_tokens: u32) -> Self {
        Self {
            prompt,
            choices: 1,
            max_tokens,
            min_tokens: 0,
            sampling: Sampling::default(),
            penalties: Penalties::default(),
            logit_bias: Vec::new(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            show_special: false,
            logprobs: None,
            prompt_outputs: None,
            grammar: None,
            priority: 0,
            deadline: None,
            salt: 0,
        }
    }

    /// Checks what neither the scheduler checks nor [`crate::logits::Processors`].
    ///
    /// # Errors
    /// The first that is out of its range.
    pub(super) fn check(&self, vocab: usize) -> Result<(), Rejected> {
        if let Some(&token) = self.prompt.iter().find(|&&token| token as usize >= vocab) {
            return Err(Rejected::Token { token, vocab });
        }
        if self.choices == 0 {
            return Err(Rejected::NoChoices);
        }
        Ok(self.sampling.validate()?)
    }

    /// Events that can come of it: the prompt's, one for each token, and for each choice the rest of its text and its end; a failure.
    pub(super) fn most_events(&self) -> usize {
        2 + self.choices as usize * (self.max_tokens as usize + 2)
    }
}

/// What makes a token less likely that was there before (OpenAI's frequency and presence penalties count generated tokens;
/// the repetition penalty of CTRL, arXiv 1909.05858, counts the prompt's too).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Subtracted from a token's logit for each time it was generated.
    pub frequency: f32,
    /// Subtracted from a token's logit once if it was generated.
    pub presence: f32,
    /// Divides positive logits and multiplies negative ones of tokens in the prompt or the completion; 1: none.
    pub repetition: f32,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { frequency: 0.0, presence: 0.0, repetition: 1.0 }
    }
}

/// What is wanted of the prompt's own positions. The prompt takes no prefix from the cache then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptOutputs {
    /// The logarithm of each prompt token's probability, with so many of the most probable tokens.
    Logprobs(u32),
    /// One vector for the prompt, of unit length.
    Embedding(Pooling),
}

/// How hidden states (after the final norm) become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean over all positions.
    Mean,
    /// That of the last position.
    Last,
}

//! Which tokens may come next: texts bound to a grammar.
//!
//! A [`Compiler`] turns a [`Source`] into a [`Grammar`] once for each job; each choice clones it and walks its own way. `llguidance`
//! does the parsing. Tokens are never forced: a mask allows every token whose bytes lead on to some text of the grammar, so the model
//! decides how a text is cut into tokens, as it does without a grammar.

mod compiler;
mod source;
mod vocabulary;

pub use compiler::Compiler;
pub use source::{Calls, Function, Source};

use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;
use std::time::Duration;

/// Why a grammar cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The source is longer than is compiled.
    #[error("the {kind} is {bytes} bytes long, but at most {limit} are compiled: shorten it")]
    TooLarge {
        /// What kind of source.
        kind: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// The source nests deeper than is compiled.
    #[error("the {kind} nests deeper than {limit} levels: flatten it")]
    TooDeep {
        /// What kind of source.
        kind: &'static str,
        /// The deepest allowed.
        limit: usize,
    },
    /// Compiling took too long.
    #[error("the {kind} could not be compiled within {} s: simplify it", .limit.as_secs())]
    TooSlow {
        /// What kind of source.
        kind: &'static str,
        /// The time allowed.
        limit: Duration,
    },
    /// As many grammars as are compiled at once have not come to an end.
    #[error("{running} grammars are being compiled already: try again later")]
    Busy {
        /// How many.
        running: usize,
    },
    /// The source is wrong, asks for what is not supported, or is too complex.
    #[error("the {kind} cannot be compiled: {message}")]
    Invalid {
        /// What kind of source.
        kind: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The grammar cannot go on, after it was compiled: its states are too many to follow, or a token was none that it allowed.
    #[error("the grammar cannot be followed any further: {0}")]
    Stuck(String),
}

/// What a mask leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// At least one token.
    Some,
    /// None: the text is complete, and no token would end it.
    Nothing,
}

/// A compiled grammar and how far a text has come in it. Clones go on by themselves.
#[derive(Clone)]
pub struct Grammar {
    parser: TokenParser,
}

impl Grammar {
    fn new(mut parser: TokenParser) -> Self {
        parser.start_without_prompt();
        Self { parser }
    }

    /// Sets the logits of all tokens that may not come next to minus infinity. `ends` are the tokens that would end the text: they are
    /// allowed exactly where it may end. `logits` may have more entries than there are tokens; those are never allowed.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`] if following the grammar takes more states than are allowed for one token, or no token fits.
    pub fn mask(&mut self, logits: &mut [f32], ends: &[u32]) -> Result<Allowed, GrammarError> {
        let may_end = self.may_end()?;
        let kept: Vec<f32> = ends.iter().map(|&end| logits[end as usize]).collect();
        let mut allowed = Allowed::Nothing;
        match self.next_tokens()? {
            Some(mask) => {
                allowed = Allowed::Some;
                let known = mask.len().min(logits.len());
                logits[known..].fill(f32::NEG_INFINITY);
                mask.iter_unset_entries(|token| {
                    if let Some(logit) = logits.get_mut(token) {
                        *logit = f32::NEG_INFINITY;
                    }
                });
            }
            None if may_end => logits.fill(f32::NEG_INFINITY),
            None => return Err(GrammarError::Stuck("no token fits".into())),
        }
        if may_end && !ends.is_empty() {
            ends.iter().zip(kept).for_each(|(&end, logit)| logits[end as usize] = logit);
            allowed = Allowed::Some;
        }
        Ok(allowed)
    }

    /// The tokens that go on; `None` if there are none.
    fn next_tokens(&mut self) -> Result<Option<SimpleVob>, GrammarError> {
        if self.is_complete() {
            return Ok(None);
        }
        match contained(|| self.parser.compute_mask()) {
            Ok(mask) => Ok(Some(mask)),
            Err(_) if self.is_complete() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes on by a token that the last mask allowed, and that is no end.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`] if the token does not fit.
    pub fn push(&mut self, token: u32) -> Result<(), GrammarError> {
        contained(|| {
            self.parser.consume_token(token)?;
            self.parser.check_stop()
        })
        .map(|_| ())
    }

    /// Whether nothing may follow.
    pub fn is_complete(&self) -> bool {
        matches!(self.parser.stop_reason(), StopReason::NoExtension | StopReason::NoExtensionBias)
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`] after another error.
    pub fn may_end(&mut self) -> Result<bool, GrammarError> {
        contained(|| Ok(self.parser.is_accepting()))
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("stop_reason", &self.parser.stop_reason()).finish_non_exhaustive()
    }
}

/// Runs a step of the parser. Panics in it are errors too: a grammar comes from outside and harms nobody but its own text.
fn contained<T>(step: impl FnOnce() -> anyhow::Result<T>) -> Result<T, GrammarError> {
    let done = llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(step));
    done.map_err(|error| GrammarError::Stuck(sentence(&error)))
}

/// What `llguidance` says, with its causes, without dumps of its state and excerpts of the source.
fn sentence(error: &anyhow::Error) -> String {
    const LONGEST: usize = 400;
    let causes = error.chain().map(|cause| cause.to_string().lines().next().unwrap_or_default().to_string());
    let mut causes: Vec<String> = causes.collect();
    causes.dedup();
    causes.join(": ").chars().take(LONGEST).collect()
}

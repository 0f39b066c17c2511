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

use llguidance::Matcher;
use llguidance::api::StopReason;
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
    /// None: the text is complete and can only end, or nothing can follow.
    Nothing,
}

/// A compiled grammar and how far a text has come in it. Clones go on by themselves.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
}

impl Grammar {
    /// Sets the logits of all tokens that may not come next to minus infinity. `ends` are the tokens that would end the text: they are
    /// allowed exactly where it may end. `logits` may have more entries than there are tokens; those are never allowed.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`] if following the grammar takes more states than are allowed for one token.
    pub fn mask(&mut self, logits: &mut [f32], ends: &[u32]) -> Result<Allowed, GrammarError> {
        let kept = self.may_end()?.then(|| ends.iter().map(|&end| (end, logits[end as usize])).collect::<Vec<_>>());
        let mut allowed = Allowed::Nothing;
        if self.is_complete() {
            logits.fill(f32::NEG_INFINITY);
        } else {
            match self.matcher.compute_mask() {
                Ok(mask) => {
                    mask.iter_unset_entries(|token| {
                        if let Some(logit) = logits.get_mut(token) {
                            *logit = f32::NEG_INFINITY;
                        }
                    });
                    let known = mask.len().min(logits.len());
                    logits[known..].fill(f32::NEG_INFINITY);
                    allowed = Allowed::Some;
                }
                Err(_) if self.is_complete() => logits.fill(f32::NEG_INFINITY),
                Err(error) => return Err(stuck(&error)),
            }
        }
        for (end, logit) in kept.into_iter().flatten() {
            logits[end as usize] = logit;
            allowed = Allowed::Some;
        }
        Ok(allowed)
    }

    /// Goes on by a token that the last mask allowed, and that is no end.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`] if the token does not fit.
    pub fn push(&mut self, token: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(token).map_err(|error| stuck(&error))
    }

    /// Whether the text is complete and nothing may follow.
    pub fn is_complete(&self) -> bool {
        matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::NoExtensionBias)
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`] after another error.
    pub fn may_end(&mut self) -> Result<bool, GrammarError> {
        self.matcher.is_accepting().map_err(|error| stuck(&error))
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("stop_reason", &self.matcher.stop_reason()).finish_non_exhaustive()
    }
}

fn stuck(error: &impl std::fmt::Display) -> GrammarError {
    GrammarError::Stuck(first_line(error))
}

/// What `llguidance` says, without the dump of its state that follows.
fn first_line(error: &impl std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

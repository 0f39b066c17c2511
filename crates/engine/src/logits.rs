//! What a job does to logits between the model and the sampler.

use crate::grammar::{Allowed, Grammar, GrammarError};
use crate::live::{Job, Penalties};
use std::collections::HashMap;

/// What a job asks for, the same for all its choices. In order: bias, repetition penalty, frequency and presence penalties, no end of
/// text before `min_tokens`, grammar.
#[derive(Clone, Debug)]
pub struct Processors {
    /// Added to tokens, one after the other.
    bias: Vec<(u32, f32)>,
    penalties: Penalties,
    /// Tokens that end a choice.
    ends: Vec<u32>,
    min_tokens: u32,
    /// The prompt's distinct tokens, if they count for anything.
    prompt: Vec<u32>,
    grammar: Option<Grammar>,
    vocabulary: usize,
}

/// A wish that cannot be granted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidProcessors {
    /// A number outside of its range.
    #[error("{name} is {value}, but it must be {allowed}")]
    Range {
        /// Which.
        name: &'static str,
        /// What it is.
        value: f32,
        /// What it may be.
        allowed: &'static str,
    },
    /// A token that the model does not have.
    #[error("{name} names token {token}, but the vocabulary has {vocabulary} tokens, from 0")]
    Token {
        /// Where.
        name: &'static str,
        /// Which.
        token: u32,
        /// How many there are.
        vocabulary: usize,
    },
}

impl Processors {
    /// Takes a job's wishes. `eos` are the model's end-of-text tokens, `vocabulary` is the length of a row of logits. The prompt's tokens
    /// must be below it.
    ///
    /// # Errors
    /// A number outside of its range, a token that does not exist.
    pub fn new(job: &Job, eos: &[u32], vocabulary: usize) -> Result<Self, InvalidProcessors> {
        let known = |name, token: u32| {
            if (token as usize) < vocabulary {
                Ok(())
            } else {
                Err(InvalidProcessors::Token { name, token, vocabulary })
            }
        };
        for &(token, value) in &job.logit_bias {
            known("logit_bias", token)?;
            check((-100.0..=100.0).contains(&value), "logit_bias", value, "between -100 and 100")?;
        }
        job.stop_tokens.iter().try_for_each(|&token| known("stop_tokens", token))?;
        let Penalties { frequency, presence, repetition } = job.penalties;
        check((-100.0..=100.0).contains(&frequency), "frequency_penalty", frequency, "between -100 and 100")?;
        check((-100.0..=100.0).contains(&presence), "presence_penalty", presence, "between -100 and 100")?;
        check((0.01..=100.0).contains(&repetition), "repetition_penalty", repetition, "between 0.01 and 100")?;
        let eos = eos.iter().filter(|&&token| !job.ignore_eos && (token as usize) < vocabulary);
        Ok(Self {
            bias: job.logit_bias.clone(),
            penalties: job.penalties,
            ends: distinct(eos.chain(&job.stop_tokens)),
            min_tokens: job.min_tokens,
            prompt: if repetition == 1.0 { Vec::new() } else { distinct(&job.prompt) },
            grammar: job.grammar.clone(),
            vocabulary,
        })
    }

    /// The length of a row of logits.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The state of a choice that has no token yet.
    pub fn start(&self) -> State {
        let seen = self.prompt.iter().map(|&token| Seen { token, generated: 0 }).collect();
        let places = self.prompt.iter().enumerate().map(|(place, &token)| (token, place)).collect();
        State {
            seen,
            places,
            generated: 0,
            counts: self.penalties != Penalties::default(),
            grammar: self.grammar.clone(),
        }
    }

    /// The tokens that end a choice: the model's unless they are ignored, and the job's.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether [`Self::apply`] would change nothing, now and later in the same choice.
    pub fn is_neutral(&self, state: &State) -> bool {
        self.bias.is_empty() && !state.counts && state.generated >= self.min_tokens && self.grammar.is_none()
    }

    /// Changes the logits `[vocabulary]` of a choice's next token; those of tokens that may not come become minus infinity. If nothing is
    /// allowed, the choice is complete.
    ///
    /// Costs as much as there are biased and distinct tokens, and a pass over the vocabulary only for a grammar.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`]: the grammar cannot be followed any further.
    pub fn apply(&self, logits: &mut [f32], state: &mut State) -> Result<Allowed, GrammarError> {
        for &(token, bias) in &self.bias {
            logits[token as usize] += bias;
        }
        let Penalties { frequency, presence, repetition } = self.penalties;
        for &Seen { token, generated } in &state.seen {
            let logit = &mut logits[token as usize];
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if generated > 0 {
                *logit -= generated as f32 * frequency + presence;
            }
        }
        let mut ends = self.ends.as_slice();
        if state.generated < self.min_tokens {
            ends.iter().for_each(|&end| logits[end as usize] = f32::NEG_INFINITY);
            ends = &[];
        }
        match &mut state.grammar {
            Some(grammar) => grammar.mask(logits, ends),
            None => Ok(Allowed::Some),
        }
    }
}

/// How far a choice has come: what it generated, and its place in the grammar.
#[derive(Clone, Debug)]
pub struct State {
    /// Distinct tokens of prompt and choice that count.
    seen: Vec<Seen>,
    /// Where in `seen` a token is.
    places: HashMap<u32, usize>,
    /// Tokens generated.
    generated: u32,
    /// Whether a penalty wants to know what was there.
    counts: bool,
    grammar: Option<Grammar>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    token: u32,
    /// Times it was generated.
    generated: u32,
}

impl State {
    /// Goes on by a chosen token that does not end the choice.
    ///
    /// # Errors
    /// [`GrammarError::Stuck`] if it is none that the grammar allowed.
    pub fn push(&mut self, token: u32) -> Result<(), GrammarError> {
        self.generated += 1;
        if self.counts {
            let seen = &mut self.seen;
            let place = *self.places.entry(token).or_insert_with(|| {
                seen.push(Seen { token, generated: 0 });
                seen.len() - 1
            });
            seen[place].generated += 1;
        }
        self.grammar.as_mut().map_or(Ok(()), |grammar| grammar.push(token))
    }

    /// Whether there is a grammar, and nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.grammar.as_ref().is_some_and(Grammar::is_complete)
    }
}

fn check(ok: bool, name: &'static str, value: f32, allowed: &'static str) -> Result<(), InvalidProcessors> {
    if ok { Ok(()) } else { Err(InvalidProcessors::Range { name, value, allowed }) }
}

fn distinct<'a>(tokens: impl IntoIterator<Item = &'a u32>) -> Vec<u32> {
    let mut tokens: Vec<u32> = tokens.into_iter().copied().collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOCABULARY: usize = 8;
    const LOGITS: [f32; VOCABULARY] = [1.5, -2.25, 0.0, 3.0, 0.75, -0.5, 4.0, -1.0];

    fn job(prompt: &[u32]) -> Job {
        Job::new(prompt.to_vec(), 100)
    }

    fn applied(job: &Job, eos: &[u32], generated: &[u32]) -> Vec<f32> {
        let processors = Processors::new(job, eos, VOCABULARY).unwrap();
        let mut state = processors.start();
        generated.iter().for_each(|&token| state.push(token).unwrap());
        let mut logits = LOGITS.to_vec();
        assert_eq!(processors.apply(&mut logits, &mut state).unwrap(), Allowed::Some);
        assert!(!processors.is_neutral(&state) || logits == LOGITS);
        logits
    }

    /// What `RepetitionPenaltyLogitsProcessor` of transformers 5.23.0 makes of these logits after the tokens 3, 0, 3, 5, 1.
    #[test]
    fn repetition_is_that_of_transformers() {
        let references = [
            (
                1.3,
                [1.1538461446762085, -2.924999952316284, 0.0, 2.307692289352417, 0.75, -0.6499999761581421, 4.0, -1.0],
            ),
            (0.8, [1.875, -1.8000000715255737, 0.0, 3.75, 0.75, -0.4000000059604645, 4.0, -1.0]),
        ];
        for (repetition, expected) in references {
            for split in 0..=5 {
                let (prompt, generated) = [3, 0, 3, 5, 1].split_at(split);
                let job = Job { penalties: Penalties { repetition, ..Penalties::default() }, ..job(prompt) };
                let expected: [f32; VOCABULARY] = expected.map(|x: f64| x as f32);
                assert_eq!(applied(&job, &[], generated), expected, "{split} tokens in the prompt");
            }
        }
    }

    proptest! {
        /// OpenAI's formula, `mu - c * frequency - [c > 0] * presence`, by counting anew; the prompt does not count.
        #[test]
        fn frequency_and_presence_follow_their_formula(
            prompt in proptest::collection::vec(0..8u32, 1..10),
            generated in proptest::collection::vec(0..8u32, 0..40),
            (frequency, presence) in (-2f32..2.0, -2f32..2.0),
        ) {
            let job = Job { penalties: Penalties { frequency, presence, repetition: 1.0 }, ..job(&prompt) };
            for (token, (&before, after)) in LOGITS.iter().zip(applied(&job, &[], &generated)).enumerate() {
                let count = generated.iter().filter(|&&t| t as usize == token).count() as f32;
                let expected = before - count * frequency - if count > 0.0 { presence } else { 0.0 };
                prop_assert!((after - expected).abs() < 1e-4, "{token}: {after}, not {expected}");
            }
        }

        /// Penalties of everything together equal penalties one after the other on biased logits.
        #[test]
        fn order_is_bias_repetition_counts(generated in proptest::collection::vec(0..8u32, 0..10), bias in -5f32..5.0) {
            let penalties = Penalties { frequency: 0.5, presence: 0.25, repetition: 1.5 };
            let job = Job { penalties, logit_bias: vec![(2, bias)], ..job(&[6]) };
            let logits = applied(&job, &[], &generated);
            for token in 0..VOCABULARY {
                let mut expected = LOGITS[token] + if token == 2 { bias } else { 0.0 };
                let count = generated.iter().filter(|&&t| t as usize == token).count() as f32;
                if count > 0.0 || token == 6 {
                    expected = if expected > 0.0 { expected / 1.5 } else { expected * 1.5 };
                }
                expected -= count * 0.5 + if count > 0.0 { 0.25 } else { 0.0 };
                prop_assert!((logits[token] - expected).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn ends_are_banned_until_there_are_enough_tokens() {
        let job = Job { min_tokens: 2, stop_tokens: vec![4], ..job(&[1]) };
        for generated in 0..4 {
            let logits = applied(&job, &[7], &[0, 0, 0][..generated.min(3)]);
            for token in 0..VOCABULARY {
                let is_banned = generated < 2 && [4, 7].contains(&token);
                assert_eq!(logits[token], if is_banned { f32::NEG_INFINITY } else { LOGITS[token] });
            }
        }
        let ignoring = Job { ignore_eos: true, ..job };
        assert_eq!(applied(&ignoring, &[7], &[])[7], LOGITS[7], "no end any more");
        assert_eq!(Processors::new(&ignoring, &[7], VOCABULARY).unwrap().ends(), [4]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |job: Job| Processors::new(&job, &[], VOCABULARY).unwrap_err().to_string();
        assert!(refused(Job { logit_bias: vec![(8, 0.0)], ..job(&[0]) }).contains("token 8"));
        assert!(refused(Job { stop_tokens: vec![u32::MAX], ..job(&[0]) }).contains("stop_tokens"));
        for value in [f32::NAN, f32::INFINITY, 1e30, -101.0] {
            assert!(refused(Job { logit_bias: vec![(0, value)], ..job(&[0]) }).contains("logit_bias"));
            let penalties = [
                Penalties { frequency: value, ..Penalties::default() },
                Penalties { presence: value, ..Penalties::default() },
                Penalties { repetition: value, ..Penalties::default() },
            ];
            for penalties in penalties {
                assert!(refused(Job { penalties, ..job(&[0]) }).contains("penalty"));
            }
        }
        assert!(
            refused(Job { penalties: Penalties { repetition: 0.0, ..Penalties::default() }, ..job(&[0]) })
                .contains("0.01")
        );
    }

    #[test]
    fn neutral_is_neutral() {
        let processors = Processors::new(&job(&[1, 2]), &[7], VOCABULARY).unwrap();
        let mut state = processors.start();
        assert!(processors.is_neutral(&state));
        state.push(3).unwrap();
        assert!(processors.is_neutral(&state) && !state.is_complete());
    }
}

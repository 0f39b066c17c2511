//! One completion while it is made: its next token, its text, where it stops.

use crate::live::event::{Event, Scored, Stopped};
use crate::live::job::{Job, Pooling, PromptOutputs};
use crate::live::stats::{Pace, Stats};
use crate::live::step::Wanted;
use crate::sampling::{all_finite, sample};
use crate::stop::StopStrings;
use batch::{Chunk, RequestId};
use std::sync::Arc;
use std::time::Instant;
use tensor::Tensor;
use text::{DecodeOptions, Tokenizer};

/// A completion. It only goes forward: tokens are pushed once they are certain.
pub(super) struct Choice {
    pub request: RequestId,
    /// Which job it belongs to, and its index there.
    pub owner: u64,
    pub index: u32,
    pace: Pace,
    /// Why it completed, once it has.
    pub stopped: Option<Stopped>,
    /// Why it failed, if it has.
    pub failure: Option<String>,
    job: Arc<Job>,
    prompt: Option<Prompt>,
    generated: u32,
    /// `None` when all text has been given.
    text: Option<(text::Decoder, StopStrings)>,
    new_tokens: Vec<Scored>,
    new_text: String,
}

/// What is wanted of the prompt, as far as it is computed.
enum Prompt {
    Scores(Vec<Scored>),
    /// The sum of so many hidden states.
    Embedding(Pooling, Vec<f64>),
}

impl Choice {
    pub fn new(request: RequestId, owner: u64, index: u32, job: &Arc<Job>, tokenizer: &Tokenizer, at: Instant) -> Self {
        let prompt = job.prompt_outputs.filter(|_| index == 0).map(|outputs| match outputs {
            PromptOutputs::Logprobs(_) => Prompt::Scores(Vec::with_capacity(job.prompt.len())),
            PromptOutputs::Embedding(pooling) => Prompt::Embedding(pooling, Vec::new()),
        });
        let options = DecodeOptions { skip_special: !job.show_special, continues: true };
        Self {
            request,
            owner,
            index,
            pace: Pace::new(at),
            stopped: None,
            failure: None,
            prompt,
            generated: 0,
            text: Some((tokenizer.decoder(options), StopStrings::new(job.stop.clone()))),
            new_tokens: Vec::new(),
            new_text: String::new(),
            job: job.clone(),
        }
    }

    /// The rows of a chunk whose results it needs.
    pub fn wanted(&self, chunk: &Chunk) -> Wanted {
        match &self.prompt {
            Some(Prompt::Scores(_)) => Wanted { logits: chunk.outputs, hidden: 0 },
            Some(Prompt::Embedding(..)) => Wanted { logits: chunk.samples, hidden: chunk.outputs },
            None => Wanted { logits: chunk.samples, hidden: 0 },
        }
    }

    /// Takes the hidden states of a chunk's last rows, and gives the embedding if those were the prompt's last.
    pub fn take_hidden<'a>(&mut self, chunk: &Chunk, rows: impl Iterator<Item = &'a [f32]>) -> Option<Event> {
        let Some(Prompt::Embedding(pooling, sum)) = &mut self.prompt else { return None };
        for row in rows {
            // Sums over positions in order: the same whatever the chunks were.
            if sum.is_empty() || *pooling == Pooling::Last {
                *sum = vec![0.0; row.len()];
            }
            sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        if ((chunk.position + chunk.len) as usize) < self.job.prompt.len() {
            return None;
        }
        let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        if !norm.is_finite() {
            self.failure = Some(NOT_FINITE.into());
            return None;
        }
        let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        let embedding = sum.iter().map(|x| (x * scale) as f32).collect();
        self.prompt = None;
        Some(Event::Embedding(embedding))
    }

    /// Takes the logits of a chunk's last rows, and gives the prompt's scores if those were its last.
    pub fn take_prompt_logits(&mut self, chunk: &Chunk, logits: &Tensor, first: usize) -> Option<Event> {
        let Some(Prompt::Scores(scores)) = &mut self.prompt else { return None };
        let _ = (logits, first);
        let from = chunk.position + chunk.len - chunk.outputs;
        for position in from..chunk.position + chunk.len {
            if position == 0 {
                scores.push(Scored { token: self.job.prompt[0], logprob: None, top: Vec::new() });
            }
            if let Some(&token) = self.job.prompt.get(position as usize + 1) {
                scores.push(Scored { token, logprob: None, top: Vec::new() });
            }
        }
        if scores.len() < self.job.prompt.len() {
            return None;
        }
        let scores = std::mem::take(scores);
        self.prompt = None;
        Some(Event::Prompt(scores))
    }

    /// The token at `position` by these logits, as plain decoding would choose it.
    ///
    /// # Errors
    /// Logits that are not finite: there is nothing to choose by.
    pub fn choose(&mut self, logits: &[f32], position: u64) -> Result<Scored, String> {
        if !all_finite(logits) {
            return Err(NOT_FINITE.into());
        }
        let token = sample(logits, &self.job.sampling, self.index.into(), position);
        Ok(Scored { token, logprob: None, top: Vec::new() })
    }

    /// What the draft model proposes for `position`, by the same noise.
    pub fn propose(&self, logits: &[f32], position: u64) -> u32 {
        // A proposal of no sense is merely not accepted.
        if all_finite(logits) { sample(logits, &self.job.sampling, self.index.into(), position) } else { 0 }
    }

    /// Goes on with a token. Returns whether it ends the completion; [`Choice::stopped`] then says why.
    pub fn push(&mut self, token: Scored, tokenizer: &Tokenizer) -> bool {
        let id = token.token;
        self.generated += 1;
        let ends = self.job.stop_tokens.contains(&id) || (!self.job.ignore_eos && tokenizer.eos().contains(&id));
        if ends {
            self.stopped = Some(Stopped::Token(id));
            return true;
        }
        self.new_tokens.push(token);
        let Some((decoder, stops)) = &mut self.text else { return false };
        // An id that the tokeniser does not know is padding of the model's vocabulary: it has no text.
        let piece = decoder.push(tokenizer, id).unwrap_or_default();
        if self.generated < self.job.min_tokens {
            self.new_text.push_str(&piece);
            return false;
        }
        self.new_text.push_str(&stops.push(&piece));
        self.stopped = stops.which().map(|stop| Stopped::String(stop.into()));
        self.stopped.is_some()
    }

    /// Counts what has come until now.
    pub fn note_pace(&mut self, now: Instant, stats: &mut Stats) {
        self.pace.note(self.generated, now, stats);
    }

    /// Counts the completion, which has ended.
    pub fn note_end(&mut self, now: Instant, stats: &mut Stats) {
        self.note_pace(now, stats);
        self.pace.end(stats);
    }

    /// The completion has ended: what was held back of its text is text after all.
    pub fn finish_text(&mut self) {
        if let Some((decoder, mut stops)) = self.text.take() {
            self.new_text.push_str(&stops.push(&decoder.finish()));
            self.new_text.push_str(&stops.finish());
        }
    }

    /// What is new since the last call, and how many tokens.
    pub fn take_delta(&mut self) -> Option<Event> {
        if self.new_tokens.is_empty() && self.new_text.is_empty() {
            return None;
        }
        let (tokens, text) = (std::mem::take(&mut self.new_tokens), std::mem::take(&mut self.new_text));
        Some(Event::Delta { choice: self.index, tokens, text })
    }
}

const NOT_FINITE: &str =
    "the model's outputs are not finite numbers: values overflow in this model, or in the format of its weights";

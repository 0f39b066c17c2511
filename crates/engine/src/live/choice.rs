//! One completion while it is made: its next token, its text, where it stops.

use crate::grammar::Allowed;
use crate::live::event::{Event, Scored, Stopped};
use crate::live::job::{Job, Pooling, PromptOutputs};
use crate::live::stats::{Pace, Stats};
use crate::live::step::Wanted;
use crate::logits::{Processors, State};
use crate::sampling::{all_finite, sample};
use crate::scores::score;
use crate::stop::StopStrings;
use crate::typical;
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
    task: Arc<Task>,
    state: State,
    /// The state after what the draft model proposed since the last certain token, where anything processes logits.
    ahead: Option<State>,
    prompt: Option<Prompt>,
    generated: u32,
    /// `None` when all text has been given.
    text: Option<(text::Decoder, StopStrings)>,
    new_tokens: Vec<Scored>,
    new_text: String,
}

/// What the choices of a job have in common.
pub(super) struct Task {
    pub job: Job,
    pub processors: Processors,
}

/// What choosing needs besides the choice: the same for all.
#[derive(Default)]
pub(super) struct Desk {
    /// Threshold of lenient acceptance; `None`: exact.
    typical: Option<f32>,
    /// One row of logits `[vocab]`, to be changed.
    scratch: Vec<f32>,
}

impl Desk {
    pub fn new(typical: Option<f32>) -> Self {
        Self { typical, scratch: Vec::new() }
    }
}

/// What is wanted of the prompt, as far as it is computed.
enum Prompt {
    Scores(Vec<Scored>),
    /// The sum of so many hidden states.
    Embedding(Pooling, Vec<f64>),
}

impl Choice {
    pub fn new(
        request: RequestId,
        owner: u64,
        index: u32,
        task: &Arc<Task>,
        tokenizer: &Tokenizer,
        at: Instant,
    ) -> Self {
        let job = &task.job;
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
            state: task.processors.start(),
            ahead: None,
            task: task.clone(),
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
        if ((chunk.position + chunk.len) as usize) < self.task.job.prompt.len() {
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

    /// Takes the logits of a chunk's last rows, which begin at row `first`, and gives the prompt's scores if those were its last.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn take_prompt_logits(
        &mut self,
        chunk: &Chunk,
        logits: &Tensor,
        first: usize,
    ) -> Result<Option<Event>, String> {
        let (Some(Prompt::Scores(scores)), job) = (&mut self.prompt, &self.task.job) else { return Ok(None) };
        let Some(PromptOutputs::Logprobs(top)) = job.prompt_outputs else { return Ok(None) };
        if scores.is_empty() {
            scores.push(Scored { token: job.prompt[0], logprob: None, top: Vec::new() });
        }
        let from = (chunk.position + chunk.len - chunk.outputs) as usize;
        for (row, &token) in (first..).zip(job.prompt.iter().skip(from + 1)).take(chunk.outputs as usize) {
            if !all_finite(logits.row(row)) {
                return Err(NOT_FINITE.into());
            }
            scores.push(score(logits.row(row), token, top));
        }
        if scores.len() < job.prompt.len() {
            return Ok(None);
        }
        let scores = std::mem::take(scores);
        self.prompt = None;
        Ok(Some(Event::Prompt(scores)))
    }

    /// The token at `position` by these logits `[vocab]`, as plain decoding would choose it; with lenient acceptance the drafted one if it
    /// is typical. `None`: the grammar allows nothing.
    ///
    /// # Errors
    /// Logits that are not finite, so that there is nothing to choose by; a grammar that cannot be followed.
    pub fn choose(
        &mut self,
        logits: &[f32],
        position: u64,
        draft: Option<u32>,
        desk: &mut Desk,
    ) -> Result<Option<Scored>, String> {
        if !all_finite(logits) {
            return Err(NOT_FINITE.into());
        }
        let Task { job, processors } = &*self.task;
        let mut changed = logits;
        if !processors.is_neutral(&self.state) {
            desk.scratch.clear();
            desk.scratch.extend_from_slice(logits);
            let allowed = processors.apply(&mut desk.scratch, &mut self.state);
            if allowed.map_err(|error| error.to_string())? == Allowed::Nothing {
                return Ok(None);
            }
            changed = &desk.scratch;
        }
        let mut token = sample(changed, &job.sampling, self.index.into(), position);
        if let (Some(threshold), Some(draft)) = (desk.typical, draft)
            && draft != token
            && typical::accepts(changed, &job.sampling, draft, threshold)
        {
            token = draft;
        }
        let unscored = Scored { token, logprob: None, top: Vec::new() };
        Ok(Some(job.logprobs.map_or(unscored, |top| score(logits, token, top))))
    }

    /// What the draft model proposes for `position` by these logits, which may lack the vocabulary's last ones: chosen as the model's own
    /// token would be, behind what was proposed before. A proposal of no sense is merely not accepted.
    pub fn propose(&mut self, logits: &[f32], position: u64, desk: &mut Desk) -> u32 {
        if !all_finite(logits) {
            return 0;
        }
        let Task { job, processors } = &*self.task;
        if processors.is_neutral(self.ahead.as_ref().unwrap_or(&self.state)) {
            return sample(logits, &job.sampling, self.index.into(), position);
        }
        let ahead = self.ahead.get_or_insert_with(|| self.state.clone());
        desk.scratch.clear();
        desk.scratch.extend_from_slice(logits);
        desk.scratch.resize(processors.vocabulary(), f32::NEG_INFINITY);
        if !matches!(processors.apply(&mut desk.scratch, ahead), Ok(Allowed::Some)) {
            return 0;
        }
        let token = sample(&desk.scratch, &job.sampling, self.index.into(), position);
        if !processors.ends().contains(&token) {
            // Where the grammar cannot be followed, `apply` says so the next time.
            let _ = ahead.push(token);
        }
        token
    }

    /// Goes on with a token. Returns whether it ends the completion; [`Choice::stopped`] then says why.
    ///
    /// # Errors
    /// The grammar does not know the token.
    pub fn push(&mut self, token: Scored, tokenizer: &Tokenizer) -> Result<bool, String> {
        let id = token.token;
        self.generated += 1;
        self.ahead = None;
        if self.task.processors.ends().contains(&id) {
            self.stopped = Some(Stopped::Token(id));
            return Ok(true);
        }
        self.new_tokens.push(token);
        self.state.push(id).map_err(|error| error.to_string())?;
        if let Some((decoder, stops)) = &mut self.text {
            // An id that the tokeniser does not know is padding of the model's vocabulary: it has no text.
            let piece = decoder.push(tokenizer, id).unwrap_or_default();
            if self.generated < self.task.job.min_tokens {
                self.new_text.push_str(&piece);
            } else {
                self.new_text.push_str(&stops.push(&piece));
                self.stopped = stops.which().map(|stop| Stopped::String(stop.into()));
            }
        }
        if self.stopped.is_none() && self.state.is_complete() {
            self.stopped = Some(Stopped::Grammar);
        }
        Ok(self.stopped.is_some())
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

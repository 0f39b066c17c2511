//! A chat completion in chunks.

use super::answer::{CallDelta, ChatChunk, ChunkChoice, Delta, FunctionDelta};
use super::{FINGERPRINT, Head, finish};
use crate::App;
use crate::error::{ApiError, Result};
use crate::jobs::{Usage, failed, finish_name, interrupted, stop_reason};
use crate::openai::logprobs::of_chat;
use crate::request::generation::Checked;
use crate::stream::{DONE, Item, Translate};
use crate::tools::{Piece, ToolFormat, ToolParser};
use engine::live::{Event, Scored};
use std::sync::Arc;

/// Turns events into chunks.
pub struct ChatStream {
    app: Arc<App>,
    head: Head,
    checked: Checked,
    /// Told once.
    prompt: Option<Vec<u32>>,
    choices: Vec<Open>,
    usage: Usage,
}

/// A completion that goes on.
struct Open {
    begun: bool,
    ended: bool,
    parser: Option<ToolParser>,
}

impl ChatStream {
    /// Nothing was told yet.
    pub fn new(app: Arc<App>, head: Head, checked: Checked, prompt: Vec<u32>, tools: Option<ToolFormat>) -> Self {
        let open = || Open { begun: false, ended: false, parser: tools.map(ToolParser::new) };
        let choices = (0..checked.job.choices).map(|_| open()).collect();
        let mut usage = Usage::default();
        usage.add_prompt(prompt.len());
        Self { app, head, prompt: checked.token_ids.then_some(prompt), checked, choices, usage }
    }

    fn chunk(&mut self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> Item {
        let Head { id, created, model } = self.head.clone();
        Item::data(&ChatChunk {
            id,
            object: "chat.completion.chunk",
            created,
            model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: usage.or(self.checked.continuous_usage.then_some(self.usage)),
            prompt_token_ids: self.prompt.take(),
        })
    }

    /// Chunks for what is new of a completion; probabilities and ids go with the first.
    fn tell(&mut self, index: u32, mut deltas: Vec<Delta>, tokens: &[Scored], out: &mut Vec<Item>) {
        let choice = &mut self.choices[index as usize];
        let scored = self.checked.job.logprobs.is_some() && !tokens.is_empty();
        if deltas.is_empty() && (!choice.begun || scored || self.checked.token_ids && !tokens.is_empty()) {
            deltas.push(Delta { content: Some(String::new()), ..Delta::default() });
        }
        if let Some(first) = deltas.first_mut().filter(|_| !choice.begun) {
            choice.begun = true;
            first.role = Some("assistant");
        }
        for (number, delta) in deltas.into_iter().enumerate() {
            let first = number == 0;
            let logprobs = (first && scored).then(|| of_chat(self.app.engine.tokenizer(), tokens));
            let ids = || tokens.iter().map(|scored| scored.token).collect();
            let token_ids = (first && self.checked.token_ids).then(ids);
            let choice = ChunkChoice { index, delta, logprobs, finish_reason: None, stop_reason: None, token_ids };
            out.push(self.chunk(vec![choice], None));
        }
    }

    fn deltas(&self, pieces: Vec<Piece>) -> Vec<Delta> {
        let call = |index, id, name: Option<String>, arguments| {
            let kind = name.is_some().then_some("function");
            let function = FunctionDelta { name, arguments };
            Delta { tool_calls: vec![CallDelta { index, id, kind, function }], ..Delta::default() }
        };
        let delta = |piece| match piece {
            Piece::Text(text) => Delta { content: Some(text), ..Delta::default() },
            Piece::Call { index, name } => call(index, Some(self.app.fresh_id("call_")), Some(name), String::new()),
            Piece::Arguments { index, text } => call(index, None, None, text),
        };
        pieces.into_iter().map(delta).collect()
    }

    fn pieces(&mut self, index: u32, text: String) -> Vec<Piece> {
        match &mut self.choices[index as usize].parser {
            Some(parser) => parser.push(&text),
            None if text.is_empty() => Vec::new(),
            None => vec![Piece::Text(text)],
        }
    }
}

impl Translate for ChatStream {
    fn event(&mut self, _job: usize, event: Event, out: &mut Vec<Item>) -> Result<()> {
        match event {
            Event::Prompt(_) | Event::Embedding(_) => {}
            Event::Delta { choice, tokens, text } => {
                if self.checked.continuous_usage {
                    self.usage.add_tokens(tokens.len() as u64);
                }
                let pieces = self.pieces(choice, text);
                let deltas = self.deltas(pieces);
                self.tell(choice, deltas, &tokens, out);
            }
            Event::Finished { choice, finish: reason, usage } => {
                let name = finish_name(&reason)?;
                let parser = self.choices[choice as usize].parser.take();
                let called = parser.as_ref().is_some_and(|parser| parser.calls() > 0);
                let pieces = parser.map_or_else(Vec::new, ToolParser::finish);
                let deltas = self.deltas(pieces);
                self.tell(choice, deltas, &[], out);
                self.choices[choice as usize].ended = true;
                if self.checked.continuous_usage {
                    // Its tokens were counted as they came.
                    self.usage.add_choice(choice, &engine::live::Usage { generated: 0, ..usage });
                } else {
                    self.usage.add_choice(choice, &usage);
                }
                let last = ChunkChoice {
                    index: choice,
                    delta: Delta::default(),
                    logprobs: None,
                    finish_reason: Some(finish(name, called)),
                    stop_reason: stop_reason(&reason, self.app.engine.tokenizer().eos()),
                    token_ids: None,
                };
                out.push(self.chunk(vec![last], None));
            }
            Event::Failed(reason) => return Err(failed(&reason)),
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Item>) -> Result<()> {
        if self.choices.iter().any(|choice| !choice.ended) {
            return Err(interrupted());
        }
        if self.checked.include_usage {
            let usage = self.usage;
            out.push(self.chunk(Vec::new(), Some(usage)));
        }
        out.push(Item::raw(DONE));
        Ok(())
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<Item>) {
        out.push(Item::data(&error.body()));
        out.push(Item::raw(DONE));
    }
}

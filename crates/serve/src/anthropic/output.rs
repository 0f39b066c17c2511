//! A message that grows: its blocks, and what is told of each change.

use crate::App;
use crate::error::{ApiError, Result};
use crate::jobs::{failed, finish_name, interrupted};
use crate::stream::{Item, Translate};
use crate::tools::{Piece, ToolFormat, ToolParser};
use engine::live::{Event, Finish, Stopped, Usage as Spent};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A message that grows.
pub struct Output {
    app: Arc<App>,
    id: String,
    prompt: usize,
    parser: Option<ToolParser>,
    blocks: Vec<Block>,
    /// Why it ended: the reason, and the text that did it.
    stop: Option<(&'static str, Option<String>)>,
    spent: Spent,
    events: Vec<(&'static str, Value)>,
}

enum Block {
    Text(String),
    Call { id: String, name: String, arguments: String },
}

impl Block {
    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!({ "type": "text", "text": text, "citations": null }),
            Self::Call { id, name, arguments } => {
                let input: Map<String, Value> = serde_json::from_str(arguments).unwrap_or_default();
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
        }
    }
}

impl Output {
    /// Nothing was said yet.
    pub fn new(app: Arc<App>, prompt: usize, tools: Option<ToolFormat>) -> Self {
        let id = app.fresh_id("msg_");
        let parser = tools.map(ToolParser::new);
        Self { app, id, prompt, parser, blocks: Vec::new(), stop: None, spent: Spent::default(), events: Vec::new() }
    }

    fn tell(&mut self, kind: &'static str, fields: Value) {
        let mut event = Map::from_iter([("type".to_string(), Value::from(kind))]);
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        self.events.push((kind, event.into()));
    }

    /// Text came.
    pub fn push(&mut self, text: &str) {
        let pieces = match &mut self.parser {
            Some(parser) => parser.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Piece::Text(text.to_string())],
        };
        self.add(pieces);
    }

    fn add(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text(more) => {
                    if !matches!(self.blocks.last(), Some(Block::Text(_))) {
                        self.open(Block::Text(String::new()));
                    }
                    if let Some(Block::Text(text)) = self.blocks.last_mut() {
                        text.push_str(&more);
                    }
                    self.delta(json!({ "type": "text_delta", "text": more }));
                }
                Piece::Call { name, .. } => {
                    let id = self.app.fresh_id("toolu_");
                    self.open(Block::Call { id, name, arguments: String::new() });
                }
                Piece::Arguments { text, .. } => {
                    if let Some(Block::Call { arguments, .. }) = self.blocks.last_mut() {
                        arguments.push_str(&text);
                    }
                    self.delta(json!({ "type": "input_json_delta", "partial_json": text }));
                }
            }
        }
    }

    fn delta(&mut self, delta: Value) {
        let index = self.blocks.len().saturating_sub(1);
        self.tell("content_block_delta", json!({ "index": index, "delta": delta }));
    }

    fn open(&mut self, block: Block) {
        self.close();
        let json = block.json();
        self.blocks.push(block);
        self.tell("content_block_start", json!({ "index": self.blocks.len() - 1, "content_block": json }));
    }

    fn close(&mut self) {
        if let Some(index) = self.blocks.len().checked_sub(1) {
            self.tell("content_block_stop", json!({ "index": index }));
        }
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// The engine broke off.
    pub fn finish(&mut self, finish: &Finish, spent: &Spent) -> Result<()> {
        let name = finish_name(finish)?;
        let called = self.parser.as_ref().is_some_and(|parser| parser.calls() > 0);
        let pieces = self.parser.take().map_or_else(Vec::new, ToolParser::finish);
        self.add(pieces);
        self.close();
        self.spent = *spent;
        self.stop = Some(match finish {
            Finish::Stop(Stopped::String(text)) => ("stop_sequence", Some(text.clone())),
            _ if name == "length" => ("max_tokens", None),
            _ if called => ("tool_use", None),
            _ => ("end_turn", None),
        });
        Ok(())
    }

    fn usage(&self) -> Value {
        let cached = self.spent.cached as usize;
        json!({
            "input_tokens": self.prompt.saturating_sub(cached),
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": self.spent.generated,
        })
    }

    fn stop(&self) -> (Option<&'static str>, Option<String>) {
        self.stop.clone().map_or((None, None), |(reason, text)| (Some(reason), text))
    }

    /// The whole message as it is now.
    pub fn message(&self) -> Value {
        let (stop_reason, stop_sequence) = self.stop();
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.app.name(),
            "content": self.blocks.iter().map(Block::json).collect::<Vec<_>>(),
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
            "usage": self.usage(),
        })
    }
}

/// Turns events of the engine into those of the API.
pub struct MessageStream(Output);

impl MessageStream {
    /// Nothing was told yet.
    pub fn new(output: Output) -> Self {
        Self(output)
    }

    fn flush(&mut self, out: &mut Vec<Item>) {
        out.extend(std::mem::take(&mut self.0.events).iter().map(|&(name, ref event)| Item::named(name, event)));
    }
}

impl Translate for MessageStream {
    fn begin(&mut self, out: &mut Vec<Item>) {
        let message = self.0.message();
        self.0.tell("message_start", json!({ "message": message }));
        self.flush(out);
    }

    fn event(&mut self, _job: usize, event: Event, out: &mut Vec<Item>) -> Result<()> {
        match event {
            Event::Prompt(_) | Event::Embedding(_) => {}
            Event::Delta { text, .. } => self.0.push(&text),
            Event::Finished { finish, usage, .. } => self.0.finish(&finish, &usage)?,
            Event::Failed(reason) => return Err(failed(&reason)),
        }
        self.flush(out);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Item>) -> Result<()> {
        let (Some(stop_reason), stop_sequence) = self.0.stop() else { return Err(interrupted()) };
        let delta = json!({ "stop_reason": stop_reason, "stop_sequence": stop_sequence });
        let usage = self.0.usage();
        self.0.tell("message_delta", json!({ "delta": delta, "usage": usage }));
        self.0.tell("message_stop", json!({}));
        self.flush(out);
        Ok(())
    }

    fn fail(&mut self, error: &ApiError, out: &mut Vec<Item>) {
        self.0.tell("error", json!({ "error": error.detail }));
        self.flush(out);
    }
}

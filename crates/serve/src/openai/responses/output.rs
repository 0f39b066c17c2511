//! A response that grows: its items, and what is told of each change.

use super::request::Frame;
use crate::App;
use crate::error::Result;
use crate::jobs::{Usage, finish_name};
use crate::openai::logprobs::{TokenLogprob, of_chat};
use crate::tools::{Piece, ToolFormat, ToolParser};
use engine::live::{Finish, Scored, Usage as Spent};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A response that grows.
pub struct Output {
    app: Arc<App>,
    frame: Frame,
    parser: Option<ToolParser>,
    scored: bool,
    items: Vec<Item>,
    /// Probabilities of tokens whose text has not come yet.
    waiting: Vec<TokenLogprob>,
    usage: Usage,
    status: &'static str,
    sequence: u64,
    /// What is to be told.
    events: Vec<(&'static str, Value)>,
}

/// A part of a response.
struct Item {
    id: String,
    done: bool,
    content: Content,
}

enum Content {
    Text { text: String, logprobs: Vec<TokenLogprob> },
    Call { id: String, name: String, arguments: String },
}

impl Item {
    fn json(&self) -> Value {
        let status = if self.done { "completed" } else { "in_progress" };
        match &self.content {
            Content::Text { .. } => {
                let content = if self.done { json!([self.part()]) } else { json!([]) };
                json!({ "type": "message", "id": self.id, "status": status, "role": "assistant", "content": content })
            }
            Content::Call { id, name, arguments } => json!({
                "type": "function_call",
                "id": self.id,
                "call_id": id,
                "name": name,
                "arguments": arguments,
                "status": status,
            }),
        }
    }

    fn part(&self) -> Value {
        match &self.content {
            Content::Text { text, logprobs } => {
                json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
            }
            Content::Call { .. } => Value::Null,
        }
    }
}

impl Output {
    /// Nothing was said yet.
    pub fn new(app: Arc<App>, frame: Frame, prompt: usize, tools: Option<ToolFormat>, scored: bool) -> Self {
        let mut usage = Usage::default();
        usage.add_prompt(prompt);
        Self {
            app,
            frame,
            parser: tools.map(ToolParser::new),
            scored,
            items: Vec::new(),
            waiting: Vec::new(),
            usage,
            status: "in_progress",
            sequence: 0,
            events: Vec::new(),
        }
    }

    /// What is to be told since this was asked last, each with its name.
    pub fn take_events(&mut self) -> Vec<(&'static str, Value)> {
        std::mem::take(&mut self.events)
    }

    /// Tells something.
    pub fn tell(&mut self, kind: &'static str, fields: Value) {
        let mut event =
            Map::from_iter([("type".to_string(), kind.into()), ("sequence_number".into(), self.sequence.into())]);
        self.sequence += 1;
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        self.events.push((kind, event.into()));
    }

    /// Tells something about the whole response.
    pub fn tell_whole(&mut self, kind: &'static str) {
        let response = self.response();
        self.tell(kind, json!({ "response": response }));
    }

    /// Text and tokens came.
    pub fn push(&mut self, text: &str, tokens: &[Scored]) {
        if self.scored {
            self.waiting.extend(of_chat(self.app.engine.tokenizer(), tokens).content);
        }
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
                Piece::Text(text) => self.text(&text),
                Piece::Call { name, .. } => {
                    let id = self.app.fresh_id("call_");
                    self.open("fc_", Content::Call { id, name, arguments: String::new() });
                }
                Piece::Arguments { text, .. } => self.arguments(&text),
            }
        }
    }

    fn text(&mut self, more: &str) {
        if !self.items.last().is_some_and(|item| matches!(item.content, Content::Text { .. })) {
            self.open("msg_", Content::Text { text: String::new(), logprobs: Vec::new() });
        }
        let new = std::mem::take(&mut self.waiting);
        let index = self.items.len() - 1;
        let item = &mut self.items[index];
        let Content::Text { text, logprobs } = &mut item.content else { return };
        text.push_str(more);
        let told =
            json!({ "item_id": item.id, "output_index": index, "content_index": 0, "delta": more, "logprobs": new });
        logprobs.extend(new);
        self.tell("response.output_text.delta", told);
    }

    fn arguments(&mut self, more: &str) {
        let Some(index) = self.items.len().checked_sub(1) else { return };
        let item = &mut self.items[index];
        let Content::Call { arguments, .. } = &mut item.content else { return };
        arguments.push_str(more);
        let told = json!({ "item_id": item.id, "output_index": index, "delta": more });
        self.tell("response.function_call_arguments.delta", told);
    }

    /// The item before is done; another begins.
    fn open(&mut self, prefix: &str, content: Content) {
        self.close();
        let item = Item { id: self.app.fresh_id(prefix), done: false, content };
        let (index, id, json) = (self.items.len(), item.id.clone(), item.json());
        let part = item.part();
        self.items.push(item);
        self.tell("response.output_item.added", json!({ "output_index": index, "item": json }));
        if !part.is_null() {
            let told = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part });
            self.tell("response.content_part.added", told);
        }
    }

    /// The last item is done.
    fn close(&mut self) {
        let Some(index) = self.items.len().checked_sub(1).filter(|&index| !self.items[index].done) else { return };
        let item = &mut self.items[index];
        item.done = true;
        let (id, json, part) = (item.id.clone(), item.json(), item.part());
        match &item.content {
            Content::Text { text, logprobs } => {
                let place = json!({ "item_id": id, "output_index": index, "content_index": 0 });
                let with = |more: Value| {
                    let mut all = place.as_object().cloned().unwrap_or_default();
                    all.extend(more.as_object().cloned().unwrap_or_default());
                    Value::Object(all)
                };
                let done = with(json!({ "text": text, "logprobs": logprobs }));
                self.tell("response.output_text.done", done);
                self.tell("response.content_part.done", with(json!({ "part": part })));
            }
            Content::Call { name, arguments, .. } => {
                let done = json!({ "item_id": id, "output_index": index, "name": name, "arguments": arguments });
                self.tell("response.function_call_arguments.done", done);
            }
        }
        self.tell("response.output_item.done", json!({ "output_index": index, "item": json }));
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// The engine broke off.
    pub fn finish(&mut self, finish: &Finish, spent: &Spent) -> Result<()> {
        let name = finish_name(finish)?;
        let pieces = self.parser.take().map_or_else(Vec::new, ToolParser::finish);
        self.add(pieces);
        self.close();
        self.usage.add_choice(0, spent);
        self.status = if name == "length" { "incomplete" } else { "completed" };
        Ok(())
    }

    /// Whether it has ended.
    pub fn status(&self) -> &'static str {
        self.status
    }

    /// The whole response as it is now.
    pub fn response(&self) -> Value {
        let mut response = self.frame.0.clone();
        let running = self.status == "in_progress";
        let usage = &self.usage;
        let incomplete = (self.status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
        let usage = (!running).then(|| {
            json!({
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": { "cached_tokens": usage.prompt_tokens_details.cached_tokens, "cache_write_tokens": 0 },
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": usage.total_tokens,
            })
        });
        let items: Vec<_> = self.items.iter().map(Item::json).collect();
        response.extend([
            ("status".to_string(), self.status.into()),
            ("error".into(), Value::Null),
            ("incomplete_details".into(), incomplete.into()),
            ("output".into(), items.into()),
            ("usage".into(), usage.into()),
        ]);
        response.into()
    }
}

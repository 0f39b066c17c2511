//! Conversations as ids, of which only the assistant's words count in the loss.
//!
//! Where an answer begins and ends is found by rendering the conversation up to it: the template must only ever
//! append, as it does when it is used to chat.

use super::PrepareError;
use crate::shards::Document;
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text::{ChatRequest, ChatTemplate, Message, Tokenizer};

/// A line of a file of conversations.
pub(super) struct Line {
    pub json: String,
    file: Arc<PathBuf>,
    number: u64,
}

/// What a line says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conversation {
    messages: Vec<Message>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
}

/// Encodes conversations.
pub struct Chat(ChatTemplate);

impl Line {
    fn wrong(&self, what: impl ToString) -> PrepareError {
        PrepareError::Chat { file: self.file.to_path_buf(), line: self.number, what: what.to_string() }
    }
}

/// The lines of a file, which may be packed by zstd; empty ones are left out.
pub(super) fn lines(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Line, PrepareError>> + Send + use<>, PrepareError> {
    let file: Arc<PathBuf> = Arc::new(path.into());
    let failed = |source| PrepareError::Shards(crate::shards::ShardError::File { path: path.into(), source });
    let opened = File::open(path).map_err(failed)?;
    let is_packed = path.extension().is_some_and(|extension| extension == "zst");
    let reader: Box<dyn Read + Send> =
        if is_packed { Box::new(zstd::Decoder::new(opened).map_err(failed)?) } else { Box::new(opened) };
    let numbered = (1..).zip(BufReader::new(reader).lines());
    Ok(numbered.filter_map(move |(number, json)| {
        let line = |json| Line { json, file: file.clone(), number };
        match json {
            Ok(json) if json.trim().is_empty() => None,
            Ok(json) => Some(Ok(line(json))),
            Err(error) => Some(Err(line(String::new()).wrong(error))),
        }
    }))
}

impl Chat {
    /// Conversations laid out by this template.
    pub fn new(template: ChatTemplate) -> Self {
        Self(template)
    }

    pub(super) fn encode(&self, tokenizer: &Tokenizer, line: &Line) -> Result<Document, PrepareError> {
        let conversation = serde_json::from_str(&line.json).map_err(|error| line.wrong(error))?;
        let document = self.document(tokenizer, &conversation).map_err(|error| match error {
            Wrong::Text(error) => line.wrong(error),
            Wrong::Form(what) => line.wrong(what),
        })?;
        Ok(document)
    }

    fn document(&self, tokenizer: &Tokenizer, conversation: &Conversation) -> Result<Document, Wrong> {
        let messages = &conversation.messages;
        let whole = self.render(conversation, messages.len(), false)?;
        let mut answers: Vec<Range<usize>> = Vec::new();
        for (i, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let before = self.render(conversation, i, true)?;
            let after = self.render(conversation, i + 1, false)?;
            if !whole.text().starts_with(after.text()) || !after.text().starts_with(before.text()) {
                return Err(Wrong::Form(
                    "the chat template does not merely append messages, so where answers begin is unknown".into(),
                ));
            }
            answers.push(before.text().len()..after.text().len());
        }
        if answers.is_empty() {
            return Err(Wrong::Form("there is no message of the role `assistant` to learn from".into()));
        }
        let tokens = tokenizer.encode_prompt(&whole)?;
        let mask = mask(tokenizer, &tokens, &answers, whole.text().len())?;
        Ok(Document { tokens, mask: Some(mask), text_bytes: whole.text().len() as u64 })
    }

    fn render(
        &self,
        conversation: &Conversation,
        messages: usize,
        prompt: bool,
    ) -> Result<text::RenderedPrompt, Wrong> {
        let request = ChatRequest {
            messages: conversation.messages[..messages].to_vec(),
            tools: conversation.tools.clone(),
            add_generation_prompt: prompt,
            ..ChatRequest::default()
        };
        Ok(self.0.render(&request)?)
    }
}

/// For each token whether it begins inside one of the ranges.
fn mask(tokenizer: &Tokenizer, tokens: &[u32], ranges: &[Range<usize>], len: usize) -> Result<Vec<bool>, Wrong> {
    let mut at = 0;
    let mut counts = |&id: &u32| {
        let start = at;
        at += tokenizer.token_bytes(id).map_or(0, <[u8]>::len);
        ranges.iter().any(|range| range.contains(&start))
    };
    let mask = tokens.iter().map(&mut counts).collect();
    if at == len {
        return Ok(mask);
    }
    Err(Wrong::Form(
        "the tokenizer changes the text, so where answers begin is unknown; use one of byte-level BPE".into(),
    ))
}

/// What is wrong with a conversation, before its line is known.
enum Wrong {
    Text(text::Error),
    Form(String),
}

impl From<text::Error> for Wrong {
    fn from(error: text::Error) -> Self {
        Self::Text(error)
    }
}

//! What a plain completion answers; a part of a stream has the same form.

use crate::jobs::Usage;
use crate::openai::logprobs::CompletionLogprobs;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Completions, or parts of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion {
    /// Its name.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The server's version: equal seeds give equal answers as long as it is the same.
    pub system_fingerprint: &'static str,
    /// One for each completion.
    pub choices: Vec<CompletionChoice>,
    /// What it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One completion, or a part of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Counted from 0: the completions of the first prompt, then those of the second.
    pub index: u32,
    /// The text.
    pub text: String,
    /// If asked for.
    #[schema(required)]
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; in a stream only in the last part.
    #[schema(required)]
    pub finish_reason: Option<&'static str>,
    /// The stop string or token that ended it, where it was one that the request named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub stop_reason: Option<Value>,
    /// Its tokens, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// The prompt's tokens, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

//! What a chat completion answers, whole or in chunks.

use crate::jobs::Usage;
use crate::openai::logprobs::ChatLogprobs;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// Its name.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// One for each completion.
    pub choices: Vec<ChatChoice>,
    /// What it took.
    pub usage: Usage,
    /// The server's version: equal seeds give equal answers as long as it is the same.
    pub system_fingerprint: &'static str,
    /// The conversation as tokens, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// One completion.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Counted from 0.
    pub index: u32,
    /// What is said.
    pub message: AnswerMessage,
    /// If asked for.
    #[schema(required)]
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: &'static str,
    /// The stop string or token that ended it, where it was one that the request named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub stop_reason: Option<Value>,
    /// Its tokens, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What the assistant says.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnswerMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; none if tools are called and nothing else is said.
    #[schema(required)]
    pub content: Option<String>,
    /// There are no refusals apart from text.
    #[schema(required)]
    pub refusal: Option<String>,
    /// What is called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<AnswerCall>,
}

/// A call.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnswerCall {
    /// Its name.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is called.
    pub function: AnswerFunction,
}

/// What is called.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnswerFunction {
    /// The function.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A part of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    /// The answer's name.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The server's version.
    pub system_fingerprint: &'static str,
    /// One, or none in the last chunk that tells the usage.
    pub choices: Vec<ChunkChoice>,
    /// What it took so far, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The conversation as tokens, in the first chunk, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// What is new of one completion.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// Counted from 0.
    pub index: u32,
    /// To be appended.
    pub delta: Delta,
    /// If asked for.
    #[schema(required)]
    pub logprobs: Option<ChatLogprobs>,
    /// In the last chunk of a completion.
    #[schema(required)]
    pub finish_reason: Option<&'static str>,
    /// As in a whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub stop_reason: Option<Value>,
    /// Its new tokens, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// To be appended.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the first chunk of a completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<CallDelta>,
}

/// What is new of a call.
#[derive(Debug, Serialize, ToSchema)]
pub struct CallDelta {
    /// Which call, counted from 0.
    pub index: usize,
    /// Its name, where it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, where it begins.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// What is called.
    pub function: FunctionDelta,
}

/// What is new of a function's call.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionDelta {
    /// The function, where the call begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON, to be appended.
    pub arguments: String,
}

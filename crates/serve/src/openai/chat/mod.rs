//! `POST /v1/chat/completions`.

pub mod answer;
pub mod request;
mod stream;

use crate::App;
use crate::app::now;
use crate::auth::Guest;
use crate::body::JsonBody;
use crate::error::{ApiError, ErrorBody, Result};
use crate::jobs::{Choice, Events, Usage, collect, finish_name, stop_reason};
use crate::openai::logprobs::of_chat;
use crate::request::conversation::{Conversation, Started};
use crate::request::generation::{Checked, Generation};
use crate::request::{Fields, generation};
use crate::tools::{Piece, ToolFormat, ToolParser};
use answer::{AnswerCall, AnswerFunction, AnswerMessage, ChatChoice, ChatChunk, ChatCompletion};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use request::{ChatFields, ChatRequest};
use std::sync::Arc;
use stream::ChatStream;

/// The server's version, as answers tell it.
pub const FINGERPRINT: &str = concat!("lyceum-", env!("CARGO_PKG_VERSION"));

/// Goes on with a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "OpenAI",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, server-sent events of chunks, closed by `[DONE]`",
         content((ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"))),
        (status = "default", description = "Why there is none", body = ErrorBody),
    )
)]
pub async fn complete(State(app): State<Arc<App>>, guest: Guest, JsonBody(body): JsonBody) -> Result<Response> {
    let mut fields = Fields::new(body);
    let chat: ChatFields = fields.read()?;
    let generation: Generation = fields.read()?;
    let warnings = fields.finish(&[generation::UNSUPPORTED, request::UNSUPPORTED])?;
    let mut checked = generation.check(&app)?;
    checked.job.logprobs = chat.scores()?;
    let started = conversation(&chat, &generation)?.start(&app, &guest, &checked).await?;
    let head = Head { id: app.fresh_id("chatcmpl-"), created: now(), model: app.name().to_string() };
    let mut response = if checked.stream {
        let events = Events::new(vec![started.completion], guest);
        crate::stream::respond(events, ChatStream::new(app, head, checked, started.prompt, started.tools))
    } else {
        whole(&app, head, &checked, started).await?
    };
    warnings.attach(response.headers_mut());
    Ok(response)
}

fn conversation(chat: &ChatFields, generation: &Generation) -> Result<Conversation> {
    let max_tokens = match (chat.max_completion_tokens, generation.max_tokens) {
        (Some(new), Some(old)) if new != old => {
            let message = "`max_tokens` and `max_completion_tokens` are two names of one limit; give one.";
            return Err(ApiError::invalid("max_completion_tokens", message));
        }
        (new, old) => new.or(old),
    };
    if max_tokens == Some(0) {
        let field = if chat.max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" };
        return Err(ApiError::invalid(field, format!("`{field}` is 0, but it must be at least 1.")));
    }
    Ok(Conversation {
        field: "messages",
        messages: chat.conversation()?,
        tools: chat.functions()?,
        choice: chat.tool_choice.as_ref().into(),
        parallel: chat.parallel_tool_calls.unwrap_or(true),
        variables: chat.chat_template_kwargs.clone().unwrap_or_default(),
        format: generation.grammar_source()?,
        max_tokens,
    })
}

/// What all chunks of an answer have in common.
#[derive(Clone, Debug)]
struct Head {
    id: String,
    created: u64,
    model: String,
}

async fn whole(app: &App, head: Head, checked: &Checked, started: Started) -> Result<Response> {
    let mut usage = Usage::default();
    usage.add_prompt(started.prompt.len());
    let answer = collect(started.completion, checked.job.choices).await?;
    let mut choices = Vec::new();
    for (index, choice) in (0..).zip(answer.choices) {
        usage.add_choice(index, &choice.spent);
        choices.push(one(app, index, choice, checked, started.tools)?);
    }
    let Head { id, created, model } = head;
    let completion = ChatCompletion {
        id,
        object: "chat.completion",
        created,
        model,
        choices,
        usage,
        system_fingerprint: FINGERPRINT,
        prompt_token_ids: checked.token_ids.then_some(started.prompt),
    };
    Ok(Json(completion).into_response())
}

fn one(app: &App, index: u32, choice: Choice, checked: &Checked, tools: Option<ToolFormat>) -> Result<ChatChoice> {
    let tokenizer = app.engine.tokenizer();
    let (text, tool_calls) = match tools {
        Some(format) => calls(app, format, &choice.text),
        None => (choice.text, Vec::new()),
    };
    let called = !tool_calls.is_empty();
    Ok(ChatChoice {
        index,
        message: AnswerMessage {
            role: "assistant",
            content: Some(text).filter(|text| !called || !text.is_empty()),
            refusal: None,
            tool_calls,
        },
        logprobs: checked.job.logprobs.map(|_| of_chat(tokenizer, &choice.tokens)),
        finish_reason: finish(finish_name(&choice.finish)?, called),
        stop_reason: stop_reason(&choice.finish, tokenizer.eos()),
        token_ids: checked.token_ids.then(|| choice.tokens.iter().map(|scored| scored.token).collect()),
    })
}

/// An answer that ended by itself after a call ended for the call.
fn finish(name: &'static str, called: bool) -> &'static str {
    if called && name == "stop" { "tool_calls" } else { name }
}

/// The text and the calls of an answer.
fn calls(app: &App, format: ToolFormat, text: &str) -> (String, Vec<AnswerCall>) {
    let mut parser = ToolParser::new(format);
    let mut pieces = parser.push(text);
    pieces.extend(parser.finish());
    let (mut shown, mut calls) = (String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Text(text) => shown.push_str(&text),
            Piece::Call { name, .. } => calls.push(AnswerCall {
                id: app.fresh_id("call_"),
                kind: "function",
                function: AnswerFunction { name, arguments: String::new() },
            }),
            Piece::Arguments { index, text } => calls[index].function.arguments.push_str(&text),
        }
    }
    (shown, calls)
}

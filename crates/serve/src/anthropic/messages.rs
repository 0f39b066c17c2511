//! `POST /v1/messages`.

use super::output::{MessageStream, Output};
use super::request::{MessagesRequest, UNSUPPORTED};
use crate::App;
use crate::auth::Guest;
use crate::body::JsonBody;
use crate::error::{ApiError, ErrorBody, Result};
use crate::jobs::{Events, collect};
use crate::request::Fields;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "Anthropic",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The message; with `stream`, server-sent events",
         content((Value = "application/json"), (Value = "text/event-stream"))),
        (status = "default", description = "Why there is none", body = ErrorBody),
    )
)]
pub async fn create(State(app): State<Arc<App>>, guest: Guest, JsonBody(body): JsonBody) -> Result<Response> {
    let mut fields = Fields::new(body);
    let asked: MessagesRequest = fields.read()?;
    let warnings = fields.finish(&[UNSUPPORTED])?;
    let checked = asked.generation()?.check(&app)?;
    let conversation = asked.conversation()?;
    if asked.max_tokens.is_none() {
        return Err(ApiError::invalid("max_tokens", "`max_tokens` is missing."));
    }
    let started = conversation.start(&app, &guest, &checked).await?;
    let output = Output::new(app, started.prompt.len(), started.tools);
    let mut response = if checked.stream {
        crate::stream::respond(Events::new(vec![started.completion], guest), MessageStream::new(output))
    } else {
        let mut output = output;
        for choice in collect(started.completion, 1).await?.choices {
            output.push(&choice.text);
            output.finish(&choice.finish, &choice.spent)?;
        }
        Json(output.message()).into_response()
    };
    warnings.attach(response.headers_mut());
    Ok(response)
}

/// How long a conversation is.
#[derive(Serialize, ToSchema)]
pub struct TokenCount {
    /// In tokens.
    pub input_tokens: usize,
}

/// Counts a conversation's tokens.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "Anthropic",
    request_body = MessagesRequest,
    responses((status = 200, description = "How many", body = TokenCount), (status = "default", description = "Why there are none", body = ErrorBody))
)]
pub async fn count_tokens(
    State(app): State<Arc<App>>,
    _guest: Guest,
    JsonBody(body): JsonBody,
) -> Result<Json<TokenCount>> {
    let mut fields = Fields::new(body);
    let asked: MessagesRequest = fields.read()?;
    fields.finish(&[UNSUPPORTED])?;
    asked.generation()?.check(&app)?;
    let conversation = asked.conversation()?;
    let with_tools = conversation.calls(&app)?.is_some();
    let tokens = crate::blocking(move || conversation.tokens(&app, with_tools)).await??;
    Ok(Json(TokenCount { input_tokens: tokens.len() }))
}

//! `POST /v1/responses`.

mod output;
mod request;
mod stream;

use crate::App;
use crate::app::now;
use crate::auth::Guest;
use crate::body::JsonBody;
use crate::error::{ErrorBody, Result};
use crate::jobs::{Events, collect};
use crate::request::Fields;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use output::Output;
use request::ResponsesRequest;
use std::sync::Arc;
use stream::ResponsesStream;

/// Answers a conversation of items.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "OpenAI",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response; with `stream`, server-sent events, each with its `type` and a `sequence_number`",
         content((Value = "application/json"), (Value = "text/event-stream"))),
        (status = "default", description = "Why there is none", body = ErrorBody),
    )
)]
pub async fn respond(State(app): State<Arc<App>>, guest: Guest, JsonBody(body): JsonBody) -> Result<Response> {
    let mut fields = Fields::new(body);
    let asked: ResponsesRequest = fields.read()?;
    let warnings = fields.finish(&[request::UNSUPPORTED])?;
    let generation = asked.generation();
    let mut checked = generation.check(&app)?;
    checked.job.logprobs = asked.scores()?;
    let started = asked.conversation()?.start(&app, &guest, &checked).await?;
    let frame = asked.frame(app.fresh_id("resp_"), now(), app.name(), &checked.job.sampling);
    let output = Output::new(app.clone(), frame, started.prompt.len(), started.tools, checked.job.logprobs.is_some());
    let mut response = if checked.stream {
        let events = Events::new(vec![started.completion], guest);
        crate::stream::respond(events, ResponsesStream::new(output))
    } else {
        let answer = collect(started.completion, 1).await?;
        let mut output = output;
        for choice in answer.choices {
            output.push(&choice.text, &choice.tokens);
            output.finish(&choice.finish, &choice.spent)?;
        }
        Json(output.response()).into_response()
    };
    warnings.attach(response.headers_mut());
    Ok(response)
}

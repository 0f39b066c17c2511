//! `GET /openapi.json`: all of this, as other programs read it.

use crate::openai::{chat, completions, embeddings, models, responses};
use crate::{anthropic, health, live, metrics, tokenize};
use axum::Json;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(title = "Lyceum", description = "The OpenAI API, Anthropic's messages, and what belongs to running a server."),
    paths(
        chat::complete,
        completions::complete,
        responses::respond,
        embeddings::embed,
        anthropic::messages::create,
        anthropic::messages::count_tokens,
        models::list,
        models::one,
        tokenize::tokenize,
        tokenize::detokenize,
        health::health,
        health::ready,
        metrics::metrics,
        live::live,
    ),
    security((), ("key" = [])),
    modifiers(&Keys),
)]
struct Api;

/// How keys are sent.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// What can be asked here.
pub async fn document() -> Json<Document> {
    Json(Api::openapi())
}

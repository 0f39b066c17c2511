//! `POST /v1/embeddings`: hidden states as vectors.

use crate::App;
use crate::auth::Guest;
use crate::body::JsonBody;
use crate::error::{ApiError, ErrorBody, Result};
use crate::jobs::{collect, reserve, submit};
use crate::request::prompt::{Prompts, PromptsSchema, room, tokenize};
use crate::request::{Fields, Unsupported};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::live::{Job, Pooling, PromptOutputs};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Texts whose vectors are wanted.
#[derive(Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    /// The model's name; the one that is served if it is left out.
    pub model: Option<String>,
    /// A text, several, token ids, or several lists of them.
    #[schema(value_type = PromptsSchema)]
    pub input: Prompts,
    /// How vectors are written.
    pub encoding_format: Option<EncodingFormat>,
    /// Length of the vectors; only the model's own is supported.
    pub dimensions: Option<u64>,
    /// How the hidden states of all tokens become one vector.
    pub pooling: Option<PoolingName>,
    /// Higher goes first.
    pub priority: Option<i32>,
    /// Who asks. No effect on the answer.
    #[expect(dead_code, reason = "accepted without effect")]
    pub user: Option<String>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// As a list of numbers.
    #[default]
    Float,
    /// As the bytes of little-endian f32, in base64.
    Base64,
}

/// How hidden states (after the final norm) become one vector of unit length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolingName {
    /// Their mean over all tokens.
    #[default]
    Mean,
    /// That of the last token.
    Last,
}

/// The vectors.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingList {
    /// `list`.
    pub object: &'static str,
    /// One for each text.
    pub data: Vec<EmbeddingItem>,
    /// The model.
    pub model: String,
    /// What it took.
    pub usage: EmbeddingUsage,
}

/// One vector.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingItem {
    /// `embedding`.
    pub object: &'static str,
    /// Which text, counted from 0.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
}

/// A vector of unit length.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    /// As numbers.
    Float(Vec<f32>),
    /// As base64.
    Base64(String),
}

/// What vectors took.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all texts.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

const UNSUPPORTED: &[Unsupported] = &[
    Unsupported::new("truncate_prompt_tokens", "shorten the input before it is sent."),
    Unsupported::new("cache_salt", "what is shared between requests follows from the API key."),
    Unsupported::new("messages", "use `input`."),
    Unsupported::unless("normalize", |value| *value == true, "vectors always have unit length."),
];

/// Turns texts into vectors.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "OpenAI",
    request_body = EmbeddingRequest,
    responses((status = 200, description = "The vectors", body = EmbeddingList), (status = "default", description = "Why there are none", body = ErrorBody))
)]
pub async fn embed(State(app): State<Arc<App>>, guest: Guest, JsonBody(body): JsonBody) -> Result<Response> {
    let mut fields = Fields::new(body);
    let asked: EmbeddingRequest = fields.read()?;
    let warnings = fields.finish(&[UNSUPPORTED])?;
    app.check_model(asked.model.as_deref())?;
    let width = app.engine.info().config.hidden_size;
    if asked.dimensions.is_some_and(|dimensions| dimensions != width as u64) {
        let message = format!("`dimensions` other than {width}, the model's own, is not supported here.");
        return Err(ApiError::unsupported("dimensions", message));
    }
    let places = reserve(&app, asked.input.0.len(), 1)?;
    let prompts = tokenize(&app, "input", asked.input.0.clone()).await?;
    let pooling = match asked.pooling.unwrap_or_default() {
        PoolingName::Mean => Pooling::Mean,
        PoolingName::Last => Pooling::Last,
    };
    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    let job = |prompt: Vec<u32>| {
        room(&app, "input", prompt.len(), Some(0), 0)?;
        Ok(Job {
            prompt_outputs: Some(PromptOutputs::Embedding(pooling)),
            priority: asked.priority.unwrap_or(0),
            salt: guest.salt(),
            ..Job::new(prompt, 0)
        })
    };
    let jobs = prompts.into_iter().map(job).collect::<Result<Vec<_>>>()?;
    let completions = submit(&app, places, jobs, "input")?;
    let answers = try_join_all(completions.into_iter().map(|completion| collect(completion, 1))).await?;
    let written = |vector: Vec<f32>| match asked.encoding_format.unwrap_or_default() {
        EncodingFormat::Float => Vector::Float(vector),
        EncodingFormat::Base64 => {
            Vector::Base64(STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()))
        }
    };
    let vectors = answers.into_iter().enumerate();
    let data = vectors.map(|(index, answer)| EmbeddingItem {
        object: "embedding",
        index,
        embedding: written(answer.embedding),
    });
    let usage = EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens };
    let list = EmbeddingList { object: "list", data: data.collect(), model: app.name().to_string(), usage };
    let mut response = Json(list).into_response();
    warnings.attach(response.headers_mut());
    Ok(response)
}

//! `POST /tokenize` and `POST /detokenize`: text and ids, as the model sees them.

use crate::App;
use crate::auth::Guest;
use crate::body::JsonBody;
use crate::error::{ApiError, ErrorBody, Result, sentence};
use crate::openai::chat::request::{ChatFields, ChatMessage};
use crate::request::{Fields, Unsupported};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A text, or a conversation, to be turned into ids.
#[derive(Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// The model's name; the one that is served if it is left out.
    pub model: Option<String>,
    /// A text; special tokens that it spells are plain characters.
    pub prompt: Option<String>,
    /// Instead: a conversation, laid out as chat completions lay it out.
    pub messages: Option<Vec<ChatMessage>>,
    /// Put what the model expects at the beginning of a text there (the default).
    pub add_special_tokens: Option<bool>,
    /// Tell the tokens as text, too.
    pub return_token_strs: Option<bool>,
}

/// The ids.
#[derive(Serialize, ToSchema)]
pub struct TokenizeAnswer {
    /// How many.
    pub count: usize,
    /// Tokens that the model can take.
    pub max_model_len: usize,
    /// The ids.
    pub tokens: Vec<u32>,
    /// As the vocabulary writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_strs: Option<Vec<String>>,
}

/// Ids to be turned into text.
#[derive(Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The model's name; the one that is served if it is left out.
    pub model: Option<String>,
    /// The ids.
    pub tokens: Vec<u32>,
}

/// The text.
#[derive(Serialize, ToSchema)]
pub struct DetokenizeAnswer {
    /// With special tokens; bytes that are no text become U+FFFD.
    pub prompt: String,
}

const UNSUPPORTED: &[Unsupported] = &[
    Unsupported::new("chat_template", "the model's own is used."),
    Unsupported::new("tools", "ask a chat completion for `return_token_ids`."),
    Unsupported::unless("add_generation_prompt", |value| *value == true, "the assistant always speaks next."),
    Unsupported::unless("continue_final_message", |value| *value == false, "use `prompt`."),
];

/// Turns text into ids.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "Tokens",
    request_body = TokenizeRequest,
    responses((status = 200, description = "The ids", body = TokenizeAnswer), (status = "default", description = "Why there are none", body = ErrorBody))
)]
pub async fn tokenize(
    State(app): State<Arc<App>>,
    _guest: Guest,
    JsonBody(body): JsonBody,
) -> Result<Json<TokenizeAnswer>> {
    let mut fields = Fields::new(body);
    let asked: TokenizeRequest = fields.read()?;
    fields.finish(&[UNSUPPORTED])?;
    app.check_model(asked.model.as_deref())?;
    let shared = app.clone();
    let (strings, tokens) =
        crate::blocking(move || asked.tokens(&shared).map(|ids| (asked.return_token_strs, ids))).await??;
    let text = |id: &u32| app.engine.tokenizer().token(*id).unwrap_or_default().to_string();
    Ok(Json(TokenizeAnswer {
        count: tokens.len(),
        max_model_len: app.engine.info().context,
        token_strs: strings.unwrap_or(false).then(|| tokens.iter().map(text).collect()),
        tokens,
    }))
}

impl TokenizeRequest {
    fn tokens(&self, app: &App) -> Result<Vec<u32>> {
        let tokenizer = app.engine.tokenizer();
        match (&self.prompt, &self.messages) {
            (Some(text), None) => {
                let special = self.add_special_tokens.unwrap_or(true);
                let ids = if special { tokenizer.encode_whole(text) } else { tokenizer.encode(text) };
                ids.map_err(|error| ApiError::invalid("prompt", sentence(&error.to_string())))
            }
            (None, Some(messages)) => ChatFields::of(messages.clone()).tokens(app),
            _ => Err(ApiError::invalid("prompt", "Give either `prompt` or `messages`.")),
        }
    }
}

/// Turns ids into text.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "Tokens",
    request_body = DetokenizeRequest,
    responses((status = 200, description = "The text", body = DetokenizeAnswer), (status = "default", description = "Why there is none", body = ErrorBody))
)]
pub async fn detokenize(
    State(app): State<Arc<App>>,
    _guest: Guest,
    JsonBody(body): JsonBody,
) -> Result<Json<DetokenizeAnswer>> {
    let mut fields = Fields::new(body);
    let asked: DetokenizeRequest = fields.read()?;
    fields.finish(&[])?;
    app.check_model(asked.model.as_deref())?;
    let text = app.engine.tokenizer().decode(&asked.tokens);
    let prompt = text.map_err(|error| ApiError::invalid("tokens", sentence(&error.to_string())))?;
    Ok(Json(DetokenizeAnswer { prompt }))
}

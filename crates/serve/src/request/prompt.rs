//! What is to be continued: text or token ids, and how many new tokens fit behind it.

use crate::App;
use crate::error::{ApiError, Result, sentence};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;
use std::sync::Arc;
use text::Tokenizer;
use utoipa::ToSchema;

/// Prompts of one request at most.
pub const MOST_PROMPTS: usize = 1024;

/// One prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text; special tokens that it spells are plain characters.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// A text, several, token ids, or several lists of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts(pub Vec<Prompt>);

/// How [`Prompts`] are written.
#[derive(ToSchema)]
#[schema(as = Prompts)]
#[allow(dead_code, reason = "only its schema is used")]
#[serde(untagged)]
#[derive(serde::Deserialize)]
pub enum PromptsSchema {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        prompts(&value).map(Self).map_err(D::Error::custom)
    }
}

fn prompts(value: &Value) -> std::result::Result<Vec<Prompt>, String> {
    match value {
        Value::String(text) => Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => Err("it is empty".into()),
        Value::Array(items) if items[0].is_number() => Ok(vec![Prompt::Tokens(ids(items)?)]),
        Value::Array(items) if items.len() > MOST_PROMPTS => {
            Err(format!("it has {} prompts, but at most {MOST_PROMPTS} are allowed", items.len()))
        }
        Value::Array(items) => {
            let same_kind = |item: &Value| item.is_string() == items[0].is_string();
            let prompt = |item: &Value| match item {
                _ if !same_kind(item) => Err("texts and lists of token ids cannot be mixed".to_string()),
                Value::String(text) => Ok(Prompt::Text(text.clone())),
                Value::Array(list) => Ok(Prompt::Tokens(ids(list)?)),
                _ => Err("it must be a text, a list of texts, a list of token ids, or a list of such lists".into()),
            };
            items.iter().map(prompt).collect()
        }
        _ => Err("it must be a text, a list of texts, a list of token ids, or a list of such lists".into()),
    }
}

fn ids(items: &[Value]) -> std::result::Result<Vec<u32>, String> {
    let id = |item: &Value| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| "a token id must be a whole number that is not negative".to_string())
    };
    items.iter().map(id).collect()
}

impl Prompt {
    /// Its token ids, with what the model expects at the beginning of a text.
    ///
    /// # Errors
    /// It has none, or one that the model does not know; `field` is to blame.
    pub fn tokens(&self, app: &App, field: &str) -> Result<Vec<u32>> {
        let tokens = match self {
            Self::Text(text) => app.engine.tokenizer().encode_whole(text).map_err(|error| bad_text(field, &error))?,
            Self::Tokens(ids) => ids.clone(),
        };
        if tokens.is_empty() {
            let message = format!("`{field}` has no tokens, so there is nothing to continue from.");
            return Err(ApiError::invalid(field, message));
        }
        app.check_ids(field, &tokens)?;
        Ok(tokens)
    }

    /// The ids of a prompt whose middle is to be written: `self` stands before it, `suffix` behind.
    ///
    /// # Errors
    /// The tokeniser has no tokens for this.
    pub fn around(&self, app: &App, suffix: &str) -> Result<Vec<u32>> {
        let tokenizer = app.engine.tokenizer();
        let [before, behind, middle] = fill_in_the_middle(tokenizer).ok_or_else(|| {
            let message =
                "`suffix` is not supported by this model: its tokeniser has no tokens for filling in the middle.";
            ApiError::unsupported("suffix", message)
        })?;
        let encode = |text: &str| tokenizer.encode(text).map_err(|error| bad_text("prompt", &error));
        // What the model expects at the beginning of any text.
        let mut tokens = tokenizer.encode_whole("").map_err(|error| bad_text("prompt", &error))?;
        tokens.push(before);
        match self {
            Self::Text(text) => tokens.extend(encode(text)?),
            Self::Tokens(ids) => tokens.extend(ids),
        }
        tokens.push(behind);
        tokens.extend(encode(suffix)?);
        tokens.push(middle);
        app.check_ids("prompt", &tokens)?;
        Ok(tokens)
    }
}

fn bad_text(field: &str, error: &text::Error) -> ApiError {
    ApiError::invalid(field, sentence(&error.to_string()))
}

/// Spellings of the tokens before the prefix, before the suffix and before the middle.
const FILL_IN: [[&str; 3]; 4] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
];

/// The tokens that lay out a text whose middle is missing, if the tokeniser has them.
pub fn fill_in_the_middle(tokenizer: &Tokenizer) -> Option<[u32; 3]> {
    FILL_IN.into_iter().find_map(|[before, behind, middle]| {
        Some([tokenizer.id_of(before)?, tokenizer.id_of(behind)?, tokenizer.id_of(middle)?])
    })
}

/// How many new tokens a completion may have: as many as asked, or else as fit, but no more than `otherwise`.
///
/// # Errors
/// The context is too short.
pub fn room(app: &App, field: &str, prompt: usize, asked: Option<u32>, otherwise: u32) -> Result<u32> {
    let context = app.engine.info().context;
    let free = u32::try_from(context.saturating_sub(prompt)).unwrap_or(u32::MAX);
    match asked {
        Some(new) if new <= free && prompt <= context => Ok(new),
        None if free > 0 => Ok(free.min(otherwise)),
        _ => Err(ApiError::context(field, context, prompt, asked.unwrap_or(1).into())),
    }
}

/// The token ids of several prompts, computed away from the threads that answer.
pub async fn tokenize(app: &Arc<App>, field: &'static str, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>> {
    let app = app.clone();
    crate::blocking(move || prompts.iter().map(|prompt| prompt.tokens(&app, field)).collect()).await?
}

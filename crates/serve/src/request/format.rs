//! What a text must look like, as clients say it.

use crate::App;
use crate::error::{ApiError, Result, sentence};
use crate::request::generation::Generation;
use engine::grammar::{Grammar, GrammarError, Source};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// OpenAI's way to ask for JSON.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows.
    JsonSchema {
        /// The schema, and its name.
        json_schema: NamedSchema,
    },
}

/// A JSON schema with a name.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
pub struct NamedSchema {
    /// What it is called.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Option<Value>,
    /// Schemas are always held to, so this changes nothing.
    pub strict: Option<bool>,
}

/// What a text must look like: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
pub struct Structured {
    /// JSON that this schema allows.
    #[schema(value_type = Object)]
    pub json: Option<Value>,
    /// Any JSON object.
    pub json_object: Option<bool>,
    /// A regular expression that the whole text matches.
    pub regex: Option<String>,
    /// One of these.
    pub choice: Option<Vec<String>>,
    /// A context-free grammar (Lark).
    pub grammar: Option<String>,
}

impl Generation {
    /// What the text must look like, and the field that says so.
    ///
    /// # Errors
    /// More than one wish, or an empty one.
    pub fn grammar_source(&self) -> Result<Option<(&'static str, Source)>> {
        let format = match &self.response_format {
            Some(format) => format.source("response_format")?,
            None => None,
        };
        match (format, &self.structured_outputs) {
            (format, None) => Ok(format.map(|source| ("response_format", source))),
            (None, Some(structured)) => Ok(Some(("structured_outputs", structured.source()?))),
            (Some(_), Some(_)) => {
                let message = "`response_format` and `structured_outputs` cannot both say what the text looks like.";
                Err(ApiError::invalid("structured_outputs", message))
            }
        }
    }
}

impl ResponseFormat {
    /// The grammar's source; `None` for any text.
    ///
    /// # Errors
    /// A schema is missing; `field` is where this stands in the request.
    pub fn source(&self, field: &str) -> Result<Option<Source>> {
        match self {
            Self::Text => Ok(None),
            Self::JsonObject => Ok(Some(Source::JsonObject)),
            Self::JsonSchema { json_schema } => match &json_schema.schema {
                Some(schema) => Ok(Some(Source::JsonSchema(schema.clone()))),
                None => {
                    let field = format!("{field}.json_schema.schema");
                    Err(ApiError::invalid(&field, format!("`{field}` is missing.")))
                }
            },
        }
    }
}

impl Structured {
    fn source(&self) -> Result<Source> {
        let wishes = [
            self.json.clone().map(Source::JsonSchema),
            self.json_object.filter(|wanted| *wanted).map(|_| Source::JsonObject),
            self.regex.clone().map(Source::Regex),
            self.choice.clone().map(Source::Choice),
            self.grammar.clone().map(Source::Lark),
        ];
        let mut wishes = wishes.into_iter().flatten();
        match (wishes.next(), wishes.next()) {
            (Some(source), None) => Ok(source),
            _ => {
                let message =
                    "`structured_outputs` must have exactly one of json, json_object, regex, choice and grammar.";
                Err(ApiError::invalid("structured_outputs", message))
            }
        }
    }
}

/// Compiles what a text must look like, away from the threads that answer; `field` is to blame if it cannot be.
pub async fn compile(app: &Arc<App>, field: &'static str, source: Source) -> Result<Grammar> {
    let engine = app.engine.clone();
    let compiled = crate::blocking(move || engine.grammars().compile(&source)).await?;
    compiled.map_err(|error| match error {
        GrammarError::Busy { .. } => ApiError::rate_limited(sentence(&error.to_string()), 1),
        error => ApiError::invalid(field, sentence(&error.to_string())),
    })
}

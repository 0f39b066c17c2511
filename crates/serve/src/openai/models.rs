//! `GET /v1/models`.

use crate::App;
use crate::error::{ApiError, ErrorBody, Result};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The one that is served.
    pub data: Vec<Model>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// `lyceum`.
    pub owned_by: &'static str,
    /// Tokens of prompt and completion together at most.
    pub max_model_len: usize,
    /// Whether it has a chat template.
    pub chat: bool,
    /// Whether its template knows tools.
    pub tools: bool,
    /// Whether it fills gaps (`suffix`).
    pub fill_in_the_middle: bool,
}

fn served(app: &App) -> Model {
    Model {
        id: app.name().to_string(),
        object: "model",
        created: app.created,
        owned_by: "lyceum",
        max_model_len: app.engine.info().context,
        chat: app.template.is_ok(),
        tools: app.tools.is_some(),
        fill_in_the_middle: crate::request::prompt::fill_in_the_middle(app.engine.tokenizer()).is_some(),
    }
}

/// Which models there are.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "OpenAI",
    responses((status = 200, description = "The one that is served", body = ModelList), (status = "default", description = "Why not", body = ErrorBody))
)]
pub async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![served(&app)] })
}

/// One model.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    tag = "OpenAI",
    params(("model" = String, Path, description = "Its name")),
    responses((status = 200, description = "The model", body = Model), (status = "default", description = "There is none of this name", body = ErrorBody))
)]
pub async fn one(
    State(app): State<Arc<App>>,
    path: std::result::Result<Path<String>, PathRejection>,
) -> Result<Json<Model>> {
    let Path(name) = path.map_err(|_| ApiError::unknown_model("?", app.name()))?;
    app.check_model(Some(&name))?;
    Ok(Json(served(&app)))
}

//! Whether the server lives, and whether it takes requests.

use crate::App;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use engine::live::Health;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// How the server does.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthBody {
    /// `ok`, `stalled`, `stopped` or `draining`.
    pub status: &'static str,
    /// How long the step at hand has lasted, where it lasts too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// Whether the engine makes steps: a server that does not should be started again.
#[utoipa::path(
    get,
    path = "/health",
    tag = "Server",
    responses((status = 200, description = "It does", body = HealthBody), (status = 503, description = "It does not", body = HealthBody))
)]
pub async fn health(State(app): State<Arc<App>>) -> (StatusCode, Json<HealthBody>) {
    let (code, status, seconds) = match app.engine.health() {
        Health::Healthy => (StatusCode::OK, "ok", None),
        Health::Stalled { seconds } => (StatusCode::SERVICE_UNAVAILABLE, "stalled", Some(seconds)),
        Health::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "stopped", None),
    };
    (code, Json(HealthBody { status, seconds }))
}

/// Whether requests should be sent here.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "Server",
    responses((status = 200, description = "They should", body = HealthBody), (status = 503, description = "They should not", body = HealthBody))
)]
pub async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<HealthBody>) {
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(HealthBody { status: "draining", seconds: None }));
    }
    health(State(app)).await
}

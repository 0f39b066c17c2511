//! Reads a request's body as JSON, within limits of size, time and depth.

use crate::App;
use crate::error::{ApiError, Result};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use futures_util::StreamExt;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// A JSON object that was sent.
pub struct JsonBody(pub Map<String, Value>);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        check_type(&request)?;
        let limits = &app.options;
        let bytes = read(request, limits.max_body, limits.body_timeout).await?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(ApiError::malformed("The body must be a JSON object.")),
            // The parser refuses what nests deeper than 128 levels.
            Err(error) => Err(ApiError::malformed(format!("The body is not valid JSON: {error}."))),
        }
    }
}

fn check_type(request: &Request) -> Result<()> {
    let sent = request.headers().get(header::CONTENT_TYPE);
    let sent = sent.map_or("nothing", |value| value.to_str().unwrap_or("unreadable"));
    let essence = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        Ok(())
    } else {
        Err(ApiError::wrong_type(sent))
    }
}

async fn read(request: Request, limit: usize, patience: Duration) -> Result<Vec<u8>> {
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if said.is_some_and(|length: u64| length > limit as u64) {
        return Err(ApiError::too_large(limit));
    }
    let all = collect(request.into_body(), limit);
    tokio::time::timeout(patience, all).await.map_err(|_| ApiError::slow_body(patience.as_secs()))?
}

async fn collect(body: Body, limit: usize) -> Result<Vec<u8>> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::malformed(format!("The body could not be read: {error}.")))?;
        if bytes.len() + chunk.len() > limit {
            return Err(ApiError::too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

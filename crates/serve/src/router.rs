//! Which handler answers which path, and what lies around all of them.

use crate::error::ApiError;
use crate::openai::{chat, completions, embeddings, models, responses};
use crate::{App, anthropic, auth, health, live, metrics, openapi, page, tokenize};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::any::Any;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::Instrument;

/// What names a request in answers and in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Everything that is answered.
pub fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/responses", post(responses::respond))
        .route("/v1/messages", post(anthropic::messages::create))
        .route("/v1/messages/count_tokens", post(anthropic::messages::count_tokens))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*model}", get(models::one))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/api/live", get(live::live))
        .method_not_allowed_fallback(wrong_method)
        .route_layer(middleware::from_fn_with_state(app.clone(), auth::admit));
    let open = Router::new()
        .route("/", get(page::index))
        .route("/docs", get(page::docs))
        .route("/assets/{*name}", get(page::asset))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document))
        .method_not_allowed_fallback(wrong_method);
    let all = guarded.merge(open).fallback(nothing_there).layer(CatchPanicLayer::custom(panicked));
    let all = if app.options.cors.is_empty() { all } else { all.layer(cors(&app.options.cors)) };
    all.layer(middleware::from_fn_with_state(app.clone(), observe)).with_state(app)
}

async fn nothing_there(request: Request) -> ApiError {
    ApiError::no_route(request.uri().path())
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::wrong_method(request.method().as_str(), request.uri().path())
}

/// A handler's fault ends its own request alone.
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = said.unwrap_or("unknown"), "a handler panicked");
    ApiError::internal("The server made a mistake; its log says more.").into_response()
}

fn cors(origins: &[String]) -> CorsLayer {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([REQUEST_ID, header::RETRY_AFTER, HeaderName::from_static("x-lyceum-warning")])
}

/// Names each request, and says in the log what became of it.
async fn observe(axum::extract::State(app): axum::extract::State<Arc<App>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_plain(id));
    let id = given.map_or_else(|| app.fresh_id("req_"), str::to_string);
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let span = tracing::info_span!("request", id, %method, path);
    let start = std::time::Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let _in_span = span.enter();
    let (status, seconds) = (response.status().as_u16(), start.elapsed().as_secs_f64());
    match response.status() {
        StatusCode::INTERNAL_SERVER_ERROR => tracing::error!(status, seconds, "failed"),
        _ => tracing::info!(status, seconds, "answered"),
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Whether a client's own name for its request can stand in a log.
fn is_plain(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

//! The one shape that every error has: OpenAI's.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::live::{Busy, Rejected};
use engine::logits::InvalidProcessors;
use serde::Serialize;
use utoipa::ToSchema;

/// The body of every answer whose status is not 2xx.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// A sentence for people: what is wrong, where, and what to do.
    pub message: String,
    /// Its class, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field of the request that is to blame, if one is.
    #[schema(required)]
    pub param: Option<String>,
    /// A word for programs, such as `context_length_exceeded`.
    #[schema(required)]
    pub code: Option<&'static str>,
}

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What the body says; boxed, since results carry it everywhere.
    pub detail: Box<ErrorDetail>,
    /// Seconds after which it may be tried again.
    pub retry_after: Option<u64>,
}

/// A result whose error is an answer to the client.
pub type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let detail = ErrorDetail { message: message.into(), kind, param: None, code };
        Self { status, detail: Box::new(detail), retry_after: None }
    }

    fn about(mut self, param: impl Into<String>) -> Self {
        self.detail.param = Some(param.into());
        self
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// The request makes no sense as a whole.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// A field has a value that it may not have.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some("invalid_value"), message).about(param)
    }

    /// A field is known, but this server cannot do what it asks.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some("unsupported_parameter"), message).about(param)
    }

    /// Prompt and completion are longer than the context.
    pub fn context(param: &str, context: usize, prompt: usize, new: u64) -> Self {
        let message = format!(
            "This model's maximum context length is {context} tokens, but {} were requested: {prompt} in the prompt and {new} for \
             the completion. Shorten the prompt or ask for fewer tokens.",
            prompt as u64 + new
        );
        let code = Some("context_length_exceeded");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message).about(param)
    }

    /// A model that is not served here.
    pub fn unknown_model(asked: &str, served: &str) -> Self {
        let asked: String = asked.chars().take(200).collect();
        let message = format!("The model `{asked}` is not served here; this server has `{served}`.");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message).about("model")
    }

    /// No such path.
    pub fn no_route(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        let message = format!("There is nothing at {path}; /openapi.json lists what there is.");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("not_found"), message)
    }

    /// A path that another method belongs to.
    pub fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!("{path} does not answer {method}; /openapi.json lists what there is.");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_allowed"), message)
    }

    /// No key, or none that is known.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    /// The body did not arrive in time.
    pub fn slow_body(seconds: u64) -> Self {
        let message = format!("The request's body did not arrive within {seconds} seconds.");
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", Some("request_timeout"), message)
    }

    /// The body is longer than the server reads.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("The request's body is larger than {limit} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("request_too_large"), message)
    }

    /// The body is not JSON by its own account.
    pub fn wrong_type(found: &str) -> Self {
        let found: String = found.chars().take(100).collect();
        let message =
            format!("The body must be JSON (Content-Type: application/json), but it is said to be `{found}`.");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", Some("unsupported_media_type"), message)
    }

    /// A client asks for more than its share.
    pub fn rate_limited(message: impl Into<String>, seconds: u64) -> Self {
        let code = Some("rate_limit_exceeded");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message).retry_after(seconds)
    }

    /// The server's own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error"), message)
    }

    fn unavailable(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some(code), message)
    }

    /// The answer's body.
    pub fn body(&self) -> ErrorBody {
        ErrorBody { error: (*self.detail).clone() }
    }
}

impl From<Busy> for ApiError {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::Full { retry_after } => {
                let seconds = retry_after.as_secs_f64().ceil() as u64;
                let message = "The server's queue is full; try again later.";
                let code = Some("overloaded");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message).retry_after(seconds)
            }
            Busy::Draining => {
                Self::unavailable("draining", "The server is shutting down and takes no new requests.").retry_after(5)
            }
            Busy::Stopped => {
                Self::unavailable("engine_stopped", "The engine has stopped; the server must be restarted.")
            }
        }
    }
}

impl ApiError {
    /// Why the engine refused a job whose prompt is the field `param`.
    pub fn rejected(rejected: &Rejected, param: &str) -> Self {
        match rejected {
            Rejected::Stopped => Busy::Stopped.into(),
            Rejected::Sampling(invalid) => Self::invalid(invalid.name, sentence(&rejected.to_string())),
            Rejected::Processors(InvalidProcessors::Range { name, .. } | InvalidProcessors::Token { name, .. }) => {
                Self::invalid(*name, sentence(&rejected.to_string()))
            }
            _ => Self::invalid(param, sentence(&rejected.to_string())),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An error's text as a sentence.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else { return String::new() };
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{}{}{end}", first.to_uppercase(), letters.as_str())
}

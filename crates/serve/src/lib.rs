//! How do people reach it? HTTP: the OpenAI API, Anthropic's messages, metrics, and the web page.
//!
//! Handlers translate: a request becomes [`engine::live::Job`]s, their events become an answer. Nothing here decides when or how a
//! token is made, and no handler waits for a step: the engine's thread is reached through channels alone.

mod anthropic;
mod app;
mod auth;
mod body;
mod drain;
mod error;
mod health;
mod jobs;
mod listen;
mod live;
mod metrics;
mod openai;
mod openapi;
mod page;
mod request;
mod router;
mod stream;
mod tokenize;
mod tools;

pub use app::{App, Options};
pub use auth::{KeyError, Keys};
pub use listen::{ListenError, Listener, Tls};
pub use request::generation::Defaults;
pub use router::router;

use error::{ApiError, Result};

/// Runs work that takes a while where it stops nobody from answering.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal("The request could not be prepared."))
}

//! The end: what is new is refused, what was accepted is answered, then connections close.

use crate::App;
use axum_server::Handle;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is asked whether all is answered.
const POLL: Duration = Duration::from_millis(20);

/// How long the last bytes of answers may take to reach their clients.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Drains the server once `stop` comes. Until all is answered new requests are refused with 503, and told so.
pub async fn when(stop: impl Future<Output = ()>, app: Arc<App>, handle: Handle<SocketAddr>) {
    stop.await;
    app.drain();
    let start = Instant::now();
    tracing::info!("shutting down: what was accepted is answered first");
    while !app.engine.is_idle() && start.elapsed() < app.options.drain_timeout {
        tokio::time::sleep(POLL).await;
    }
    if !app.engine.is_idle() {
        tracing::warn!(seconds = start.elapsed().as_secs_f64(), "requests are left unanswered");
    }
    handle.graceful_shutdown(Some(LAST_BYTES));
}

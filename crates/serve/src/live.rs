//! `GET /api/live`: what the engine does now, for the page's plots.

use crate::App;
use axum::Json;
use axum::extract::State;
use engine::live::{Histogram, RecentStep, Stats};
use serde_json::{Value, json};
use std::sync::Arc;

/// A snapshot of the engine's counters; sums are since its start, times in seconds.
#[utoipa::path(
    get,
    path = "/api/live",
    tag = "Server",
    responses((status = 200, description = "Counters, histograms and the last steps", body = Value))
)]
pub async fn live(State(app): State<Arc<App>>) -> Json<Value> {
    let stats = app.engine.stats();
    let info = app.engine.info();
    let Stats { uptime, places, waiting, running, totals, finished, goodput, spent, .. } = &stats;
    let groups = stats.occupancy.iter().map(|o| json!({ "free": o.free, "cached": o.cached, "owned": o.owned }));
    Json(json!({
        "model": info.name,
        "context": info.context,
        "weight_bytes": info.weight_bytes,
        "kv_bytes": info.kv_bytes,
        "max_running": info.max_running,
        "max_queue": info.max_queue,
        "uptime": uptime.as_secs_f64(),
        "places": places,
        "waiting": waiting,
        "running": running,
        "occupancy": groups.collect::<Vec<_>>(),
        "totals": {
            "submitted": totals.submitted,
            "steps": totals.steps,
            "rows": totals.rows,
            "generated": totals.generated,
            "looked_up": totals.looked_up,
            "found": totals.found,
            "preemptions": totals.preemptions,
            "drafted": totals.drafted,
            "accepted": totals.accepted,
        },
        "steps": histogram(&stats.steps),
        "rows": histogram(&stats.rows),
        "first_token": histogram(&stats.first_token),
        "inter_token": histogram(&stats.inter_token),
        "tokens_in": stats.tokens_in,
        "tokens_out": stats.tokens_out,
        "finished": {
            "stop": finished.stop,
            "length": finished.length,
            "deadline": finished.deadline,
            "cancelled": finished.cancelled,
            "failed": finished.failed,
        },
        "goodput": { "sequences": goodput.sequences, "fast": goodput.fast },
        "expert_tokens": stats.expert_tokens,
        "spent": {
            "scheduling": spent.scheduling,
            "draft": spent.draft,
            "model": spent.model,
            "sampling": spent.sampling,
            "text": spent.text,
        },
        "recent": stats.recent.iter().map(step).collect::<Vec<_>>(),
    }))
}

fn histogram(histogram: &Histogram) -> Value {
    json!({ "bounds": histogram.bounds, "counts": histogram.counts, "sum": histogram.sum })
}

fn step(step: &RecentStep) -> Value {
    json!({
        "at": step.at.as_secs_f64(),
        "seconds": step.seconds,
        "rows": step.rows,
        "sequences": step.sequences,
        "outputs": step.outputs,
        "drafted": step.drafted,
        "accepted": step.accepted,
    })
}

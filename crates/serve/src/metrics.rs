//! `GET /metrics`: the engine's counters in Prometheus' text format.

use crate::App;
use axum::extract::State;
use axum::http::{HeaderName, header};
use engine::live::{Histogram, READING_SPEEDS, Stats};
use std::fmt::{Display, Write};
use std::sync::Arc;

/// The engine's counters for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Server",
    responses((status = 200, description = "Counters, gauges and histograms", body = String, content_type = "text/plain"))
)]
pub async fn metrics(State(app): State<Arc<App>>) -> ([(HeaderName, &'static str); 1], String) {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], render(&app.engine.stats()))
}

/// All metrics.
fn render(stats: &Stats) -> String {
    let mut page = Page::default();
    let totals = &stats.totals;
    page.gauge("queue_places", "Choices that are being prepared, wait or run", &[("", stats.places.into())]);
    page.gauge("queue_waiting", "Choices that wait for cache blocks", &[("", stats.waiting as f64)]);
    page.gauge("queue_running", "Choices that hold cache blocks", &[("", stats.running as f64)]);
    page.blocks(stats);
    page.counter("prefix_tokens_looked_up_total", "Known tokens when sequences were admitted", totals.looked_up);
    page.counter("prefix_tokens_found_total", "Of these, found in the prefix cache", totals.found);
    page.gauge("prefix_hit_ratio", "Found tokens of those looked up", &[("", ratio(totals.found, totals.looked_up))]);
    page.counter("preemptions_total", "Times that a sequence gave up its blocks", totals.preemptions);
    page.counter("speculation_drafted_total", "Tokens drafted", totals.drafted);
    page.counter("speculation_accepted_total", "Drafted tokens that were kept", totals.accepted);
    page.gauge(
        "speculation_acceptance_ratio",
        "Kept tokens of drafted ones",
        &[("", ratio(totals.accepted, totals.drafted))],
    );
    page.gauge("speculation_gain_ratio", "Tokens for each that would have come without drafts", &[("", gain(stats))]);
    page.counter("steps_total", "Steps committed", totals.steps);
    page.counter("rows_total", "Rows that steps computed", totals.rows);
    page.counter("prompt_tokens_total", "Prompt tokens of accepted requests", stats.tokens_in);
    page.counter("generation_tokens_total", "Tokens generated", stats.tokens_out);
    page.finished(stats);
    page.goodput(stats);
    page.histogram("time_to_first_token_seconds", "From submission to the first token", &stats.first_token);
    page.histogram("inter_token_latency_seconds", "Between tokens of a choice", &stats.inter_token);
    page.histogram("step_seconds", "Duration of steps", &stats.steps);
    page.histogram("step_rows", "Rows of steps", &stats.rows);
    page.spent(stats);
    page.experts(stats);
    page.gauge("uptime_seconds", "Since the engine started", &[("", stats.uptime.as_secs_f64())]);
    page.0
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Each kept draft is a token that would have needed a row of its own in another step.
fn gain(stats: &Stats) -> f64 {
    let without = stats.totals.generated.saturating_sub(stats.totals.accepted);
    if without == 0 { 1.0 } else { stats.totals.generated as f64 / without as f64 }
}

/// What was written so far.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP lyceum_{name} {help}\n# TYPE lyceum_{name} {kind}"));
    }

    fn line(&mut self, line: impl Display) {
        // A string takes all.
        let _ = writeln!(self.0, "{line}");
    }

    fn values(&mut self, name: &str, values: &[(&str, f64)]) {
        for (labels, value) in values {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            self.line(format_args!("lyceum_{name}{labels} {value}"));
        }
    }

    fn gauge(&mut self, name: &str, help: &str, values: &[(&str, f64)]) {
        self.head(name, help, "gauge");
        self.values(name, values);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, &[("", value as f64)]);
    }

    fn counters(&mut self, name: &str, help: &str, values: &[(&str, f64)]) {
        self.head(name, help, "counter");
        self.values(name, values);
    }

    fn blocks(&mut self, stats: &Stats) {
        self.head("kv_blocks", "Cache blocks, by group and state", "gauge");
        for (group, blocks) in ["target", "draft"].iter().zip(&stats.occupancy) {
            for (state, count) in [("free", blocks.free), ("cached", blocks.cached), ("owned", blocks.owned)] {
                self.line(format_args!("lyceum_kv_blocks{{group=\"{group}\",state=\"{state}\"}} {count}"));
            }
        }
        let owned: u32 = stats.occupancy.iter().map(|blocks| blocks.owned).sum();
        let all: u32 = stats.occupancy.iter().map(|blocks| blocks.free + blocks.cached + blocks.owned).sum();
        self.gauge("kv_use_ratio", "Owned cache blocks of all", &[("", ratio(owned.into(), all.into()))]);
    }

    fn finished(&mut self, stats: &Stats) {
        let ends = &stats.finished;
        let reasons = [
            ("reason=\"stop\"", ends.stop),
            ("reason=\"length\"", ends.length),
            ("reason=\"deadline\"", ends.deadline),
            ("reason=\"cancelled\"", ends.cancelled),
            ("reason=\"failed\"", ends.failed),
        ];
        self.counters(
            "finished_total",
            "Choices that ended, by reason",
            &reasons.map(|(reason, count)| (reason, count as f64)),
        );
    }

    fn goodput(&mut self, stats: &Stats) {
        self.counter("goodput_sequences_total", "Sequences whose speed is known", stats.goodput.sequences);
        self.head("goodput_fast_total", "Of these, at least so many tokens per second fast", "counter");
        for (speed, count) in READING_SPEEDS.iter().zip(stats.goodput.fast) {
            self.line(format_args!("lyceum_goodput_fast_total{{tokens_per_second=\"{speed}\"}} {count}"));
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let mut sum = 0;
        let bounds = histogram.bounds.iter().map(f64::to_string).chain(["+Inf".to_string()]);
        for (bound, count) in bounds.zip(&histogram.counts) {
            sum += count;
            self.line(format_args!("lyceum_{name}_bucket{{le=\"{bound}\"}} {sum}"));
        }
        self.line(format_args!("lyceum_{name}_sum {}", histogram.sum));
        self.line(format_args!("lyceum_{name}_count {sum}"));
    }

    fn spent(&mut self, stats: &Stats) {
        let spent = &stats.spent;
        let parts = [
            ("part=\"scheduling\"", spent.scheduling),
            ("part=\"draft\"", spent.draft),
            ("part=\"model\"", spent.model),
            ("part=\"sampling\"", spent.sampling),
            ("part=\"text\"", spent.text),
        ];
        self.counters("engine_seconds_total", "Where the engine's time went", &parts);
    }

    fn experts(&mut self, stats: &Stats) {
        self.head("expert_tokens_total", "Tokens that routers gave to each expert", "counter");
        for (layer, experts) in stats.expert_tokens.iter().enumerate() {
            for (expert, tokens) in experts.iter().enumerate() {
                self.line(format_args!("lyceum_expert_tokens_total{{layer=\"{layer}\",expert=\"{expert}\"}} {tokens}"));
            }
        }
    }
}

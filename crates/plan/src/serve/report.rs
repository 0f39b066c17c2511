//! The answers: how long users wait, how many can read along, what is used, and what a token costs.

use super::histogram::Histogram;
use super::replica::READING_SPEEDS;
use super::service::Service;
use super::simulate::Simulated;
use batch::Totals;
use serde::Serialize;

/// A distribution of durations, in seconds; absent where there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Their mean.
    pub mean: Option<f64>,
    /// What half of them do not pass.
    pub p50: Option<f64>,
    /// What 95 of 100 do not pass.
    pub p95: Option<f64>,
    /// What 99 of 100 do not pass.
    pub p99: Option<f64>,
}

impl Spread {
    fn of(histogram: &Histogram) -> Self {
        let percentile = |share| histogram.percentile(share);
        Self { mean: histogram.mean(), p50: percentile(0.5), p95: percentile(0.95), p99: percentile(0.99) }
    }
}

/// Users who got their tokens fast enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Readers {
    /// Tokens per second that each of them got at least.
    pub tokens_per_second: f64,
    /// How many there were at a time, on average.
    pub users: f64,
    /// What share this is of all who were being answered; absent if nobody was.
    pub share: Option<f64>,
}

/// What came of a simulation, of one copy of a model or of several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answers {
    /// Requests answered.
    pub requests: u64,
    /// Simulated seconds, to the last token.
    pub seconds: f64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub output_tokens: u64,
    /// Prompt tokens per second.
    pub prompt_tokens_per_second: f64,
    /// Generated tokens per second.
    pub output_tokens_per_second: f64,
    /// Time to the first token.
    pub ttft: Spread,
    /// Time between tokens.
    pub itl: Spread,
    /// Time from arrival to the last token.
    pub whole: Spread,
    /// By reading speed.
    pub readers: Vec<Readers>,
    /// Share of time in which the stages compute.
    pub busy: f64,
    /// Share of the data sheet's FLOP per second.
    pub flops_share: f64,
    /// Share of the data sheet's bandwidth.
    pub bandwidth_share: f64,
    /// Mean sequences of a step.
    pub mean_batch: f64,
    /// Largest share of the cache that sequences held.
    pub cache_peak: f64,
    /// Share of prompt tokens that the prefix cache held.
    pub prefix_hits: f64,
    /// Times that a sequence gave up its blocks.
    pub preemptions: u64,
    /// Share of drafted tokens that were accepted; absent if none were drafted.
    pub accepted: Option<f64>,
    /// Steps.
    pub steps: u64,
    /// Where the time of steps goes, shares of it: matrices, attention, communication, fixed, draft model.
    pub time: [f64; 5],
    /// US dollars, idle time included.
    pub dollars: Dollars,
}

/// What it costs. Prompts and output bear the cost in proportion to the time that their rows would take alone; idle time likewise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Dollars {
    /// All devices, an hour.
    pub per_hour: f64,
    /// The simulated time.
    pub total: f64,
    /// For 1000 tokens of prompts.
    pub per_1k_prompt: Option<f64>,
    /// For 1000 generated tokens.
    pub per_1k_output: Option<f64>,
    /// For 1000 generated tokens, if devices were only paid while they compute.
    pub per_1k_output_busy: Option<f64>,
}

impl Answers {
    /// Sums up what copies measured; `services` as in the simulation.
    pub fn of(services: &[&Service], simulated: &Simulated) -> Self {
        let seconds = simulated.seconds.max(f64::MIN_POSITIVE);
        let all = &simulated.measured;
        let sum = |of: fn(&super::replica::Measured) -> f64| all.iter().map(of).sum::<f64>();
        let total = |of: fn(&Totals) -> u64| simulated.totals.iter().map(of).sum::<u64>();
        let merged = |of: fn(&super::replica::Measured) -> &Histogram| {
            let mut merged = Histogram::default();
            all.iter().for_each(|measured| merged.merge(of(measured)));
            Spread::of(&merged)
        };
        let (prompt_tokens, output_tokens) =
            (all.iter().map(|m| m.prompt_tokens).sum::<u64>(), all.iter().map(|m| m.output_tokens).sum::<u64>());
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let busy_seconds = sum(|m| m.busy);
        let stages: f64 = services.iter().map(|s| s.roofline.layout().pipeline as f64).sum();
        let reading = |index: usize| all.iter().map(|m| m.reading[index]).sum::<f64>();
        let everybody = reading(READING_SPEEDS.len());
        let readers = READING_SPEEDS.iter().enumerate().map(|(index, &tokens_per_second)| Readers {
            tokens_per_second,
            users: reading(index) / seconds,
            share: (everybody > 0.0).then(|| reading(index) / everybody),
        });
        let (drafted, accepted) = (total(|t| t.drafted), total(|t| t.accepted));
        let time = [
            sum(|m| m.parts.matrices),
            sum(|m| m.parts.attention),
            sum(|m| m.parts.communication),
            sum(|m| m.parts.fixed),
            sum(|m| m.draft_seconds),
        ];
        let peak: f64 = services.iter().map(|s| s.roofline.peak()).sum();
        let bandwidth: f64 = services.iter().map(|s| s.roofline.bandwidth()).sum();
        let busy = busy_seconds / (stages * seconds);
        Self {
            requests: all.iter().map(|m| m.finished).sum(),
            seconds: simulated.seconds,
            prompt_tokens,
            output_tokens,
            prompt_tokens_per_second: prompt_tokens as f64 / seconds,
            output_tokens_per_second: output_tokens as f64 / seconds,
            ttft: merged(|m| &m.ttft),
            itl: merged(|m| &m.itl),
            whole: merged(|m| &m.whole),
            readers: readers.collect(),
            busy,
            flops_share: sum(|m| m.flops) / seconds / peak,
            bandwidth_share: sum(|m| m.bytes) / seconds / bandwidth,
            mean_batch: ratio(sum(|m| m.sequence_seconds), busy_seconds),
            cache_peak: all.iter().map(|m| m.cache_peak).fold(0.0, f64::max),
            prefix_hits: ratio(sum(|m| m.cached_tokens as f64), prompt_tokens as f64),
            preemptions: total(|t| t.preemptions),
            accepted: (drafted > 0).then(|| accepted as f64 / drafted as f64),
            steps: total(|t| t.steps),
            time: time.map(|part| ratio(part, busy_seconds)),
            dollars: dollars(services, simulated, (prompt_tokens, output_tokens), busy),
        }
    }
}

fn dollars(services: &[&Service], simulated: &Simulated, tokens: (u64, u64), busy: f64) -> Dollars {
    let per_hour: f64 = services.iter().map(|service| service.dollars_per_hour).sum();
    let total = per_hour * simulated.seconds / 3600.0;
    let sum = |of: fn(&super::replica::Measured) -> f64| simulated.measured.iter().map(of).sum::<f64>();
    let (prompt, output) = (sum(|m| m.prompt_seconds), sum(|m| m.output_seconds));
    let per_1k = |seconds: f64, tokens: u64| {
        (tokens > 0 && prompt + output > 0.0).then(|| total * seconds / (prompt + output) / tokens as f64 * 1000.0)
    };
    Dollars {
        per_hour,
        total,
        per_1k_prompt: per_1k(prompt, tokens.0),
        per_1k_output: per_1k(output, tokens.1),
        per_1k_output_busy: per_1k(output, tokens.1).map(|dollars| dollars * busy),
    }
}

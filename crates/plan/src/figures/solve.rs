//! Which assumptions make a reported figure true? The same formulas, solved for what the report leaves out.

use super::decode::{Decode, price};
use super::{FiguresError, Inputs};
use crate::hardware::{Accelerator, Precision};
use crate::train::Storage;
use crate::train::failures::Failures;
use serde::Serialize;

/// One way to make a figure true, or a sign that there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Solution {
    /// The figure.
    pub target: String,
    /// What is assumed.
    pub assumed: String,
    /// What is solved for.
    pub unknown: &'static str,
    /// Its value; `None` where no value would do.
    pub value: Option<f64>,
    /// Whether the value can be had: a share of no more than one, say.
    pub possible: bool,
    /// What it means besides.
    pub note: String,
}

/// All figures that are solved backwards.
///
/// # Errors
/// A recipe or catalogue that no number comes out of.
pub fn solve(inputs: &Inputs) -> Result<Vec<Solution>, FiguresError> {
    let mut all = decode(inputs, "I20", &inputs.h100, &[Precision::F16, Precision::Fp8, Precision::Int8]);
    all.extend(decode(inputs, "I19", inputs.a100(), &[Precision::F16, Precision::Int8]));
    all.extend(utilisation(inputs));
    all.extend(money(inputs));
    let broken = all.iter().find(|solution| solution.value.is_some_and(|value| !value.is_finite()));
    match broken.and_then(|solution| Some((solution.target.clone(), solution.value?))) {
        Some((id, value)) => Err(FiguresError::NotFinite { id, value }),
        None => Ok(all),
    }
}

/// What makes a price of decoding true: the share of the bandwidth by precision and batch, and the batch at a share that is reached.
fn decode(inputs: &Inputs, claim: &str, accelerator: &Accelerator, precisions: &[Precision]) -> Vec<Solution> {
    let dollars = inputs.reported(claim);
    let needed = inputs.serving() * price(accelerator) / 3600.0 / dollars * 1000.0;
    let share = inputs.given("h100_bandwidth_share");
    let target = format!(
        "${dollars} per 1k tokens on {} {} ({needed:.0} tokens/s)",
        inputs.serving(),
        accelerator.id.to_uppercase()
    );
    let mut all = Vec::new();
    for &precision in precisions {
        let at = |sequences: f64, bandwidth_share: f64| Decode {
            accelerator,
            precision,
            bandwidth_share,
            sequences,
            context: inputs.given("decode_context"),
        };
        let weights = inputs.parameters() * precision.bytes() / inputs.serving();
        for sequences in [1024.0, 2048.0, 4096.0, 8192.0] {
            let speed = |share: f64| at(sequences, share).tokens_per_second(inputs);
            let value = bisect(|share| speed(share) - needed, 1e-3, 1e3);
            let fits = at(sequences, 1.0).kv_held(inputs) + weights <= accelerator.memory.value;
            let room = if fits { "" } else { "; K and V do not fit" };
            all.push(Solution {
                target: target.clone(),
                assumed: format!("{precision} weights, {sequences} sequences in flight"),
                unknown: "share of memory bandwidth",
                value,
                possible: fits && value.is_some_and(|share| share <= 1.0),
                note: format!("{:.2} tokens/s a user{room}", needed / sequences),
            });
        }
        let value = bisect(|sequences| at(sequences, share).tokens_per_second(inputs) - needed, 16.0, 65_536.0);
        let fits = value.is_some_and(|n| at(n, 1.0).kv_held(inputs) + weights <= accelerator.memory.value);
        let user = value.map_or_else(String::new, |n| format!("{:.2} tokens/s a user", needed / n));
        all.push(Solution {
            target: target.clone(),
            assumed: format!("{precision} weights, {:.0}% of memory bandwidth", 100.0 * share),
            unknown: "sequences in flight",
            value,
            possible: fits,
            note: if fits || value.is_none() { user } else { format!("{user}; K and V do not fit") },
        });
    }
    all
}

impl Decode<'_> {
    /// Bytes of K and V on a device: with one K/V head, each rank of a tensor-parallel group has them all.
    fn kv_held(&self, inputs: &Inputs) -> f64 {
        let (tensor, stages) = (inputs.given("serve_tensor"), inputs.given("serve_pipeline"));
        let copies = (tensor / inputs.job.config.kv_heads as f64).max(1.0);
        self.sequences * self.context * inputs.kv_bytes() / stages * copies / tensor
    }
}

/// What makes 32 and 36% of the peak true: the share that kernels must reach, by chunks a stage and recomputation.
fn utilisation(inputs: &Inputs) -> Vec<Solution> {
    let per_day = inputs.a100().failures_per_day.as_ref().map(|figure| figure.value);
    let goodput = Failures::new(inputs.parameters(), inputs.cluster.devices, per_day, Storage::default()).goodput;
    let others = inputs.layout.recipe.pipeline as f64 - 1.0;
    let mut all = Vec::new();
    for claim in ["T02_90d", "T02_100d"] {
        let utilisation = inputs.reported(claim);
        for (passes, recompute) in [(0.75, "recomputing all"), (1.0, "recomputing nothing")] {
            for chunks in [1.0, 2.0, 4.0, 8.0] {
                let pipeline = inputs.micro_batches() / (inputs.micro_batches() + others / chunks);
                let value = utilisation / (pipeline * passes * goodput);
                all.push(Solution {
                    target: format!("{:.0}% of the peak on {}", 100.0 * utilisation, inputs.cluster.devices),
                    assumed: format!("{chunks} chunks a stage, {recompute}, goodput {:.1}%", 100.0 * goodput),
                    unknown: "share of the peak while kernels run",
                    value: Some(value),
                    possible: value <= 1.0,
                    note: format!("bubble {:.1}%", 100.0 * (1.0 - pipeline)),
                });
            }
        }
    }
    all
}

/// What the price of the training run assumes.
fn money(inputs: &Inputs) -> Vec<Solution> {
    let dollars = inputs.reported("T03");
    let (devices, hourly) = (inputs.devices(), price(inputs.a100()));
    let target = format!("${:.0}M for training", dollars / 1e6);
    let days = dollars / (devices * 24.0 * hourly);
    let peak = inputs.a100().peak(Precision::Bf16);
    let mut all = Vec::new();
    let mut add = |assumed: String, unknown, value: f64, note: String| {
        all.push(Solution { target: target.clone(), assumed, unknown, value: Some(value), possible: true, note });
    };
    let utilisation = inputs.compute() / (devices * peak * 86_400.0 * days);
    let note = format!("{:.1}% of the peak", 100.0 * utilisation);
    add(format!("{devices} devices at ${hourly}"), "days", days, note);
    for name in ["days_fast", "days_slow"] {
        let days = inputs.given(name);
        let (hour, count) = (dollars / (devices * 24.0 * days), dollars / (24.0 * days * hourly));
        add(format!("{devices} devices, {days} days"), "dollars an hour", hour, String::new());
        add(format!("{days} days at ${hourly}"), "devices", count, String::new());
    }
    all
}

/// Where a function that rises crosses zero between `low` and `high`; `None` where it does not.
fn bisect(f: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> Option<f64> {
    if !(f(low) < 0.0 && f(high) >= 0.0) {
        return None;
    }
    for _ in 0..100 {
        let middle = (low * high).sqrt();
        if f(middle) < 0.0 { low = middle } else { high = middle }
    }
    Some(high)
}

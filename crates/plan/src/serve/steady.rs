//! The steady state of decoding, by the roofline alone: speed by batch, and where bandwidth gives way to arithmetic.

use super::layout::MEMORY_SHARE;
use super::roofline::{Roofline, Work};
use serde::Serialize;

/// All sequences decode, each of them `context` tokens long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Steady {
    /// Sequences of a step.
    pub batch: u64,
    /// Sequences in all steps in flight.
    pub users: u64,
    /// Seconds between two tokens of a sequence.
    pub seconds_per_token: f64,
    /// Tokens per second of a sequence.
    pub tokens_per_second_each: f64,
    /// Tokens per second of all of them.
    pub tokens_per_second: f64,
    /// Share of the data sheet's FLOP per second.
    pub flops_share: f64,
    /// Share of the data sheet's bandwidth.
    pub bandwidth_share: f64,
}

impl Steady {
    /// A full pipeline: as many steps in flight as stages, `batch` sequences in each.
    pub fn of(roofline: &Roofline, batch: u64, context: f64) -> Self {
        let price = roofline.price(&Work::decode(roofline.windows(), batch as f64, context));
        let stages = roofline.layout().pipeline as f64;
        let seconds = price.cycle();
        let users = batch * roofline.layout().pipeline as u64;
        Self {
            batch,
            users,
            seconds_per_token: seconds,
            tokens_per_second_each: 1.0 / seconds,
            tokens_per_second: users as f64 / seconds,
            flops_share: price.flops * stages / seconds / roofline.peak(),
            bandwidth_share: price.bytes * stages / seconds / roofline.bandwidth(),
        }
    }
}

/// The largest batch of a step at which each sequence still gets `speed` tokens per second, 0 if not even one does; at most `most`.
pub fn batch_at_speed(roofline: &Roofline, speed: f64, context: f64, most: u64) -> u64 {
    // Step times grow with the batch.
    last_true(most, |batch| Steady::of(roofline, batch, context).tokens_per_second_each >= speed)
}

/// Rows of a step from which on its matrices take longer to multiply than to read. `None` beyond 2^40.
pub fn turning_rows(roofline: &Roofline) -> Option<u64> {
    let most = 1 << 40;
    let bound_by_reading = last_true(most, |rows| {
        let (arithmetic, reading) = roofline.matrix_seconds(rows as f64);
        arithmetic < reading
    });
    (bound_by_reading < most).then_some(bound_by_reading + 1)
}

/// The same of the whole step, with `context` positions of cache for each row; `None` where reading the cache always takes longer.
pub fn turning_rows_with_cache(roofline: &Roofline, context: f64) -> Option<u64> {
    let most = 1 << 40;
    let bound_by_reading = last_true(most, |rows| {
        let (arithmetic, reading) = roofline.step_seconds(&Work::decode(roofline.windows(), rows as f64, context));
        arithmetic < reading
    });
    (bound_by_reading < most).then_some(bound_by_reading + 1)
}

/// The last of 1..=`most` for which `holds`, if it holds up to somewhere; 0 if it never does.
fn last_true(most: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut yes, mut no) = (0, most + 1);
    while no - yes > 1 {
        let middle = yes + (no - yes) / 2;
        if holds(middle) {
            yes = middle;
        } else {
            no = middle;
        }
    }
    yes
}

/// Says where memory goes on the fullest device, in bytes: weights, cache, and what is left to activations and the runtime.
pub fn memory(roofline: &Roofline, weights: f64) -> [f64; 3] {
    let memory = roofline.device().memory.value;
    [weights, memory * MEMORY_SHARE - weights, memory * (1.0 - MEMORY_SHARE)]
}

//! How much of the time is lost to failures, and how often should a run be saved?

use serde::Serialize;

/// What failing costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storage {
    /// Bytes of a checkpoint per parameter: master weight, two moments, and the weight as computed with.
    pub bytes_per_parameter: f64,
    /// Bytes per second that all devices together write.
    pub bandwidth: f64,
    /// Seconds from a failure until training goes on, without what is computed again.
    pub restart: f64,
}

impl Default for Storage {
    /// Two terabytes a second (what Llama 3's storage sustains, arXiv 2407.21783 section 3.3.1) and five minutes, assumed.
    fn default() -> Self {
        Self { bytes_per_parameter: 14.0, bandwidth: 2e12, restart: 300.0 }
    }
}

/// A run's failures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Failures {
    /// Seconds between two.
    pub between: f64,
    /// Seconds that writing a checkpoint takes; training waits.
    pub checkpoint: f64,
    /// Bytes of a checkpoint.
    pub bytes: f64,
    /// Seconds of training between two checkpoints that lose the least.
    pub interval: f64,
    /// Share of the time that trains for good.
    pub goodput: f64,
}

impl Failures {
    /// Of `devices` that each fail `per_day` times a day, none where that is `None`.
    pub fn new(parameters: f64, devices: usize, per_day: Option<f64>, storage: Storage) -> Self {
        let bytes = parameters * storage.bytes_per_parameter;
        let checkpoint = bytes / storage.bandwidth;
        let between = per_day.map_or(f64::INFINITY, |per_day| 86_400.0 / (per_day * devices as f64));
        let interval = optimal_interval(between, checkpoint);
        let goodput = goodput(between, checkpoint, storage.restart, interval);
        Self { between, checkpoint, bytes, interval, goodput }
    }
}

/// Seconds of work between checkpoints that lose the least: Daly's (2006) second estimate of the optimum, of which Young's (1974) is the
/// first term.
pub fn optimal_interval(between: f64, checkpoint: f64) -> f64 {
    if between.is_infinite() {
        return f64::INFINITY;
    }
    if checkpoint >= 2.0 * between {
        return between;
    }
    let ratio = (checkpoint / (2.0 * between)).sqrt();
    (2.0 * checkpoint * between).sqrt() * (1.0 + ratio / 3.0 + ratio * ratio / 9.0) - checkpoint
}

/// The share of time that is work not lost, if failures come at random (exponentially), in saving and restarting too: `interval` of work against the expected
/// time that it takes.
pub fn goodput(between: f64, checkpoint: f64, restart: f64, interval: f64) -> f64 {
    if between.is_infinite() {
        return 1.0;
    }
    interval / (between * (restart / between).exp() * ((interval + checkpoint) / between).exp_m1())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::random::{mix, unit};

    #[test]
    fn twenty_five_thousand_devices_lose_what_young_and_daly_say() {
        // Interruptions of Llama 3's run, per device and day; 1,831 billion parameters of 14 bytes.
        let per_day = 419.0 / 54.0 / 16384.0;
        let of = |bandwidth, restart| {
            let storage = Storage { bytes_per_parameter: 14.0, bandwidth, restart };
            Failures::new(1831e9, 25_000, Some(per_day), storage)
        };
        let fast = of(2e12, 300.0);
        assert!((fast.between / 3600.0 - 2.027).abs() < 1e-3);
        assert!((fast.goodput - 0.90).abs() < 0.01, "{}", fast.goodput);
        assert!((of(0.4e12, 600.0).goodput - 0.79).abs() < 0.02);
        assert_eq!(Failures::new(1e9, 8, None, Storage::default()).goodput, 1.0);
    }

    #[test]
    fn the_interval_is_the_best_one() {
        for (between, checkpoint) in [(7297.0, 12.8), (7297.0, 256.0), (1e6, 60.0)] {
            let best = optimal_interval(between, checkpoint);
            let at = |interval| goodput(between, checkpoint, 300.0, interval);
            assert!(at(best) > at(best * 1.3) && at(best) > at(best / 1.3));
            assert!(at(best) > at(best * 1.02) - 1e-5 && at(best) > at(best / 1.02) - 1e-5);
        }
    }

    #[test]
    fn a_run_with_dice_loses_as_much() {
        let (between, checkpoint, restart, interval) = (7000.0, 60.0, 400.0, 900.0);
        let (mut clock, mut work, mut draws) = (0.0, 0.0, 0_u64);
        while work < 4e7 {
            let mut phase = |seconds: f64| {
                draws += 1;
                let fails = -between * (1.0 - unit(mix(draws))).ln();
                clock += fails.min(seconds);
                fails >= seconds
            };
            if phase(interval + checkpoint) {
                work += interval;
            } else {
                while !phase(restart) {}
            }
        }
        let expected = goodput(between, checkpoint, restart, interval);
        assert!((work / clock / expected - 1.0).abs() < 0.01, "{} {expected}", work / clock);
    }
}

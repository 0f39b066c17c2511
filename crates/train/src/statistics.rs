//! Is this number out of the ordinary?

use serde::{Deserialize, Serialize};

/// A running mean and variance that forget: what the last steps were like. Part of every checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    count: u64,
    mean: f64,
    variance: f64,
}

/// Steps that the memory reaches back, about.
const MEMORY: u64 = 100;
/// Steps before anything is called a spike: at first everything changes.
const FIRST: u64 = 50;

impl Running {
    /// Takes in an ordinary value.
    pub fn push(&mut self, value: f64) {
        self.count += 1;
        // A plain average until the memory is full.
        let weight = 1.0 / self.count.min(MEMORY) as f64;
        let difference = value - self.mean;
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
    }

    /// Whether a value lies more than `sigma` standard deviations above the mean; nothing does where `sigma` is 0. A deviation
    /// counts as at least the `least` part of the mean, so that a run that hardly varies is not stopped by a breath.
    pub fn is_spike(&self, value: f64, sigma: f64, least: f64) -> bool {
        let deviation = self.variance.sqrt().max(least * self.mean.abs());
        sigma > 0.0 && self.count >= FIRST && value > self.mean + sigma * deviation
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_are_what_lies_far_above() {
        let mut running = Running::default();
        for i in 0..FIRST {
            assert!(!running.is_spike(1e9, 6.0, 0.01));
            running.push(3.0 + 0.1 * (i as f64).sin());
        }
        assert!(!running.is_spike(3.3, 6.0, 0.01) && !running.is_spike(-5.0, 6.0, 0.01));
        assert!(running.is_spike(3.6, 6.0, 0.01) && !running.is_spike(3.6, 0.0, 0.01));
        // It follows where the run goes.
        (0..500).for_each(|i| running.push(5.0 + 0.1 * f64::from(i).sin()));
        assert!(!running.is_spike(5.3, 6.0, 0.01) && (running.mean() - 5.0).abs() < 0.05);
    }
}

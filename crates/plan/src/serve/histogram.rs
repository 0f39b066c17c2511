//! Counts by size, fine enough for percentiles.

/// Sizes that are told apart: each bucket is so much wider than the one before.
const STEP: f64 = 1.005;
/// The smallest size that has a bucket of its own.
const LEAST: f64 = 1e-7;

/// How often which durations occurred; percentiles are right within half a percent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
    /// The last size and its bucket: the tokens of a step took equally long.
    last: (f64, usize),
}

impl Histogram {
    /// Adds `times` durations of so many seconds.
    pub fn add(&mut self, seconds: f64, times: u64) {
        if self.last.0 != seconds || self.buckets.len() <= self.last.1 {
            let bucket = ((seconds / LEAST).max(1.0).ln() / STEP.ln()) as usize;
            if self.buckets.len() <= bucket {
                self.buckets.resize(bucket + 1, 0);
            }
            self.last = (seconds, bucket);
        }
        self.buckets[self.last.1] += times;
        self.count += times;
        self.sum += seconds * times as f64;
    }

    /// Adds all durations of another.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, times)| *sum += times);
        self.count += other.count;
        self.sum += other.sum;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; `None` if there are none.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The size that a share of all (0 to 1) does not pass; `None` if there are none.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let wanted = ((share * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|&times| {
            seen += times;
            seen >= wanted
        })?;
        Some(LEAST * STEP.powf(bucket as f64 + 0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_close_and_the_mean_is_exact() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.mean(), histogram.percentile(0.5)), (None, None));
        (1..=1000).for_each(|i| histogram.add(f64::from(i) * 1e-3, 2));
        assert!((histogram.mean().unwrap() - 0.5005).abs() < 1e-9);
        for (share, expected) in [(0.5, 0.5), (0.95, 0.95), (0.99, 0.99), (1.0, 1.0), (0.0, 0.001)] {
            let found = histogram.percentile(share).unwrap();
            assert!((found / expected - 1.0).abs() < 0.005, "{share}: {found}");
        }
    }
}

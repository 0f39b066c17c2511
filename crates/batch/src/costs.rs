//! What steps of a size take, learnt from the times handed in.

/// Weight of a new measurement in a running mean.
const NEW: f64 = 0.125;

/// Lets a running mean follow what was measured.
pub(crate) fn follow(mean: &mut f64, measured: f64) {
    *mean += (measured - *mean) * NEW;
}

/// Mean seconds by size; sizes in buckets of a quarter of an octave.
#[derive(Debug, Default)]
pub(crate) struct Costs(Vec<Option<f64>>);

/// Where a size is kept: a quarter of an octave each.
pub(crate) fn bucket(size: u32) -> usize {
    (4.0 * f64::from(size.max(1)).log2()).round() as usize
}

impl Costs {
    pub fn note(&mut self, size: u32, seconds: f64) {
        let at = bucket(size);
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        let mean = self.0[at].get_or_insert(seconds);
        follow(mean, seconds);
    }

    /// Between two measured sizes by the line through them; below all in proportion, above all like the largest.
    pub fn at(&self, size: u32) -> Option<f64> {
        let at = bucket(size);
        let known = |i: usize| self.0.get(i).copied().flatten().map(|seconds| (i, seconds));
        let below = (0..=at.min(self.0.len())).rev().find_map(known);
        let above = (at..self.0.len()).find_map(known);
        match (below, above) {
            (Some((i, a)), Some((j, b))) if i < j => Some(a + (b - a) * (at - i) as f64 / (j - i) as f64),
            (Some((_, seconds)), _) => Some(seconds),
            (None, Some((j, seconds))) => Some(seconds * 2f64.powf((at as f64 - j as f64) / 4.0)),
            (None, None) => None,
        }
    }
}

//! Where positions meet arithmetic: rotary frequencies and ALiBi slopes.
//!
//! Every function here follows `modeling_rope_utils.py` of transformers in f32, operation by operation; what
//! Python computes in f64 there (bases, ramps, attention factors) is f64 here too. Powers are taken in f64 and
//! rounded once, so that they do not depend on the platform's `powf`.

use crate::config::{Rope, RopeScaling};

impl Rope {
    /// Resolves the frequencies once, for a context of `served_context` tokens.
    ///
    /// Returns `head_dim / 2` inverse frequencies (radians per position) and the factor that multiplies both
    /// cosine and sine. Only [`RopeScaling::Dynamic`] and [`RopeScaling::LongRope`] depend on
    /// `served_context`: transformers lets them follow the current length, which would make a token's
    /// arithmetic depend on when it is asked for.
    pub fn frequencies(&self, head_dim: usize, served_context: usize) -> (Vec<f32>, f32) {
        let plain = || inverse(&powers(f64::from(self.theta), head_dim));
        match &self.scaling {
            RopeScaling::None => (plain(), 1.0),
            RopeScaling::Linear { factor } => (plain().iter().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Dynamic { factor, original_context } => {
                let base = dynamic_base(
                    f64::from(self.theta),
                    f64::from(*factor),
                    *original_context,
                    served_context,
                    head_dim,
                );
                (inverse(&powers(base, head_dim)), 1.0)
            }
            RopeScaling::Yarn { factor, original_context, beta_slow, beta_fast, truncate, attention_factor } => {
                let ramp = YarnRamp {
                    theta: f64::from(self.theta),
                    original_context: *original_context as f64,
                    beta_slow: f64::from(*beta_slow),
                    beta_fast: f64::from(*beta_fast),
                    truncate: *truncate,
                };
                let powers = powers(f64::from(self.theta), head_dim);
                (ramp.blend(&powers, head_dim, *factor), *attention_factor)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let bands = Llama3Bands {
                    factor: *factor,
                    low: *low_freq_factor,
                    high: *high_freq_factor,
                    original_context: *original_context as f64,
                };
                (plain().into_iter().map(|f| bands.scale(f)).collect(), 1.0)
            }
            RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor } => {
                let divisors = if served_context > *original_context { long_factor } else { short_factor };
                let powers = powers(f64::from(self.theta), head_dim);
                let frequencies = powers.iter().zip(divisors).map(|(p, d)| 1.0 / (d * p));
                (frequencies.collect(), *attention_factor)
            }
        }
    }
}

/// `base ^ (2i / head_dim)` for `i` in `0..head_dim / 2`, with base and exponent rounded to f32 first.
fn powers(base: f64, head_dim: usize) -> Vec<f32> {
    let base = f64::from(base as f32);
    (0..head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            base.powf(f64::from(exponent)) as f32
        })
        .collect()
}

fn inverse(powers: &[f32]) -> Vec<f32> {
    powers.iter().map(|p| 1.0 / p).collect()
}

/// The base that NTK-aware scaling uses at a served context; never less than the original one's.
fn dynamic_base(theta: f64, factor: f64, original_context: usize, served_context: usize, head_dim: usize) -> f64 {
    let original = original_context as f64;
    let served = served_context.max(original_context) as f64;
    let dim = head_dim as f64;
    theta * (factor * served / original - (factor - 1.0)).powf(dim / (dim - 2.0))
}

/// Which dimensions YaRN interpolates, and how much.
struct YarnRamp {
    theta: f64,
    original_context: f64,
    beta_slow: f64,
    beta_fast: f64,
    truncate: bool,
}

impl YarnRamp {
    /// The (fractional) dimension that turns `rotations` times over the original context.
    fn dimension(&self, rotations: f64, head_dim: f64) -> f64 {
        let turns = self.original_context / (rotations * 2.0 * std::f64::consts::PI);
        head_dim * turns.ln() / (2.0 * self.theta.ln())
    }

    /// Dimensions below the first are left alone, above the second divided in full.
    fn ends(&self, head_dim: usize) -> (f64, f64) {
        let dim = head_dim as f64;
        let mut low = self.dimension(self.beta_fast, dim);
        let mut high = self.dimension(self.beta_slow, dim);
        if self.truncate {
            low = low.floor();
            high = high.ceil();
        }
        (low.max(0.0), high.min(dim - 1.0))
    }

    fn blend(&self, powers: &[f32], head_dim: usize, factor: f32) -> Vec<f32> {
        let (low, mut high) = self.ends(head_dim);
        if low == high {
            high += 0.001;
        }
        let (start, width) = (low as f32, (high - low) as f32);
        powers
            .iter()
            .enumerate()
            .map(|(i, power)| {
                let ramp = ((i as f32 - start) / width).clamp(0.0, 1.0);
                let kept = 1.0 - ramp;
                1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
            })
            .collect()
    }
}

/// Llama 3.1's three bands of wavelengths.
struct Llama3Bands {
    factor: f32,
    low: f32,
    high: f32,
    original_context: f64,
}

impl Llama3Bands {
    fn scale(&self, frequency: f32) -> f32 {
        let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
        let longest = (self.original_context / f64::from(self.low)) as f32;
        let shortest = (self.original_context / f64::from(self.high)) as f32;
        if wavelength > longest {
            return frequency / self.factor;
        }
        if wavelength < shortest {
            return frequency;
        }
        let width = (f64::from(self.high) - f64::from(self.low)) as f32;
        let smooth = (self.original_context as f32 / wavelength - self.low) / width;
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

/// The slope of each head's distance penalty (Press 2022): for a power of two, `2^(-8/n)` and its powers; for
/// any other number, those of the power of two below, then every other one of the power of two above.
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    let geometric = |n: usize| (1..=n).map(move |i| (-8.0 * i as f64 / n as f64).exp2() as f32);
    if heads.is_power_of_two() || heads == 0 {
        return geometric(heads).collect();
    }
    let below = heads.next_power_of_two() / 2;
    let between = geometric(2 * below).step_by(2).take(heads - below);
    geometric(below).chain(between).collect()
}

#[cfg(test)]
mod tests {
    use super::alibi_slopes;

    #[test]
    fn slopes_of_the_paper() {
        let eight: Vec<f32> = (1..=8).map(|i| 0.5f32.powi(i)).collect();
        assert_eq!(alibi_slopes(8), eight);
        // Not a power of two: those of 4 heads, then the first and third of 8.
        let six = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125];
        assert_eq!(alibi_slopes(6), six);
        assert_eq!(alibi_slopes(1), [0.00390625]);
    }
}

//! Sampling as a function: a token is the argmax of filtered logits plus keyed noise.
//!
//! By the Gumbel-max identity this draws from the softmax of `logits / temperature`; because the noise depends only on (seed,
//! choice, position, token), a request replayed, moved or speculated gives the same tokens.

use spec::random::{hash, mix_token};

/// What shapes the choice of a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0, and what is as good as 0, is greedy.
    pub temperature: f32,
    /// Only the k largest logits; 0: all.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability; 1: all.
    pub top_p: f32,
    /// Only tokens at least this fraction as probable as the most probable; 0: all.
    pub min_p: f32,
    /// Key of the noise.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// A sampling parameter outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but it must be {allowed}")]
pub struct InvalidSampling {
    /// Which.
    pub name: &'static str,
    /// What it is.
    pub value: f32,
    /// What it may be.
    pub allowed: &'static str,
}

impl Sampling {
    /// Checks every range.
    ///
    /// # Errors
    /// The first parameter outside its range.
    pub fn validate(&self) -> Result<(), InvalidSampling> {
        let check =
            |ok: bool, name, value, allowed| if ok { Ok(()) } else { Err(InvalidSampling { name, value, allowed }) };
        check((0.0..=100.0).contains(&self.temperature), "temperature", self.temperature, "between 0 and 100")?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "between 0 and 1")
    }
}

/// Whether every logit is a finite number, as those of a sound model are: no other may be sampled from.
pub fn all_finite(logits: &[f32]) -> bool {
    // Infinities and NaN have the largest exponent; as integers, they are larger than every finite value.
    logits.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0) < f32::INFINITY.to_bits()
}

/// The largest logit's index, the lower one of equals; NaN is never the largest.
pub fn argmax(logits: &[f32]) -> u32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    // Lanes, so that the compiler makes vectors of them.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    logits.iter().position(|&x| x == max).unwrap_or(0) as u32
}

/// Below this the noise is lost in the rounding of logits divided by the temperature, and they may overflow: greedy.
pub(crate) const COLDEST: f32 = 1e-6;

/// The token at `position` of choice `choice` (the index among several completions of one prompt).
pub fn sample(logits: &[f32], sampling: &Sampling, choice: u64, position: u64) -> u32 {
    if sampling.temperature < COLDEST {
        return argmax(logits);
    }
    let key = hash(sampling.seed, PURPOSE, choice, position);
    let inverse = 1.0 / sampling.temperature;
    let mut best = (f32::NEG_INFINITY, u32::MAX);
    let mut consider = |token: u32, logit: f32| {
        let scaled = logit * inverse;
        let bits = mix_token(key, token);
        // Most tokens cannot win even with the largest noise that their leading bits allow.
        if scaled + noise_bound(bits) >= best.0 {
            let score = scaled + gumbel(bits);
            if score > best.0 || (score == best.0 && token < best.1) {
                best = (score, token);
            }
        }
    };
    if sampling.top_k == 0 && sampling.top_p >= 1.0 && sampling.min_p <= 0.0 {
        logits.iter().enumerate().for_each(|(token, &logit)| consider(token as u32, logit));
    } else {
        filter(logits, sampling, inverse).into_iter().for_each(|token| consider(token, logits[token as usize]));
    }
    if best.1 == u32::MAX { argmax(logits) } else { best.1 }
}

/// Whether top-k, top-p and min-p leave a token.
pub(crate) fn passes(logits: &[f32], sampling: &Sampling, token: u32) -> bool {
    let all = sampling.top_k == 0 && sampling.top_p >= 1.0 && sampling.min_p <= 0.0;
    all || filter(logits, sampling, 1.0 / sampling.temperature).contains(&token)
}

/// Names the noise among all uses of a seed.
const PURPOSE: u64 = 0x73_61_6d_70_6c_65;

/// A Gumbel variate from 32 random bits, `-ln(-ln u)` with u in the middle of its interval.
fn gumbel(bits: u32) -> f32 {
    let u = (f64::from(bits) + 0.5) / 4_294_967_296.0;
    (-(-u.ln()).ln()) as f32
}

/// At least [`gumbel`]: `-ln u >= 1 - u`, and the leading ones of `bits` bound `1 - u` from below.
fn noise_bound(bits: u32) -> f32 {
    ((!bits).leading_zeros() + 1) as f32 * std::f32::consts::LN_2 + 1e-3
}

/// The tokens that pass top-k, then top-p, then min-p, each on the softmax of scaled logits; the most probable always passes.
fn filter(logits: &[f32], sampling: &Sampling, inverse: f32) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let descending = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if (1..tokens.len()).contains(&sampling.top_k) {
        tokens.select_nth_unstable_by(sampling.top_k - 1, descending);
        tokens.truncate(sampling.top_k);
    }
    let max = logits[argmax(logits) as usize];
    let weight = |token: u32| f64::from((logits[token as usize] - max) * inverse).exp();
    if sampling.top_p < 1.0 {
        tokens.sort_unstable_by(descending);
        let limit = tokens.iter().map(|&t| weight(t)).sum::<f64>() * f64::from(sampling.top_p);
        let mut reached = 0.0;
        let enough = tokens.iter().position(|&t| {
            reached += weight(t);
            reached >= limit
        });
        tokens.truncate(enough.map_or(tokens.len(), |last| last + 1));
    }
    if sampling.min_p > 0.0 {
        tokens.retain(|&t| weight(t) >= f64::from(sampling.min_p));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits() -> Vec<f32> {
        (0..50).map(|i| ((i * 37 % 50) as f32) * 0.1).collect()
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = logits();
        let sampling = Sampling { temperature: 0.7, seed: 3, ..Sampling::default() };
        let draws = 200_000;
        let mut counts = vec![0f64; logits.len()];
        (0..draws).for_each(|p| counts[sample(&logits, &sampling, 0, p) as usize] += 1.0);
        let total: f64 = logits.iter().map(|&l| f64::from(l / 0.7).exp()).sum();
        let chi2: f64 = logits
            .iter()
            .zip(&counts)
            .map(|(&l, c)| {
                let expected = f64::from(l / 0.7).exp() / total * draws as f64;
                (c - expected).powi(2) / expected
            })
            .sum();
        // 49 degrees of freedom: mean 49, standard deviation 10.
        assert!(chi2 < 100.0, "chi-squared {chi2}");
    }

    #[test]
    fn the_bound_is_a_bound() {
        for i in 0..100_000u32 {
            let bits = i.wrapping_mul(0x9e37_79b9);
            for bits in [bits, !bits >> (i % 32), !(i % 7)] {
                assert!(noise_bound(bits) >= gumbel(bits), "{bits:x}");
            }
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = logits();
        let keeps = |sampling: Sampling| {
            let mut tokens = filter(&logits, &sampling, 1.0);
            tokens.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            tokens
        };
        let top_k = keeps(Sampling { top_k: 5, ..Sampling::default() });
        assert_eq!(top_k.len(), 5);
        assert!(top_k.iter().all(|&t| logits[t as usize] >= 4.5));
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        let nucleus = keeps(Sampling { top_p: 0.5, ..Sampling::default() });
        let mass: f32 = nucleus.iter().map(|&t| logits[t as usize].exp() / total).sum();
        let last = logits[*nucleus.last().unwrap() as usize].exp() / total;
        assert!(mass >= 0.5 && mass - last < 0.5);
        let min_p = keeps(Sampling { min_p: 0.5, ..Sampling::default() });
        assert!(min_p.iter().all(|&t| (logits[t as usize] - 4.9).exp() >= 0.4999));
        assert_eq!(min_p.len(), logits.iter().filter(|&&l| (l - 4.9).exp() >= 0.4999).count());
        assert_eq!(keeps(Sampling { top_p: 1e-9, ..Sampling::default() }).len(), 1);
    }

    #[test]
    fn every_infinity_and_nan_is_found() {
        let sound = [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45];
        assert!(all_finite(&sound));
        for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..sound.len() {
                let mut logits = sound;
                logits[at] = broken;
                assert!(!all_finite(&logits), "{broken} at {at}");
            }
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(sample(&[1.0, 3.0, 3.0], &Sampling::default(), 0, 0), 1);
        let one = Sampling { temperature: 1.0, top_k: 1, seed: 9, ..Sampling::default() };
        assert_eq!(sample(&[1.0, 4.0, 3.0], &one, 0, 0), 1);
        // Logits over so small a temperature are infinite.
        let cold = Sampling { temperature: 1e-40, ..Sampling::default() };
        assert_eq!(sample(&[1.0, 3.0, 2.0], &cold, 0, 0), 1);
    }
}

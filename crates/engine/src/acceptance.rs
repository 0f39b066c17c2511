//! How often is a draft's token the target's own? Sharing the noise, as Lyceum does, beside rejection sampling, from the same logits.
//!
//! Rejection sampling (Leviathan et al., arXiv 2211.17192) is a maximal coupling: no method accepts more. Shared Gumbel noise gives up a
//! little of that, and in return the target's choice depends on nothing that the draft did (Daliri et al., arXiv 2408.07978).

use crate::compare::{Scorer, each_row};
use crate::runner::RunError;
use crate::sampling::argmax;
use model::Decoder;
use tensor::{Device, KvFormat};

/// Probabilities that one drafted token is accepted; means, over several rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Acceptance {
    /// By rejection sampling: `sum min(p, q)`, which is one less the total variation.
    pub rejection: f64,
    /// By shared noise: `sum_i 1 / sum_j max(p_j / p_i, q_j / q_i)`.
    pub shared_noise: f64,
    /// What shared noise never falls below: `(1 - v) / (1 + v)` for a total variation of `v`.
    pub bound: f64,
}

/// The acceptance of one row of logits `[vocabulary]` at a temperature; 0 is greedy. Without top-k and the like: those change both
/// distributions before they are coupled.
pub fn acceptance(target: &[f32], draft: &[f32], temperature: f32) -> Acceptance {
    if temperature == 0.0 {
        let same = if argmax(target) == argmax(draft) { 1.0 } else { 0.0 };
        return Acceptance { rejection: same, shared_noise: same, bound: same };
    }
    let (p, q) = (softmax(target, temperature), softmax(draft, temperature));
    let rejection = p.iter().zip(&q).map(|(p, q)| p.min(*q)).sum::<f64>().min(1.0);
    let variation = 1.0 - rejection;
    Acceptance { rejection, shared_noise: shared_noise(&p, &q), bound: (1.0 - variation) / (1.0 + variation) }
}

/// Mean acceptance over all positions of a text, for each temperature.
///
/// # Errors
/// If there are no tokens, or they do not fit a decoder.
pub fn mean_acceptance(
    target: (&Decoder, KvFormat),
    draft: (&Decoder, KvFormat),
    device: &mut Device,
    tokens: &[u32],
    temperatures: &[f32],
) -> Result<Vec<Acceptance>, RunError> {
    let (mut target, mut draft) = (Scorer::new(target, tokens)?, Scorer::new(draft, tokens)?);
    let mut means = vec![Acceptance::default(); temperatures.len()];
    each_row(&mut target, &mut draft, device, tokens, &mut |target, draft| {
        let vocabulary = target.len().min(draft.len());
        for (mean, &temperature) in means.iter_mut().zip(temperatures) {
            let row = acceptance(&target[..vocabulary], &draft[..vocabulary], temperature);
            mean.rejection += row.rejection / tokens.len() as f64;
            mean.shared_noise += row.shared_noise / tokens.len() as f64;
            mean.bound += row.bound / tokens.len() as f64;
        }
    });
    Ok(means)
}

/// The probability that `argmax(ln p + g)` and `argmax(ln q + g)` are the same for Gumbel noise `g`.
///
/// As a race of exponential clocks `e`, token i wins both if `e_j / e_i > max(p_j / p_i, q_j / q_i)` for all others j. In the order of
/// `p / q`, the maximum is the first of the two for all tokens on one side, the second for those on the other.
fn shared_noise(p: &[f64], q: &[f64]) -> f64 {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| p[i] > 0.0 && q[i] > 0.0).collect();
    order.sort_unstable_by(|&i, &j| (p[j] * q[i]).total_cmp(&(p[i] * q[j])).then(i.cmp(&j)));
    // Tokens that one distribution lacks come first or last of all.
    let mut p_before: f64 = (0..p.len()).filter(|&i| q[i] == 0.0).map(|i| p[i]).sum();
    let mut q_after: f64 = (0..p.len()).filter(|&i| p[i] == 0.0 || q[i] > 0.0).map(|i| q[i]).sum();
    let mut both = 0.0;
    for i in order {
        p_before += p[i];
        q_after -= q[i];
        both += 1.0 / (p_before / p[i] + q_after.max(0.0) / q[i]);
    }
    both
}

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let largest = f64::from(logits[argmax(logits) as usize]);
    let weights: Vec<f64> = logits.iter().map(|&x| ((f64::from(x) - largest) / f64::from(temperature)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{Sampling, sample};
    use spec::random::{hash, unit};

    /// Logits, and others that differ from them by noise of this width.
    fn pair(seed: u64, len: u64, width: f64) -> (Vec<f32>, Vec<f32>) {
        let at = |purpose, i| unit(hash(seed, purpose, i, 0)) - 0.5;
        let target: Vec<f32> = (0..len).map(|i| (at(1, i) * 8.0) as f32).collect();
        let draft = (0..len).map(|i| target[i as usize] + (at(2, i) * width) as f32).collect();
        (target, draft)
    }

    #[test]
    fn the_sum_is_the_double_sum() {
        for seed in 0..20 {
            let (target, draft) = pair(seed, 40, seed as f64 / 2.0);
            let (p, q) = (softmax(&target, 0.8), softmax(&draft, 0.8));
            let inner = |i: usize| (0..40).map(|j| (p[j] / p[i]).max(q[j] / q[i])).sum::<f64>();
            let defined: f64 = (0..40).map(|i| 1.0 / inner(i)).sum();
            assert!((shared_noise(&p, &q) - defined).abs() < 1e-9);
        }
        // Tokens that only one has.
        assert!((shared_noise(&[0.5, 0.5, 0.0], &[0.5, 0.0, 0.5]) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(shared_noise(&[1.0, 0.0], &[0.0, 1.0]), 0.0);
    }

    /// The sampler itself, with the same seed and positions for both, agrees as often as the formula says.
    #[test]
    fn the_sampler_agrees_as_often_as_the_formula_says() {
        const DRAWS: u64 = 40_000;
        for (seed, temperature) in [(1, 1.0), (2, 0.6), (3, 1.4)] {
            let (target, draft) = pair(seed, 60, 3.0);
            let sampling = Sampling { temperature, seed, ..Sampling::default() };
            let agree =
                |&position: &u64| sample(&target, &sampling, 0, position) == sample(&draft, &sampling, 0, position);
            let measured = (0..DRAWS).filter(agree).count() as f64 / DRAWS as f64;
            let expected = acceptance(&target, &draft, temperature).shared_noise;
            let deviation = (expected * (1.0 - expected) / DRAWS as f64).sqrt();
            assert!((measured - expected).abs() < 5.0 * deviation, "{measured}, not {expected}");
        }
    }

    #[test]
    fn shared_noise_lies_between_its_bound_and_rejection() {
        for seed in 0..50 {
            let (target, draft) = pair(seed, 100, seed as f64 / 5.0);
            let Acceptance { rejection, shared_noise, bound } = acceptance(&target, &draft, 1.0);
            assert!(bound <= shared_noise + 1e-9 && shared_noise <= rejection + 1e-9 && rejection <= 1.0);
            assert!(seed > 0 || bound > 1.0 - 1e-9, "equal distributions always agree");
        }
    }

    /// Two ways to the same figure: a sum over tokens here, an integral over races there.
    #[test]
    fn lenient_acceptance_knows_the_same_chance() {
        for seed in 0..10 {
            let (target, draft) = pair(seed, 50, 1.0 + seed as f64);
            let other = crate::typical::cost(&target, &draft, 0.9, 0.2).exact;
            assert!((acceptance(&target, &draft, 0.9).shared_noise - other).abs() < 1e-6);
        }
    }

    #[test]
    fn greedy_accepts_what_is_the_same() {
        assert_eq!(acceptance(&[1.0, 2.0], &[0.0, 5.0], 0.0).shared_noise, 1.0);
        assert_eq!(acceptance(&[1.0, 2.0], &[5.0, 0.0], 0.0).rejection, 0.0);
    }
}

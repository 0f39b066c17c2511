//! Lenient acceptance of drafts: a drafted token that the model finds typical is kept though the model would have chosen another.
//!
//! The criterion is that of Medusa (arXiv 2401.10774): with `p` the model's softmax of logits over temperature and `H` its entropy, a draft
//! `x` is kept if `p(x) > min(threshold, sqrt(threshold) e^-H)`: the flatter the distribution, the less is asked. Tokens are then no
//! longer those of plain decoding. What that costs is the divergence of the distribution of the kept token from `p`, which [`cost`]
//! computes exactly for a draft model that shares the noise (see [`crate::sampling`]), and [`measure`] averages over a text.

use crate::compare::{Scorer, each_row};
use crate::runner::RunError;
use crate::sampling::{COLDEST, Sampling, passes};
use model::Decoder;
use tensor::{Device, KvFormat};

/// Whether `token` may be kept though these logits chose another. Greedy sampling keeps nothing else than its own choice, and what
/// top-k, top-p or min-p exclude stays excluded.
pub fn accepts(logits: &[f32], sampling: &Sampling, token: u32, threshold: f32) -> bool {
    if sampling.temperature < COLDEST {
        return false;
    }
    let p = softmax(logits, sampling.temperature);
    is_typical(p[token as usize], entropy(&p), threshold.into()) && passes(logits, sampling, token)
}

fn is_typical(p: f64, entropy: f64, threshold: f64) -> bool {
    p > threshold.min(threshold.sqrt() * (-entropy).exp())
}

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut p: Vec<f64> = logits.iter().map(|&x| ((f64::from(x) - max) / f64::from(temperature)).exp()).collect();
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    p
}

fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|&&p| p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

/// What leniency does to one token's distribution, or on average to many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Kullback-Leibler divergence of the kept token's distribution from the model's, in nats.
    pub kl_nats: f64,
    /// The chance that the draft is the model's own choice.
    pub exact: f64,
    /// The chance that it is kept.
    pub lenient: f64,
}

/// The cost at one position, by the logits of both models and without top-k, top-p and min-p.
///
/// Both choose by the same noise: with independent exponentials `E_i`, the model takes `argmin E_i / p_i` and the draft model
/// `argmin E_i / q_i`. Integrating over the two minima, they take `x` and `y != x` with probability
/// `p_x q_y` times the integral of `1 / Z(u)^2` from `p_y / q_y` to `p_x / q_x` (0 if that runs backwards), where `Z(u) = sum_i max(p_i, u q_i)`;
/// and both take `x` with probability `1 / sum_i max(p_i / p_x, q_i / q_x)`.
pub fn cost(target: &[f32], draft: &[f32], temperature: f32, threshold: f32) -> Cost {
    let floor = |p: Vec<f64>| p.into_iter().map(|p| p.max(1e-290)).collect::<Vec<_>>();
    let (p, q) = (floor(softmax(target, temperature)), floor(softmax(draft, temperature)));
    let h = entropy(&p);
    let typical: Vec<bool> = p.iter().map(|&p| is_typical(p, h, threshold.into())).collect();
    let ratio = |i: usize| p[i] / q[i];
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| ratio(a).total_cmp(&ratio(b)));
    let mut cost = Cost::default();
    // Of Z(u) = a + b u: what lies above u in the order gives a, what lies below it b.
    let (mut a, mut b) = (p.iter().sum::<f64>(), 0.0);
    // The integral up to u, and the sums over rejected drafts below u of q, and of q times their integral.
    let (mut u, mut integral, mut rejected, mut weighted) = (0.0, 0.0, 0.0, 0.0);
    for &x in &order {
        let to = ratio(x);
        integral += (to - u) / ((a + b * u) * (a + b * to));
        u = to;
        let same = p[x] / (a + b * u);
        // Rejected drafts with another choice of the model's: this token.
        let mut kept = p[x] * (integral * rejected - weighted);
        cost.exact += same;
        if typical[x] {
            kept += q[x];
            cost.lenient += q[x];
        } else {
            kept += same;
            cost.lenient += same;
            rejected += q[x];
            weighted += q[x] * integral;
        }
        // What sums of huge and tiny numbers lose may be more than nothing.
        let kept = kept.max(1e-300);
        cost.kl_nats += kept * (kept / p[x]).ln();
        (a, b) = ((a - p[x]).max(0.0), b + q[x]);
    }
    cost
}

/// The mean cost over all positions of `tokens`, for the target and the draft model in this order. Where the vocabularies differ in
/// length, what only one of them has is left out.
///
/// # Errors
/// If there are no tokens, or they do not fit a decoder.
pub fn measure(
    (target, draft): (&Decoder, &Decoder),
    device: &mut Device,
    kv: KvFormat,
    tokens: &[u32],
    temperature: f32,
    thresholds: &[f32],
) -> Result<Vec<Cost>, RunError> {
    let (mut one, mut other) = (Scorer::new((target, kv), tokens)?, Scorer::new((draft, kv), tokens)?);
    let vocab = target.config().vocab_size.min(draft.config().vocab_size);
    let mut means = vec![Cost::default(); thresholds.len()];
    each_row(&mut one, &mut other, device, tokens, &mut |p, q| {
        for (mean, &threshold) in means.iter_mut().zip(thresholds) {
            let at = cost(&p[..vocab], &q[..vocab], temperature, threshold);
            mean.kl_nats += at.kl_nats / tokens.len() as f64;
            mean.exact += at.exact / tokens.len() as f64;
            mean.lenient += at.lenient / tokens.len() as f64;
        }
    });
    Ok(means)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::sample;
    use spec::random::{hash, unit};

    fn random(seed: u64, len: usize, spread: f64) -> Vec<f32> {
        (0..len as u64).map(|i| ((unit(hash(seed, 1, i, 0)) - 0.5) * spread) as f32).collect()
    }

    /// Against the sampler itself, which draws both tokens with the same noise.
    #[test]
    fn the_cost_is_that_of_drawing() {
        for (seed, threshold, temperature) in [(1, 0.09, 1.0), (2, 0.3, 0.7), (3, 0.2, 1.5)] {
            let target = random(seed, 12, 6.0);
            let draft: Vec<f32> = target.iter().zip(random(seed + 10, 12, 4.0)).map(|(t, noise)| t + noise).collect();
            let sampling = Sampling { temperature, seed, ..Sampling::default() };
            let draws = 400_000;
            let (mut exact, mut lenient, mut counts) = (0, 0, vec![0u32; target.len()]);
            for position in 0..draws {
                let (x, y) = (sample(&target, &sampling, 0, position), sample(&draft, &sampling, 0, position));
                let kept = x == y || accepts(&target, &sampling, y, threshold);
                exact += u32::from(x == y);
                lenient += u32::from(kept);
                counts[if kept { y } else { x } as usize] += 1;
            }
            let share = |count: u32| f64::from(count) / draws as f64;
            let p = softmax(&target, temperature);
            let kl: f64 =
                counts.iter().zip(&p).filter(|(c, _)| **c > 0).map(|(&c, p)| share(c) * (share(c) / p).ln()).sum();
            let cost = cost(&target, &draft, temperature, threshold);
            // Three standard deviations of a share of 400,000 are below 0.0024.
            assert!((cost.exact - share(exact)).abs() < 0.003, "{cost:?}, drawn {}", share(exact));
            assert!((cost.lenient - share(lenient)).abs() < 0.003, "{cost:?}, drawn {}", share(lenient));
            assert!((cost.kl_nats - kl).abs() < 0.004, "{cost:?}, drawn {kl}");
            assert!(cost.lenient > cost.exact + 0.01 && cost.kl_nats > 0.005, "the case must show a difference");
        }
    }

    #[test]
    fn equal_models_and_hopeless_drafts_cost_nothing() {
        let target = random(1, 50, 8.0);
        let same = cost(&target, &target, 1.0, 0.3);
        assert!((same.exact - 1.0).abs() < 1e-9 && (same.lenient - 1.0).abs() < 1e-9 && same.kl_nats.abs() < 1e-9);
        // The draft insists on what the model hardly ever says.
        let mut draft = vec![-60.0; 50];
        let least = (0..50).min_by(|&a, &b| target[a].total_cmp(&target[b])).unwrap();
        draft[least] = 0.0;
        let hopeless = cost(&target, &draft, 1.0, 0.3);
        assert!(hopeless.kl_nats.abs() < 1e-9 && (hopeless.lenient - hopeless.exact).abs() < 1e-9, "{hopeless:?}");
    }

    /// If everything is typical, what is kept has the draft's distribution.
    #[test]
    fn accepting_everything_costs_the_divergence_of_the_draft() {
        let (target, draft) = (random(3, 30, 4.0), random(4, 30, 4.0));
        let (p, q) = (softmax(&target, 1.0), softmax(&draft, 1.0));
        let kl: f64 = q.iter().zip(&p).map(|(q, p)| q * (q / p).ln()).sum();
        let cost = cost(&target, &draft, 1.0, 1e-12);
        assert!((cost.lenient - 1.0).abs() < 1e-9 && (cost.kl_nats - kl).abs() < 1e-9);
    }

    #[test]
    fn greedy_and_filtered_tokens_stay_exact() {
        let logits = [1.0, 0.9, 0.8];
        let warm = Sampling { temperature: 1.0, ..Sampling::default() };
        assert!(accepts(&logits, &warm, 1, 0.1));
        assert!(!accepts(&logits, &Sampling::default(), 1, 0.1));
        assert!(!accepts(&logits, &Sampling { top_k: 1, ..warm.clone() }, 1, 0.1));
        assert!(!accepts(&[1.0, f32::NEG_INFINITY], &warm, 1, 0.1));
    }
}

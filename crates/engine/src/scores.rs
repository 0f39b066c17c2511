//! How probable tokens are under the model's own distribution.

use crate::live::Scored;

/// Scores a token and the `top` most probable ones, most probable first, the lower id of equals first, from the softmax of one row of
/// logits `[vocabulary]`. Sums run in f64, in order. `logits` must be finite, and `token` one of them.
pub fn score(logits: &[f32], token: u32, top: u32) -> Scored {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(max)).exp()).sum();
    let normaliser = f64::from(max) + sum.ln();
    let logprob = |token: u32| (f64::from(logits[token as usize]) - normaliser).max(f64::from(f32::MIN)) as f32;
    let top = largest(logits, top as usize).into_iter().map(|token| (token, logprob(token))).collect();
    Scored { token, logprob: Some(logprob(token)), top }
}

/// The `count` largest, in order.
fn largest(logits: &[f32], count: usize) -> Vec<u32> {
    let before = |a: u32, b: u32| {
        let (x, y) = (logits[a as usize], logits[b as usize]);
        x > y || (x == y && a < b)
    };
    let count = count.min(logits.len());
    let mut best: Vec<u32> = Vec::with_capacity(count + 1);
    for (token, &logit) in logits.iter().enumerate() {
        // Nearly all tokens end here: later equals never come before earlier ones.
        if best.len() == count && best.last().is_none_or(|&last| logit <= logits[last as usize]) {
            continue;
        }
        let place = best.partition_point(|&other| before(other, token as u32));
        best.insert(place, token as u32);
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::random::{hash, unit};

    fn random_logits(seed: u64, len: usize) -> Vec<f32> {
        (0..len as u64).map(|i| (unit(hash(seed, 1, i, 0)) * 20.0 - 10.0).round() as f32 / 2.0).collect()
    }

    /// The definition: the logarithm of `exp(x_i) / sum exp(x_j)`, and a full sort.
    #[test]
    fn scores_follow_the_definition() {
        for seed in 0..50 {
            let logits = random_logits(seed, 60 + seed as usize);
            let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let defined = |token: u32| (f64::from(logits[token as usize]).exp() / total).ln();
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap());
            for top in [0, 1, 5, 20, 1000] {
                let scored = score(&logits, 7, top);
                assert!((f64::from(scored.logprob.unwrap()) - defined(7)).abs() < 1e-6);
                let expected = &order[..logits.len().min(top as usize)];
                assert_eq!(scored.top.iter().map(|t| t.0).collect::<Vec<_>>(), expected, "seed {seed}, top {top}");
                assert!(scored.top.iter().all(|&(token, p)| (f64::from(p) - defined(token)).abs() < 1e-6));
            }
        }
    }

    #[test]
    fn probabilities_sum_to_one() {
        let logits = random_logits(9, 300);
        let sum: f64 = score(&logits, 0, 300).top.iter().map(|&(_, p)| f64::from(p).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }

    #[test]
    fn extreme_logits_overflow_nothing() {
        let scored = score(&[f32::MAX, 0.0, f32::MIN], 2, 2);
        assert_eq!(scored.top[0], (0, 0.0));
        assert_eq!(scored.top[1].0, 1);
        assert_eq!(scored.logprob, Some(f32::MIN), "what f32 cannot say stays finite");
        assert_eq!(score(&[1000.0, 1000.0], 1, 0).logprob, Some(-std::f32::consts::LN_2));
    }
}

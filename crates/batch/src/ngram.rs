//! Drafting without a draft model: what followed the same tokens before will follow them again (prompt lookup).

/// Tokens that are looked back on at most: the cost of a proposal is bounded, however long the sequence.
const LOOK_BACK: usize = 4096;

/// Appends up to `most` proposed continuations of `tokens` to `out` and returns how many.
///
/// Of all places where the last `n` tokens stood before, `n` as large as possible within `shortest..=longest`, the latest one's
/// continuation is proposed. Nothing is proposed if there is no such place within the last 4096 tokens.
pub fn propose(tokens: &[u32], longest: u32, shortest: u32, most: u32, out: &mut Vec<u32>) -> u32 {
    let tokens = &tokens[tokens.len().saturating_sub(LOOK_BACK)..];
    let Some((&last, before)) = tokens.split_last() else { return 0 };
    let (longest, shortest) = (longest as usize, shortest.max(1) as usize);
    // The length of the match and the index behind it.
    let mut best = (0, 0);
    for end in (1..=before.len()).rev() {
        if before[end - 1] != last {
            continue;
        }
        let run = before[..end].iter().rev().zip(tokens.iter().rev()).take(longest).take_while(|(a, b)| a == b).count();
        if run > best.0 {
            best = (run, end);
            if run == longest {
                break;
            }
        }
    }
    if best.0 < shortest {
        return 0;
    }
    let proposed = &tokens[best.1..][..(tokens.len() - best.1).min(most as usize)];
    out.extend(proposed);
    proposed.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word for word.
    fn naive(tokens: &[u32], longest: usize, shortest: usize, most: usize) -> Vec<u32> {
        for n in (shortest..=longest.min(tokens.len())).rev() {
            let (at, last) = (tokens.len() - n, &tokens[tokens.len() - n..]);
            for start in (0..at).rev() {
                if &tokens[start..start + n] == last {
                    return tokens[start + n..].iter().copied().take(most).collect();
                }
            }
        }
        Vec::new()
    }

    proptest! {
        #[test]
        fn proposes_what_followed_the_longest_match(
            tokens in prop::collection::vec(0u32..4, 0..60), longest in 1usize..6, less in 0usize..5, most in 0usize..8,
        ) {
            let shortest = longest.saturating_sub(less).max(1);
            let mut out = vec![7];
            let count = propose(&tokens, longest as u32, shortest as u32, most as u32, &mut out);
            prop_assert_eq!(count as usize, out.len() - 1);
            prop_assert_eq!(&out[1..], naive(&tokens, longest, shortest, most));
        }
    }
}

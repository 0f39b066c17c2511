//! Random numbers that are a function of what they are for, never of when they are drawn.
//!
//! Counter-based: a key (seed, purpose, index) leads to a value, so that whoever asks, in whatever order and
//! on whichever machine, gets the same.

/// A well-mixed 64-bit value for a key of four words (the finaliser of SplitMix64, chained).
pub fn hash(seed: u64, purpose: u64, a: u64, b: u64) -> u64 {
    [purpose, a, b].into_iter().fold(mix(seed), |state, word| mix(state ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The finaliser of SplitMix64: a bijection of 64-bit words that spreads every bit over all.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 32 bits for one token under a key.
pub fn mix_token(key: u64, token: u32) -> u32 {
    (mix(key ^ u64::from(token)) >> 32) as u32
}

/// A word for a name, so that what belongs to it depends on the name and not on its place in a list.
pub fn name(text: &str) -> u64 {
    let fold = |state: u64, byte: u8| mix(state ^ u64::from(byte));
    text.bytes().fold(mix(text.len() as u64), fold)
}

/// A number in 0..1 from a hash.
pub fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

/// A number below `bound` from a hash (multiply and shift; `bound` must not be zero).
pub fn below(hash: u64, bound: u64) -> u64 {
    ((u128::from(hash) * u128::from(bound)) >> 64) as u64
}

/// A permutation of 0..`len` under a key, computed entry by entry.
///
/// A Feistel network over the next even power of two; what falls outside walks on until it falls inside, four
/// steps at most on average.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    key: u64,
    len: u64,
    /// Bits of each half.
    half: u32,
}

const ROUNDS: u64 = 4;

impl Permutation {
    /// The permutation of 0..`len` that belongs to `key`.
    pub fn new(key: u64, len: u64) -> Self {
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        Self { key, len, half: bits.div_ceil(2).max(1) }
    }

    /// Where `index` goes. `index` must be below the length.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.len, "{index} is not below {}", self.len);
        let mut at = self.network(index);
        while at >= self.len {
            at = self.network(at);
        }
        at
    }

    fn network(&self, index: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (index >> self.half, index & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (hash(self.key, round, right, 0) & mask));
        }
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_taken_once() {
        for len in [1, 2, 3, 4, 5, 17, 64, 65, 1000, 4097] {
            for key in 0..4 {
                let permutation = Permutation::new(key, len);
                let mut places: Vec<u64> = (0..len).map(|index| permutation.at(index)).collect();
                places.sort_unstable();
                assert!(places.into_iter().eq(0..len), "length {len}, key {key}");
            }
        }
    }

    #[test]
    fn another_key_is_another_order() {
        let order = |key| (0..1000).map(|index| Permutation::new(key, 1000).at(index)).collect::<Vec<_>>();
        assert_ne!(order(1), order(2));
        let fixed = order(3).into_iter().enumerate().filter(|(index, at)| *index as u64 == *at).count();
        assert!(fixed < 10, "{fixed} of 1000 stay where they are");
    }

    #[test]
    fn numbers_stay_in_their_range() {
        assert!((0..1000).all(|i| (0.0..1.0).contains(&unit(mix(i))) && below(mix(i), 7) < 7));
        assert!(unit(u64::MAX) < 1.0 && below(u64::MAX, 7) == 6);
    }
}

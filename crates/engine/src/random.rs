//! Random numbers that are a function of what they are for, never of when they are drawn.

/// A well-mixed 64-bit value for a key of four words (the finaliser of SplitMix64, chained).
pub fn hash(seed: u64, purpose: u64, a: u64, b: u64) -> u64 {
    [purpose, a, b].into_iter().fold(mix(seed), |state, word| mix(state ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 32 bits for one token under a key.
pub fn mix_token(key: u64, token: u32) -> u32 {
    (mix(key ^ u64::from(token)) >> 32) as u32
}

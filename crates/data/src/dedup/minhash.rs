//! MinHash signatures and their bands.

use crate::words::{hash, mix};

/// Bands of a signature.
pub const BANDS: usize = 14;

/// Hashes of a band.
pub const ROWS: usize = 8;

/// Hashes of a signature.
pub const HASHES: usize = BANDS * ROWS;

/// The least value of each of 112 hash functions over a set. Two sets agree in each with the probability that a
/// random member of either is in both (their Jaccard similarity).
pub type Signature = [u32; HASHES];

/// The functions: the upper half of a * x + b, which is universal for 32-bit x.
const FUNCTIONS: [(u64, u64); HASHES] = {
    let mut functions = [(0, 0); HASHES];
    let mut at = 0;
    while at < HASHES {
        functions[at] = (mix(2 * at as u64 + 1) | 1, mix(2 * at as u64 + 0x1_0000));
        at += 1;
    }
    functions
};

/// Functions that are computed together, so that they stay in registers.
const TOGETHER: usize = 8;

/// The signature of a set of hashes, of which the upper halves count; nothing for the empty set.
pub fn signature(members: &[u64]) -> Option<Signature> {
    let mut signature = [u32::MAX; HASHES];
    for (signature, functions) in signature.chunks_exact_mut(TOGETHER).zip(FUNCTIONS.chunks_exact(TOGETHER)) {
        let functions: [(u64, u64); TOGETHER] = std::array::from_fn(|at| functions[at]);
        let mut least = [u64::MAX; TOGETHER];
        for member in members {
            for (least, (a, b)) in least.iter_mut().zip(functions) {
                *least = (*least).min(a.wrapping_mul(member >> 32).wrapping_add(b));
            }
        }
        for (hash, least) in signature.iter_mut().zip(least) {
            *hash = (least >> 32) as u32;
        }
    }
    (!members.is_empty()).then_some(signature)
}

/// A hash of each band.
pub fn bands(signature: &Signature) -> [u64; BANDS] {
    std::array::from_fn(|band| {
        let mut bytes = [0; ROWS * 4];
        for (bytes, hash) in bytes.chunks_exact_mut(4).zip(&signature[band * ROWS..]) {
            bytes.copy_from_slice(&hash.to_le_bytes());
        }
        hash(&bytes)
    })
}

/// The share of hashes that agree.
pub fn similarity(a: &Signature, b: &Signature) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / HASHES as f64
}

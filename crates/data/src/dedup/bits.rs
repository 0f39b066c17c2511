//! One bit per document.

/// A set of numbers below a bound.
#[derive(Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    /// The empty set of numbers below `bound`.
    pub(super) fn new(bound: u64) -> Self {
        Self { words: vec![0; bound.div_ceil(64) as usize], count: 0 }
    }

    pub(super) fn set(&mut self, at: u64) {
        if !self.get(at) {
            self.words[at as usize / 64] |= 1 << (at % 64);
            self.count += 1;
        }
    }

    pub(super) fn get(&self, at: u64) -> bool {
        self.words[at as usize / 64] >> (at % 64) & 1 == 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

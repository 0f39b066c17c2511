//! Who computes which part? Degrees of parallelism, shares of an axis and the order of work along a pipeline, as plain data.

pub mod schedule;

use std::ops::Range;

/// How many ranks divide each kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degrees {
    /// Replicas, each with data of its own.
    pub data: usize,
    /// Stages, each with some of the layers.
    pub pipeline: usize,
    /// Groups that hold different experts.
    pub expert: usize,
    /// Ranks that share every matrix.
    pub tensor: usize,
}

impl Degrees {
    /// Everything on one rank.
    pub const ONE: Self = Self { data: 1, pipeline: 1, expert: 1, tensor: 1 };

    /// Ranks in all. Expert parallelism divides the data-parallel ranks and adds none.
    pub fn ranks(self) -> usize {
        self.data * self.pipeline * self.tensor
    }
}

/// One rank's share of an axis that `of` ranks divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which share, from 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl Share {
    /// The whole axis.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// The elements of an axis of `len` that this share holds; shares differ by at most one element, the first ones being longer.
    pub fn range(self, len: usize) -> Range<usize> {
        let (each, extra) = (len / self.of, len % self.of);
        let start = self.index * each + self.index.min(extra);
        start..start + each + usize::from(self.index < extra)
    }
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn shares_cover_an_axis_once() {
        for of in 1..9 {
            for len in 0..40 {
                let mut next = 0;
                for index in 0..of {
                    let range = Share { index, of }.range(len);
                    assert_eq!(range.start, next);
                    assert!(range.len().abs_diff(len / of) <= 1);
                    next = range.end;
                }
                assert_eq!(next, len);
            }
        }
    }
}

//! How do ranks talk? Groups of ranks and the collectives that layers call.
//!
//! Only groups of one exist so far, whose collectives leave data as it is; layers already call them where more ranks would need them.

use mesh::Share;
use tensor::Tensor;

/// Ranks that share an axis, seen from one of them.
#[derive(Clone, Debug)]
pub struct Group {
    share: Share,
}

impl Group {
    /// The group of one rank.
    pub fn single() -> Self {
        Self { share: Share::WHOLE }
    }

    /// This rank's share of the axis.
    pub fn share(&self) -> Share {
        self.share
    }

    /// Replaces the first `rows` rows by their sum over the group. In a group of one they are that sum already.
    pub fn all_reduce_sum(&self, x: &mut Tensor, rows: usize) {
        debug_assert!(self.share == Share::WHOLE && rows <= x.rows());
    }
}

/// What a layer sees of the mesh: the groups whose parts it computes.
#[derive(Clone, Debug)]
pub struct Parallel {
    /// Ranks that share every matrix.
    pub tensor: Group,
    /// Ranks that hold different experts.
    pub expert: Group,
}

impl Parallel {
    /// Everything on one rank.
    pub fn single() -> Self {
        Self { tensor: Group::single(), expert: Group::single() }
    }
}

//! How long do ranks talk? Collectives over rings, on the links that the group spans.

use crate::hardware::{Accelerator, Link};

/// Ranks that talk, and over which links.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    link: &'a Link,
    ranks: usize,
    efficiency: f64,
}

impl<'a> Group<'a> {
    /// `ranks` of which neighbours lie `stride` devices apart: they are in one node where `ranks * stride` devices are. `efficiency` is the share of a
    /// link's bandwidth that arrives.
    pub fn new(accelerator: &'a Accelerator, ranks: usize, stride: usize, efficiency: f64) -> Self {
        let inside = ranks * stride <= accelerator.devices_per_node;
        let link = if inside { &accelerator.intra_node } else { &accelerator.inter_node };
        Self { link, ranks, efficiency }
    }

    /// Ranks in the group.
    pub fn ranks(self) -> usize {
        self.ranks
    }

    /// Seconds until every rank has the sum of `bytes` on each rank: 2 (n - 1) / n of them cross each link, in 2 (n - 1) steps.
    pub fn all_reduce(self, bytes: f64) -> f64 {
        2.0 * self.reduce_scatter(bytes)
    }

    /// Seconds until each rank has its n-th of the sum of `bytes`; or, the other way round, all of them from n-ths (all-gather).
    pub fn reduce_scatter(self, bytes: f64) -> f64 {
        let (n, others) = (self.ranks as f64, self.ranks as f64 - 1.0);
        if others < 1.0 {
            return 0.0;
        }
        bytes * others / n / self.bandwidth() + others * self.link.latency.value
    }

    /// Seconds until `bytes` of each rank have gone to others, an n-th to each.
    pub fn all_to_all(self, bytes: f64) -> f64 {
        match self.ranks {
            1 => 0.0,
            n => bytes * (n as f64 - 1.0) / n as f64 / self.bandwidth() + self.link.latency.value,
        }
    }

    /// Seconds until `bytes` have come from one rank to the next.
    pub fn send(self, bytes: f64) -> f64 {
        bytes / self.bandwidth() + self.link.latency.value
    }

    fn bandwidth(self) -> f64 {
        self.link.bandwidth.value * self.efficiency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    #[test]
    fn rings_cost_what_their_formula_says() {
        let catalogue = Catalogue::embedded().unwrap();
        let h100 = catalogue.get("h100").unwrap();
        let eight = Group::new(h100, 8, 1, 1.0);
        // 7/8 of a gigabyte at 450 GB/s, there and back, and 14 hops.
        assert!((eight.all_reduce(1e9) - (2.0 * 0.875e9 / 450e9 + 14e-6)).abs() < 1e-12);
        assert_eq!(Group::new(h100, 1, 1, 1.0).all_reduce(1e9), 0.0);
        assert_eq!(Group::new(h100, 1, 1, 1.0).all_to_all(1e9), 0.0);
        let across = Group::new(h100, 2, 8, 1.0);
        assert!((across.send(1e9) - (1e9 / 50e9 + 5e-6)).abs() < 1e-12);
        assert!(Group::new(h100, 16, 1, 0.5).all_reduce(1e9) > 2.0 * eight.all_reduce(1e9));
    }
}

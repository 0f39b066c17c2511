//! How long do ranks talk? Collectives over rings, on the links that the group spans.

use crate::hardware::{Accelerator, Link};

/// Ranks that talk, and over which links.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    accelerator: &'a Accelerator,
    link: &'a Link,
    ranks: usize,
    /// Ranks of the group in one node.
    together: usize,
    efficiency: f64,
}

impl<'a> Group<'a> {
    /// `ranks` of which neighbours lie `stride` devices apart: they are in one node where `ranks * stride` devices are. `efficiency` is the share of a
    /// link's bandwidth that arrives.
    pub fn new(accelerator: &'a Accelerator, ranks: usize, stride: usize, efficiency: f64) -> Self {
        let inside = ranks * stride <= accelerator.devices_per_node;
        let link = if inside { &accelerator.intra_node } else { &accelerator.inter_node };
        let together = (accelerator.devices_per_node / stride.max(1)).clamp(1, ranks.max(1));
        Self { accelerator, link, ranks, together, efficiency }
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
        bytes * others / n / self.ring() + others * self.link.latency.value
    }

    /// Seconds until each row of `bytes` together has gone to `visits` of the ranks, any as likely: once to each node where it is wanted, over the link of its own rank,
    /// and once to each rank inside a node.
    pub fn dispatch(self, visits: f64, bytes: f64) -> f64 {
        if self.ranks == 1 {
            return 0.0;
        }
        let reached = |places: f64| places * (1.0 - (1.0 - 1.0 / places).powf(visits)) * (places - 1.0) / places;
        let inside = bytes * visits / (self.accelerator.intra_node.bandwidth.value * self.efficiency);
        let nodes = self.ranks.div_ceil(self.together) as f64;
        match nodes > 1.0 {
            // Both at once: the slower one counts.
            true => inside.max(bytes * reached(nodes) / self.bandwidth()) + self.link.latency.value,
            false => inside * (self.ranks as f64 - 1.0) / self.ranks as f64 + self.link.latency.value,
        }
    }

    /// Seconds until `bytes` have come from one rank to the next.
    pub fn send(self, bytes: f64) -> f64 {
        bytes / self.bandwidth() + self.link.latency.value
    }

    fn bandwidth(self) -> f64 {
        self.link.bandwidth.value * self.efficiency
    }

    /// Bytes per second along a ring. Between nodes as many rings run side by side as the group has ranks in a node, each over the link of another rank.
    fn ring(self) -> f64 {
        let inside = self.accelerator.intra_node.bandwidth.value * self.efficiency;
        if self.ranks > self.together { inside.min(self.bandwidth() * self.together as f64) } else { self.bandwidth() }
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
        assert_eq!(Group::new(h100, 1, 1, 1.0).dispatch(2.0, 1e9), 0.0);
        let across = Group::new(h100, 2, 8, 1.0);
        assert!((across.send(1e9) - (1e9 / 50e9 + 5e-6)).abs() < 1e-12);
        // Two whole nodes: eight rings, each over its own link of 50 GB/s.
        let nodes = Group::new(h100, 16, 1, 1.0);
        assert!((nodes.reduce_scatter(1e9) - (1e9 * 15.0 / 16.0 / 400e9 + 15.0 * 5e-6)).abs() < 1e-12);
        // A row that goes everywhere leaves its node once for each other node.
        assert!((nodes.dispatch(1e9, 1.0) - 1e9 / 450e9 - 5e-6).abs() < 1e-9);
        assert!(nodes.dispatch(4.0, 1e9) > Group::new(h100, 8, 1, 1.0).dispatch(4.0, 1e9));
        assert!(Group::new(h100, 16, 1, 0.5).all_reduce(1e9) > 2.0 * eight.all_reduce(1e9));
    }
}

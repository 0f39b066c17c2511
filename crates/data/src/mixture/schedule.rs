//! Which source a sample comes from: the sources in proportion to their shares, spread evenly.
//!
//! Time runs in ticks; at tick `t` a source with share `s` of `S` has given the nearest whole number to
//! `t * s / S` samples. What is new in a tick comes in the order of the sources. All of it is arithmetic on whole
//! numbers, so that a place is found without looking at those before it.

use super::source::Source;

/// The largest share, for weights.
const FULL_SHARE: f64 = (1u64 << 40) as f64;

/// How samples fall to sources.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    shares: Vec<u64>,
    total: u128,
}

impl Schedule {
    /// Shares by weight; where there are no weights, by how many samples each source has to give.
    pub fn new(sources: &[Source]) -> Self {
        let most = sources.iter().filter_map(|source| source.weight).fold(0.0, f64::max);
        let share = |source: &Source| match (source.weight, source.limit) {
            (Some(weight), _) => (weight / most * FULL_SHARE) as u64,
            (None, limit) => limit.unwrap_or(source.windows()),
        };
        Self::of_shares(sources.iter().map(share).collect())
    }

    fn of_shares(shares: Vec<u64>) -> Self {
        let total = shares.iter().map(|&share| u128::from(share)).sum();
        Self { shares, total }
    }

    /// What each source has given before tick `tick + 1`.
    fn given(&self, tick: u64) -> impl Iterator<Item = u64> + '_ {
        let nearest = move |&share: &u64| (2 * u128::from(tick) * u128::from(share) + self.total) / (2 * self.total);
        self.shares.iter().map(nearest).map(|given| given as u64)
    }

    /// The tick in which sample `index` comes: the first after which more than `index` are given.
    fn tick(&self, index: u64) -> u64 {
        let sources = self.shares.len() as u64;
        let (mut low, mut high) = (index.saturating_sub(sources), index.saturating_add(sources));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.given(middle).sum::<u64>() > index { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// What each source has given after `samples` samples.
    pub fn drawn(&self, samples: u64) -> Vec<u64> {
        let Some(last) = samples.checked_sub(1) else {
            return vec![0; self.shares.len()];
        };
        let tick = self.tick(last);
        let mut drawn: Vec<u64> = self.before(tick).collect();
        let mut left = samples - drawn.iter().sum::<u64>();
        for (drawn, given) in drawn.iter_mut().zip(self.given(tick)) {
            let new = left.min(given - *drawn);
            *drawn += new;
            left -= new;
        }
        drawn
    }

    fn before(&self, tick: u64) -> impl Iterator<Item = u64> + '_ {
        self.given(tick.saturating_sub(1)).map(move |given| if tick == 0 { 0 } else { given })
    }

    /// The source of sample `index`, and how many samples that source gave before.
    pub fn at(&self, index: u64) -> (usize, u64) {
        let tick = self.tick(index);
        let mut left = index - self.before(tick).sum::<u64>();
        for (source, (before, after)) in self.before(tick).zip(self.given(tick)).enumerate() {
            if left < after - before {
                return (source, before + left);
            }
            left -= after - before;
        }
        unreachable!("after its tick more than `index` samples are given")
    }

    /// The index of a source's sample `number`.
    pub fn index_of(&self, source: usize, number: u64) -> u64 {
        // The first tick in which it is given: that of 2 * tick * share >= (2 * number + 1) * total.
        let share = u128::from(self.shares[source]);
        let tick = ((2 * u128::from(number) + 1) * self.total).div_ceil(2 * share);
        let Ok(tick) = u64::try_from(tick) else { return u64::MAX };
        let before: Vec<u64> = self.before(tick).collect();
        let earlier: u64 = self.given(tick).zip(&before).take(source).map(|(after, before)| after - before).sum();
        before.iter().sum::<u64>() + earlier + (number - before[source])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sample_of_every_source_comes_once_and_in_order(shares in proptest::collection::vec(1u64..1000, 1..6)) {
            let schedule = Schedule::of_shares(shares.clone());
            let total: u64 = shares.iter().sum();
            let mut next = vec![0; shares.len()];
            for index in 0..2 * total {
                prop_assert_eq!(&schedule.drawn(index), &next);
                let (source, number) = schedule.at(index);
                prop_assert_eq!(number, next[source]);
                prop_assert_eq!(schedule.index_of(source, number), index);
                next[source] += 1;
                if index + 1 == total {
                    prop_assert_eq!(&next, &shares);
                }
                // Never far from its share.
                for (given, share) in next.iter().zip(&shares) {
                    let fair = (index + 1) as f64 * *share as f64 / total as f64;
                    prop_assert!((*given as f64 - fair).abs() <= shares.len() as f64, "{} of {}", given, fair);
                }
            }
        }

        #[test]
        fn far_away_it_is_the_same(shares in proptest::collection::vec(1u64..1 << 40, 1..6), index in 0u64..1 << 50) {
            let schedule = Schedule::of_shares(shares);
            let (source, number) = schedule.at(index);
            prop_assert_eq!(schedule.index_of(source, number), index);
            let (before, after) = (schedule.drawn(index), schedule.drawn(index + 1));
            prop_assert_eq!(before[source], number);
            prop_assert_eq!(after[source], number + 1);
            prop_assert_eq!(after.iter().sum::<u64>(), index + 1);
        }
    }
}

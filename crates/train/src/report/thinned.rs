//! A long series in bounded room: neighbours are merged, evenly over the whole length.

/// What can be one with its neighbour.
pub trait Merge {
    /// Takes in what comes right after it.
    fn merge(&mut self, next: Self);
}

/// A series of at most `most` entries, half as many at least once there were so many. Each but the last stands for the same number of pushed ones.
#[derive(Clone, Debug)]
pub struct Thinned<T> {
    entries: Vec<T>,
    most: usize,
    /// Pushed ones that a full entry stands for, and those that the last one does.
    each: usize,
    filled: usize,
}

impl<T: Merge> Thinned<T> {
    /// An empty series; of an odd number one less are kept.
    pub fn new(most: usize) -> Self {
        Self { entries: Vec::new(), most: (most & !1).max(2), each: 1, filled: 0 }
    }

    /// Appends one.
    pub fn push(&mut self, entry: T) {
        if self.filled < self.each
            && let Some(last) = self.entries.last_mut()
        {
            last.merge(entry);
            self.filled += 1;
            return;
        }
        if self.entries.len() == self.most {
            self.halve();
        }
        self.entries.push(entry);
        self.filled = 1;
    }

    /// Merges pairs; all entries are full, and there are as many as may be.
    fn halve(&mut self) {
        let mut entries = std::mem::take(&mut self.entries).into_iter();
        while let Some(mut first) = entries.next() {
            if let Some(second) = entries.next() {
                first.merge(second);
            }
            self.entries.push(first);
        }
        self.each *= 2;
    }

    /// What there is, in order.
    pub fn entries(&self) -> &[T] {
        &self.entries
    }
}

/// Numbers as their mean and range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    sum: f64,
    count: u64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Default for Spread {
    fn default() -> Self {
        Self { sum: 0.0, count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Spread {
    /// Of some numbers; those that are not finite are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut spread = Self::default();
        for value in values.into_iter().filter(|value| value.is_finite()) {
            spread.merge(Self { sum: value, count: 1, min: value, max: value });
        }
        spread
    }

    /// The mean; nothing where there is nothing.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

impl Merge for Spread {
    fn merge(&mut self, next: Self) {
        self.sum += next.sum;
        self.count += next.count;
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_what_is_kept_is_even() {
        for pushed in [0u64, 1, 2, 7, 8, 9, 16, 17, 100, 1000, 4097] {
            let mut series = Thinned::new(8);
            (0..pushed).for_each(|i| series.push(Spread::of([i as f64])));
            let entries = series.entries();
            assert!(entries.len() <= 8 && entries.len() as u64 >= pushed.min(5), "{pushed}: {}", entries.len());
            assert_eq!(entries.iter().map(|entry| entry.count).sum::<u64>(), pushed);
            // Neighbours follow each other, and all but the last are of one size.
            let mut next = 0.0;
            for (i, entry) in entries.iter().enumerate() {
                assert_eq!((entry.min, entry.max), (next, next + entry.count as f64 - 1.0));
                assert!(entry.count == entries[0].count || i + 1 == entries.len() && entry.count < entries[0].count);
                next = entry.max + 1.0;
            }
        }
    }

    #[test]
    fn what_is_no_number_has_no_mean() {
        assert_eq!(Spread::of([f64::NAN, f64::INFINITY]).mean(), None);
        let spread = Spread::of([1.0, f64::NAN, 4.0]);
        assert_eq!((spread.mean(), spread.min, spread.max), (Some(2.5), 1.0, 4.0));
    }
}

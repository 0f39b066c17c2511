//! The repetition rules of Gopher (arXiv:2112.11446, table A1).

use super::draft::Anatomy;
use super::tally::Tally;
use super::{Draft, Filter, Verdict};
use crate::words::join;

/// Repeated lines, paragraphs and runs of words.
pub(super) struct Repetition;

/// Run length, and the largest share of characters that the most frequent such run may have.
const TOP: [(usize, f64, &str); 3] = [
    (2, 0.20, "the top 2-gram has over 20% of characters"),
    (3, 0.18, "the top 3-gram has over 18% of characters"),
    (4, 0.16, "the top 4-gram has over 16% of characters"),
];

/// Run length, and the largest share of characters that may be in repetitions of such runs.
const REPEATED: [(usize, f64, &str); 6] = [
    (5, 0.15, "repeated 5-grams have over 15% of characters"),
    (6, 0.14, "repeated 6-grams have over 14% of characters"),
    (7, 0.13, "repeated 7-grams have over 13% of characters"),
    (8, 0.12, "repeated 8-grams have over 12% of characters"),
    (9, 0.11, "repeated 9-grams have over 11% of characters"),
    (10, 0.10, "repeated 10-grams have over 10% of characters"),
];

impl Filter for Repetition {
    fn judge(&self, draft: &mut Draft) -> Verdict {
        let (_, anatomy, tally) = draft.parts();
        let chars = anatomy.chars as f64;
        let lines = Repeated::of(anatomy.filled().map(|line| (line.hash, line.chars)), anatomy.lines.len(), tally);
        let paragraphs = Repeated::of(paragraphs(anatomy), anatomy.lines.len(), tally);
        let verdict = Verdict::first_of([
            (paragraphs.share() > 0.3, "over 30% of paragraphs are repeated"),
            (paragraphs.chars as f64 > 0.2 * chars, "repeated paragraphs have over 20% of characters"),
            (lines.share() > 0.3, "over 30% of lines are repeated"),
            (lines.chars as f64 > 0.2 * chars, "repeated lines have over 20% of characters"),
        ]);
        if verdict != Verdict::Keep {
            return verdict;
        }
        let mut grams = Grams::new(anatomy);
        for (length, most, reason) in TOP {
            grams.lengthen(length, tally);
            if grams.top(tally) as f64 > most * chars {
                return Verdict::Drop(reason);
            }
        }
        for (length, most, reason) in REPEATED {
            grams.lengthen(length, tally);
            if grams.repeated(tally) as f64 > most * chars {
                return Verdict::Drop(reason);
            }
        }
        Verdict::Keep
    }
}

/// How much of a sequence of items came before.
#[derive(Default)]
struct Repeated {
    all: usize,
    repeated: usize,
    chars: usize,
}

impl Repeated {
    /// Counts items given as hash and characters.
    fn of(items: impl Iterator<Item = (u64, usize)>, most: usize, tally: &mut Tally) -> Self {
        tally.reset(most);
        let mut counts = Self::default();
        for (hash, chars) in items {
            counts.all += 1;
            if tally.repeats(hash) {
                counts.repeated += 1;
                counts.chars += chars;
            }
        }
        counts
    }

    fn share(&self) -> f64 {
        self.repeated as f64 / self.all.max(1) as f64
    }
}

/// What stands between blank lines.
fn paragraphs(anatomy: &Anatomy) -> impl Iterator<Item = (u64, usize)> {
    let groups = anatomy.lines.split(|line| line.is_blank()).filter(|lines| !lines.is_empty());
    groups.map(|lines| lines.iter().fold((0, 0), |(hash, chars), line| (join(hash, line.hash), chars + line.chars)))
}

/// Runs of words that come more than once, made longer word by word. A run can come twice only if the run of one
/// word less at its place does, so each length looks only at the few places that the one before has left.
struct Grams<'a> {
    anatomy: &'a Anatomy,
    /// Characters before each word and after the last, with a space after each.
    before: Vec<u64>,
    length: usize,
    /// Where runs start that may come more than once, with the hash and slot of each.
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    hash: u64,
    word: u32,
    slot: u32,
}

impl<'a> Grams<'a> {
    fn new(anatomy: &'a Anatomy) -> Self {
        let mut before = Vec::with_capacity(anatomy.words.len() + 1);
        let mut sum = 0;
        before.push(0);
        before.extend(anatomy.words.iter().map(|word| {
            sum += u64::from(word.chars) + 1;
            sum
        }));
        let places = anatomy.words.iter().enumerate();
        let places = places.map(|(at, word)| Place { hash: word.hash, word: at as u32, slot: 0 }).collect();
        Self { anatomy, before, length: 1, places }
    }

    /// Goes on to runs of the next length.
    fn lengthen(&mut self, length: usize, tally: &mut Tally) {
        debug_assert_eq!(length, self.length + 1);
        if self.length > 1 {
            self.places.retain(|place| tally.count(place.slot) > 1);
        }
        self.length = length;
        tally.reset(self.places.len());
        let words = &self.anatomy.words;
        self.places.retain_mut(|place| {
            let Some(word) = words.get(place.word as usize + length - 1) else { return false };
            place.hash = join(place.hash, word.hash);
            place.slot = tally.add(place.hash);
            true
        });
    }

    /// Characters of the run at a place, with the spaces between its words.
    fn chars(&self, place: &Place) -> u64 {
        let word = place.word as usize;
        self.before[word + self.length] - self.before[word] - 1
    }

    /// Characters in all occurrences of the most frequent run, the longest of them if several are: 0 if none repeats.
    fn top(&self, tally: &Tally) -> u64 {
        let frequent = self.places.iter().map(|place| (u64::from(tally.count(place.slot)), self.chars(place)));
        frequent.max().filter(|(count, _)| *count > 1).map_or(0, |(count, chars)| count * chars)
    }

    /// Characters in runs that came before, none of them counted twice.
    fn repeated(&self, tally: &mut Tally) -> u64 {
        let (mut chars, mut free) = (0, 0);
        for place in &self.places {
            if place.word >= free && tally.mark(place.slot) {
                chars += self.chars(place);
                free = place.word + self.length as u32;
            }
        }
        chars
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Kind;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    /// The rules word for word, with strings.
    fn simple(words: &[String], length: usize) -> (usize, usize) {
        let grams: Vec<_> = words.windows(length).map(|w| w.join(" ")).collect();
        let mut counts = HashMap::new();
        for gram in &grams {
            *counts.entry(gram).or_insert(0) += 1;
        }
        let top = counts.iter().map(|(gram, &count)| (count, gram.len())).max();
        let top = top.filter(|(count, _)| *count > 1).map_or(0, |(count, chars)| count * chars);
        let (mut seen, mut chars, mut at) = (HashSet::new(), 0, 0);
        while at < grams.len() {
            if seen.insert(&grams[at]) {
                at += 1;
            } else {
                chars += grams[at].len();
                at += length;
            }
        }
        (top, chars)
    }

    proptest! {
        #[test]
        fn narrowing_down_finds_what_counting_strings_finds(
            words in proptest::collection::vec("[ab]{1,2}|[a-z]{3,9}", 0..300),
        ) {
            let mut draft = Draft::default();
            draft.load(words.join(" "), Kind::Text, 0);
            let (_, anatomy, tally) = draft.parts();
            let mut grams = Grams::new(anatomy);
            for length in 2..=10 {
                grams.lengthen(length, tally);
                let (top, repeated) = (grams.top(tally) as usize, grams.repeated(tally) as usize);
                prop_assert_eq!((top, repeated), simple(&words, length), "{}-grams", length);
            }
        }
    }
}

//! Hashes of words and normalised words, which everything that compares documents works on.

use std::ops::Range;
use twox_hash::XxHash3_64;

/// Spreads the bits of a number (the finaliser of SplitMix64).
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A 64-bit hash that does not change between versions and machines.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// A hash of one after another.
pub(crate) const fn join(a: u64, b: u64) -> u64 {
    mix(a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b))
}

/// Calls `each` with the hash and place of every normalised word: runs of letters and digits in lower case. Each
/// ideograph is a word of its own, since nothing separates them. Spelling that differs in case, punctuation or
/// spacing gives the same words.
pub(crate) fn normalised(text: &str, mut each: impl FnMut(u64, Range<usize>)) {
    let bytes = text.as_bytes();
    let mut word = Vec::with_capacity(64);
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        let lower = ASCII_WORD[usize::from(bytes[at])];
        if lower != 0 {
            if word.is_empty() {
                start = at;
            }
            word.push(lower);
            at += 1;
            continue;
        }
        let char = if bytes[at] < 0x80 { None } else { text[at..].chars().next() };
        let length = char.map_or(1, char::len_utf8);
        match char.filter(|c| c.is_alphanumeric()) {
            Some(char) if !is_ideograph(char) => {
                if word.is_empty() {
                    start = at;
                }
                push_lower(&mut word, char);
            }
            other => {
                if !word.is_empty() {
                    each(hash(&word), start..at);
                    word.clear();
                }
                if other.is_some() {
                    each(hash(&bytes[at..at + length]), at..at + length);
                }
            }
        }
        at += length;
    }
    if !word.is_empty() {
        each(hash(&word), start..at);
    }
}

/// Lower case of ASCII letters and digits; 0 for everything else.
const ASCII_WORD: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

fn push_lower(word: &mut Vec<u8>, char: char) {
    for lower in char.to_lowercase() {
        word.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Chinese characters and kana.
fn is_ideograph(char: char) -> bool {
    matches!(char, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// A hash of each run of `length` words, computed from its neighbour's.
pub(crate) struct Runs<'w> {
    words: &'w [u64],
    length: usize,
    /// `FACTOR` to the power of `length`: the weight of the word that leaves.
    leaving: u64,
    sum: u64,
    next: usize,
}

const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

impl<'w> Runs<'w> {
    /// All runs of `length` words; one of all words if there are fewer; none of no words.
    pub(crate) fn new(words: &'w [u64], length: usize) -> Self {
        let length = length.min(words.len());
        let (first, leaving) = words[..length].iter().fold((0u64, 1u64), |(sum, power), &word| {
            (sum.wrapping_mul(FACTOR).wrapping_add(word), power.wrapping_mul(FACTOR))
        });
        Self { words, length, leaving, sum: first, next: length }
    }
}

impl Iterator for Runs<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.length == 0 || self.next > self.words.len() {
            return None;
        }
        let hash = mix(self.sum);
        if let Some(&entering) = self.words.get(self.next) {
            let left = self.words[self.next - self.length].wrapping_mul(self.leaving);
            self.sum = self.sum.wrapping_mul(FACTOR).wrapping_add(entering).wrapping_sub(left);
        }
        self.next += 1;
        Some(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        normalised(text, |_, range| words.push(&text[range]));
        words
    }

    fn hashes(text: &str) -> Vec<u64> {
        let mut hashes = Vec::new();
        normalised(text, |hash, _| hashes.push(hash));
        hashes
    }

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        assert_eq!(words("Hello, wörld_42! — it's"), ["Hello", "wörld", "42", "it", "s"]);
        assert_eq!(words("漢字x"), ["漢", "字", "x"]);
        assert_eq!(words(" \n-"), [""; 0]);
    }

    #[test]
    fn case_punctuation_and_spacing_do_not_matter() {
        assert_eq!(hashes("The CAT\n sat; ÉTÉ"), hashes("the cat sat été"));
        assert_ne!(hashes("the cat"), hashes("thecat"));
    }

    #[test]
    fn a_rolling_hash_depends_on_its_own_words_only() {
        let long: Vec<u64> = (0..50).map(mix).collect();
        for (at, hash) in Runs::new(&long, 5).enumerate() {
            assert_eq!(Runs::new(&long[at..at + 5], 5).collect::<Vec<_>>(), [hash]);
        }
        assert_eq!(Runs::new(&long, 5).count(), 46);
        assert_eq!(Runs::new(&long[..3], 5).count(), 1);
        assert_eq!(Runs::new(&[], 5).count(), 0);
    }
}

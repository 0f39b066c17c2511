//! Words that are tokens, found in one step.

use std::collections::HashMap;

/// Bytes of the longest word that is found without a general hash map.
const SHORT: usize = 15;

/// A table of words.
pub(super) struct Words {
    /// Open addressing: a word at the first free place from its hash on.
    slots: Vec<Slot>,
    /// 64 less the binary logarithm of the number of slots.
    shift: u32,
    long: HashMap<Box<[u8]>, u32>,
    longest: usize,
}

/// A word's bytes and, in the last place, their number; zero for a free slot.
#[derive(Clone, Copy, Default)]
struct Slot {
    low: u64,
    high: u64,
    id: u32,
}

impl Words {
    /// A table of these words, none of which is empty.
    pub fn new(words: Vec<(Vec<u8>, u32)>) -> Self {
        let slots = (2 * words.len()).next_power_of_two().max(2);
        let (slots, shift) = (vec![Slot::default(); slots], 64 - slots.trailing_zeros());
        let longest = words.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
        let mut table = Self { slots, shift, long: HashMap::new(), longest };
        for (word, id) in words {
            if word.len() > SHORT {
                table.long.insert(word.into(), id);
                continue;
            }
            let [low, high] = key(&word, 0, word.len());
            let at = table.find(low, high);
            table.slots[at] = Slot { low, high, id };
        }
        table
    }

    /// The id of the word at `text[start..end]`, which must not be empty.
    #[inline(always)]
    pub fn get(&self, text: &[u8], start: usize, end: usize) -> Option<u32> {
        if end - start > SHORT {
            return self.get_long(&text[start..end]);
        }
        let [low, high] = key(text, start, end);
        let slot = &self.slots[self.find(low, high)];
        (slot.high != 0).then_some(slot.id)
    }

    #[inline(never)]
    fn get_long(&self, word: &[u8]) -> Option<u32> {
        if word.len() > self.longest { None } else { self.long.get(word).copied() }
    }

    #[inline(always)]
    fn find(&self, low: u64, high: u64) -> usize {
        let product = u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xe703_7ed1_a0b4_28db);
        let hash = (product as u64) ^ (product >> 64) as u64;
        let mut at = (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        loop {
            let slot = &self.slots[at];
            if (slot.low == low && slot.high == high) || slot.high == 0 {
                return at;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

/// Up to 15 bytes as two words, with their number as the last byte.
#[inline(always)]
fn key(text: &[u8], start: usize, end: usize) -> [u64; 2] {
    let len = end - start;
    let bytes = match text[start..].first_chunk::<16>() {
        Some(bytes) => *bytes,
        None => {
            let mut padded = [0; 16];
            padded[..len].copy_from_slice(&text[start..end]);
            padded
        }
    };
    let bytes = u128::from_le_bytes(bytes) & ((1 << (8 * len)) - 1) | (len as u128) << 120;
    [bytes as u64, (bytes >> 64) as u64]
}

//! Merges the bytes of a word into tokens: always the pair that was learned first, and of equals the leftmost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No merge.
const NONE: u32 = u32::MAX;

/// Words up to this many bytes are merged by scanning; beyond, by a heap, so that no word takes quadratic time.
const SHORT: usize = 48;

/// The merges of a tokeniser.
pub(super) struct Merges {
    /// The id of each byte.
    bytes: Vec<u32>,
    /// Open addressing: a pair at the first free place from its hash on.
    slots: Vec<Slot>,
    /// 64 less the binary logarithm of the number of slots.
    shift: u32,
    /// What the merge of each rank makes.
    made: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Slot {
    left: u32,
    right: u32,
    rank: u32,
}

/// Memory that merging uses again and again.
#[derive(Default)]
pub(super) struct Scratch {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    queue: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Merges {
    /// `bytes` are the ids of the 256 bytes; `merges` are (left, right, made) in the order of their ranks.
    pub fn new(bytes: Vec<u32>, merges: Vec<(u32, u32, u32)>) -> Self {
        let slots = (2 * merges.len()).next_power_of_two().max(2);
        let free = Slot { left: NONE, right: NONE, rank: NONE };
        let made = merges.iter().map(|&(_, _, made)| made).collect();
        let mut table = Self { bytes, slots: vec![free; slots], shift: 64 - slots.trailing_zeros(), made };
        for (rank, (left, right, _)) in merges.into_iter().enumerate() {
            let at = table.find(left, right);
            // A pair that is listed twice counts where it comes last, as in the library.
            table.slots[at] = Slot { left, right, rank: rank as u32 };
        }
        table
    }

    /// The place of a pair, or the free one where it would be.
    #[inline(always)]
    fn find(&self, left: u32, right: u32) -> usize {
        let key = u64::from(left) << 32 | u64::from(right);
        let key = key ^ key >> 29;
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        loop {
            let slot = &self.slots[at];
            if (slot.left == left && slot.right == right) || slot.rank == NONE {
                return at;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    #[inline(always)]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.slots[self.find(left, right)].rank
    }

    /// Appends the tokens of a word.
    pub fn encode(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if word.len() <= SHORT { self.encode_short(word, out) } else { self.encode_long(word, scratch, out) }
    }

    fn encode_short(&self, word: &[u8], out: &mut Vec<u32>) {
        let (mut ids, mut ranks) = ([0; SHORT], [NONE; SHORT]);
        let mut len = word.len();
        for (id, &byte) in ids.iter_mut().zip(word) {
            *id = self.bytes[usize::from(byte)];
        }
        for at in 1..len {
            ranks[at - 1] = self.rank(ids[at - 1], ids[at]);
        }
        while let Some((at, rank)) = first_least(&ranks[..len.saturating_sub(1)]) {
            ids[at] = self.made[rank as usize];
            ids.copy_within(at + 2..len, at + 1);
            ranks.copy_within(at + 2..len, at + 1);
            len -= 1;
            ranks[at] = if at + 1 < len { self.rank(ids[at], ids[at + 1]) } else { NONE };
            if at > 0 {
                ranks[at - 1] = self.rank(ids[at - 1], ids[at]);
            }
        }
        out.extend_from_slice(&ids[..len]);
    }

    /// A list of symbols, and a heap of the pairs in it. An entry of the heap counts only if its pair is still
    /// there, which its rank tells.
    fn encode_long(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let end = word.len();
        let Scratch { ids, ranks, next, previous, queue } = scratch;
        ids.clear();
        ids.extend(word.iter().map(|&byte| self.bytes[usize::from(byte)]));
        next.clear();
        next.extend(1..=end as u32);
        previous.clear();
        previous.extend((0..end as u32).map(|at| at.wrapping_sub(1)));
        ranks.clear();
        ranks.extend(ids.windows(2).map(|pair| self.rank(pair[0], pair[1])).chain([NONE]));
        queue.clear();
        queue.extend((0..).zip(ranks.iter()).filter(|(_, rank)| **rank != NONE).map(|(at, &rank)| Reverse((rank, at))));
        while let Some(Reverse((rank, at))) = queue.pop() {
            let left = at as usize;
            if ranks[left] != rank {
                continue;
            }
            let right = next[left] as usize;
            let after = next[right] as usize;
            ids[left] = self.made[rank as usize];
            next[left] = after as u32;
            (ranks[left], ranks[right]) = (NONE, NONE);
            if after < end {
                previous[after] = at;
                ranks[left] = self.rank(ids[left], ids[after]);
            }
            let before = previous[left] as usize;
            if at > 0 && before < end {
                ranks[before] = self.rank(ids[before], ids[left]);
                if ranks[before] != NONE {
                    queue.push(Reverse((ranks[before], before as u32)));
                }
            }
            if ranks[left] != NONE {
                queue.push(Reverse((ranks[left], at)));
            }
        }
        let mut at = 0;
        while at < end {
            out.push(ids[at]);
            at = next[at] as usize;
        }
    }
}

/// The first place of the least rank, if there is a rank.
#[inline(always)]
fn first_least(ranks: &[u32]) -> Option<(usize, u32)> {
    let least = ranks.iter().copied().fold(NONE, u32::min);
    if least == NONE {
        return None;
    }
    Some((ranks.iter().position(|&rank| rank == least)?, least))
}

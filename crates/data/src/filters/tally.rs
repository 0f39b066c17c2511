//! A counting table for hashes, reused from document to document.

/// Counts of hashes: open addressing, at most half full.
#[derive(Debug, Default)]
pub(super) struct Tally {
    slots: Vec<Slot>,
    mask: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    count: u32,
    marked: bool,
}

impl Tally {
    /// Forgets everything, and has room for `keys`.
    pub(super) fn reset(&mut self, keys: usize) {
        let size = (keys * 2).next_power_of_two().max(16);
        self.slots.resize(self.slots.len().max(size), Slot::default());
        self.slots[..size].fill(Slot::default());
        self.mask = size - 1;
    }

    /// Counts a hash, and says in which slot it is.
    pub(super) fn add(&mut self, key: u64) -> u32 {
        // 0 marks free slots.
        let key = key.max(1);
        let mut at = key as usize & self.mask;
        loop {
            let slot = &mut self.slots[at];
            if slot.key == key || slot.key == 0 {
                slot.key = key;
                slot.count += 1;
                return at as u32;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// How often the hash of a slot came.
    pub(super) fn count(&self, slot: u32) -> u32 {
        self.slots[slot as usize].count
    }

    /// Counts a hash, and says whether it came before.
    pub(super) fn repeats(&mut self, key: u64) -> bool {
        let slot = self.add(key);
        self.count(slot) > 1
    }

    /// Marks a slot, and says whether it was marked before.
    pub(super) fn mark(&mut self, slot: u32) -> bool {
        std::mem::replace(&mut self.slots[slot as usize].marked, true)
    }
}

//! Names of blocks by what they hold: a chain of 128-bit hashes.
//!
//! A key covers the parent's key, the tokens of the block and the images that begin in it; the first parent is the tenant's salt.
//! The hash is fast, not cryptographic, so equal keys are only a hint: [`crate::pool::Pool`] keeps the [`Link`] of each published block
//! and compares it along the whole walk from the salt.

use crate::request::Image;
use twox_hash::XxHash3_128;

/// A chained hash.
pub(crate) type Key = u128;

/// What a block holds and what comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link<'a> {
    pub parent: Key,
    /// Hash of the images that begin in this block; 0: none.
    pub content: u128,
    pub tokens: &'a [u32],
}

/// The key before the first block.
pub(crate) fn root(salt: u128) -> Key {
    XxHash3_128::oneshot_with_seed(1, &salt.to_le_bytes())
}

/// The key before the first block of a memory.
pub(crate) fn memory_root(salt: u128) -> Key {
    XxHash3_128::oneshot_with_seed(2, &salt.to_le_bytes())
}

impl Link<'_> {
    /// The key of the block.
    pub fn key(&self, scratch: &mut Vec<u8>) -> Key {
        scratch.clear();
        scratch.extend(self.parent.to_le_bytes());
        scratch.extend(self.content.to_le_bytes());
        self.tokens.iter().for_each(|t| scratch.extend(t.to_le_bytes()));
        XxHash3_128::oneshot(scratch)
    }
}

/// The content of a block that covers `positions`, as in [`Link::content`].
pub(crate) fn content(images: &[Image], positions: std::ops::Range<u32>) -> u128 {
    let mut bytes = Vec::new();
    for image in images.iter().filter(|i| positions.contains(&i.position)) {
        bytes.extend(image.position.to_le_bytes());
        bytes.extend(image.content.to_le_bytes());
    }
    if bytes.is_empty() { 0 } else { XxHash3_128::oneshot(&bytes) }
}

//! The blocks of one cache group: a flat array, two intrusive lists, reference counts, and an index of what is published.
//!
//! A block is free (nobody knows it), cached (published, nobody holds it, ready to be evicted) or owned (held by at least one sequence).

use crate::prefix::{Key, Link};
use std::collections::HashMap;

/// No block: the end of a list, or an entry of a block table that must not be read.
pub const NO_BLOCK: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Block {
    refs: u32,
    prev: u32,
    next: u32,
    published: bool,
    key: Key,
    parent: Key,
    content: u128,
}

/// Both ends of a list whose links lie in the blocks.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
    len: u32,
}

impl List {
    const EMPTY: Self = Self { first: NO_BLOCK, last: NO_BLOCK, len: 0 };

    fn push_back(&mut self, blocks: &mut [Block], id: u32) {
        blocks[id as usize].prev = self.last;
        blocks[id as usize].next = NO_BLOCK;
        match self.last {
            NO_BLOCK => self.first = id,
            last => blocks[last as usize].next = id,
        }
        self.last = id;
        self.len += 1;
    }

    fn remove(&mut self, blocks: &mut [Block], id: u32) {
        let Block { prev, next, .. } = blocks[id as usize];
        match prev {
            NO_BLOCK => self.first = next,
            prev => blocks[prev as usize].next = next,
        }
        match next {
            NO_BLOCK => self.last = prev,
            next => blocks[next as usize].prev = prev,
        }
        self.len -= 1;
    }
}

/// How the blocks of a group are used; the three add up to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Occupancy {
    /// Blocks that hold nothing.
    pub free: u32,
    /// Blocks that hold a prefix that nobody uses now.
    pub cached: u32,
    /// Blocks that sequences hold.
    pub owned: u32,
}

/// The blocks of one group.
pub(crate) struct Pool {
    blocks: Vec<Block>,
    /// Tokens of each published block, `block_tokens` per block.
    tokens: Vec<u32>,
    block_tokens: usize,
    free: List,
    /// Least recently used first.
    cached: List,
    index: HashMap<Key, u32>,
    turnover: u64,
}

impl Pool {
    pub fn new(blocks: u32, block_tokens: u32) -> Self {
        let empty = Block { refs: 0, prev: NO_BLOCK, next: NO_BLOCK, published: false, key: 0, parent: 0, content: 0 };
        let mut pool = Self {
            blocks: vec![empty; blocks as usize],
            tokens: vec![0; blocks as usize * block_tokens as usize],
            block_tokens: block_tokens as usize,
            free: List::EMPTY,
            cached: List::EMPTY,
            index: HashMap::new(),
            turnover: 0,
        };
        (0..blocks).for_each(|id| pool.free.push_back(&mut pool.blocks, id));
        pool
    }

    pub fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks that `take` can give.
    pub fn available(&self) -> u32 {
        self.free.len + self.cached.len
    }

    pub fn occupancy(&self) -> Occupancy {
        Occupancy { free: self.free.len, cached: self.cached.len, owned: self.len() - self.available() }
    }

    /// Grows by one with every block released or published. What lacks n blocks lacks some until it has grown by n (unless what is
    /// published joins prefixes that were cached in pieces).
    pub fn turnover(&self) -> u64 {
        self.turnover
    }

    /// Whether nobody holds the block.
    pub fn is_idle(&self, id: u32) -> bool {
        self.blocks[id as usize].refs == 0
    }

    /// A block to write to, held once: a free one, or else the least recently used of the cached ones.
    pub fn take(&mut self) -> Option<u32> {
        let id = if self.free.len > 0 {
            let id = self.free.first;
            self.free.remove(&mut self.blocks, id);
            id
        } else if self.cached.len > 0 {
            let id = self.cached.first;
            self.cached.remove(&mut self.blocks, id);
            self.index.remove(&self.blocks[id as usize].key);
            self.blocks[id as usize].published = false;
            id
        } else {
            return None;
        };
        self.blocks[id as usize].refs = 1;
        Some(id)
    }

    /// Holds a published block once more.
    pub fn share(&mut self, id: u32) {
        if self.blocks[id as usize].refs == 0 {
            self.cached.remove(&mut self.blocks, id);
        }
        self.blocks[id as usize].refs += 1;
    }

    /// Lets go of a block.
    pub fn release(&mut self, id: u32) {
        self.turnover += 1;
        let block = &mut self.blocks[id as usize];
        block.refs -= 1;
        if block.refs == 0 {
            let list = if block.published { &mut self.cached } else { &mut self.free };
            list.push_back(&mut self.blocks, id);
        }
    }

    /// Makes a full, committed block findable, unless another block already holds the same.
    pub fn publish(&mut self, id: u32, key: Key, link: Link<'_>) {
        let std::collections::hash_map::Entry::Vacant(entry) = self.index.entry(key) else {
            return;
        };
        entry.insert(id);
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.refs > 0 && !block.published);
        (block.published, block.key, block.parent, block.content) = (true, key, link.parent, link.content);
        self.tokens[id as usize * self.block_tokens..][..link.tokens.len()].copy_from_slice(link.tokens);
        self.turnover += 1;
    }

    /// The published block that holds just this.
    pub fn find(&self, key: Key, link: Link<'_>) -> Option<u32> {
        let &id = self.index.get(&key)?;
        let block = &self.blocks[id as usize];
        let tokens = &self.tokens[id as usize * self.block_tokens..][..link.tokens.len()];
        (link == Link { parent: block.parent, content: block.content, tokens }).then_some(id)
    }

    /// Compares lists, flags and index with each other, and reference counts with those counted by the caller.
    pub fn check(&self, counted: &[u32]) -> Result<(), String> {
        let mut seen = vec![0u32; self.blocks.len()];
        for (list, published) in [(&self.free, false), (&self.cached, true)] {
            let (mut at, mut len, mut prev) = (list.first, 0, NO_BLOCK);
            while at != NO_BLOCK {
                let block = &self.blocks[at as usize];
                seen[at as usize] += 1;
                len += 1;
                if len > list.len || block.prev != prev || block.refs != 0 || block.published != published {
                    return Err(format!("block {at} does not belong where it is listed: {block:?}"));
                }
                (prev, at) = (at, block.next);
            }
            if len != list.len || list.last != prev {
                return Err(format!("a list of {} blocks has {len}", list.len));
            }
        }
        for (id, block) in self.blocks.iter().enumerate() {
            if block.refs != counted[id] {
                return Err(format!("block {id} counts {} holders and has {}", block.refs, counted[id]));
            }
            if seen[id] != u32::from(block.refs == 0) {
                return Err(format!("block {id} with {} holders is listed {} times", block.refs, seen[id]));
            }
            if block.published && self.index.get(&block.key) != Some(&(id as u32)) {
                return Err(format!("block {id} is published but not in the index"));
            }
        }
        let published = self.blocks.iter().filter(|b| b.published).count();
        if published != self.index.len() {
            return Err(format!("{published} blocks are published, {} in the index", self.index.len()));
        }
        Ok(())
    }
}

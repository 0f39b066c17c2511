//! SentencePiece's byte-pair encoding, as GGUF files of the kind `llama` store it: tokens with scores, no merges.
//!
//! Spaces become `▁`, and of all neighbours that join into a token, those whose token has the highest score
//! join first (the leftmost of equals). What remains of one character and is no token is spelt in bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use crate::markers::{Allowed, Markers};

/// The letter that stands for a space.
pub(crate) const SPACE: char = '▁';

/// A vocabulary with scores.
pub(crate) struct Spm {
    pub markers: Markers,
    /// Ordinary tokens: id and score. Markers and byte tokens are not among them, so no text leads there.
    pub tokens: HashMap<String, (u32, f32)>,
    pub bytes: Box<[Option<u32>; 256]>,
    pub unk: Option<u32>,
    /// A text begins with a space of its own, and so does what follows a marker.
    pub add_space_prefix: bool,
}

/// A stretch of the text that is at present one symbol. Neighbours are indices; joined ones have no length.
#[derive(Clone)]
struct Symbol {
    range: Range<usize>,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that would make a token.
struct Join {
    score: f32,
    left: usize,
    right: usize,
    /// The length that both had together: a join whose parts have changed since is void.
    length: usize,
}

impl Spm {
    /// The ids of `text`. Special tokens count only where `allowed` says so of their range.
    pub fn encode(&self, text: &str, allowed: Allowed) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut after_marker = true;
        for (range, marker) in self.markers.split(text, allowed) {
            match marker {
                Some(id) => ids.push(id),
                None => self.encode_plain(&text[range], after_marker, &mut ids),
            }
            after_marker = marker.is_some();
        }
        ids
    }

    fn encode_plain(&self, text: &str, after_marker: bool, ids: &mut Vec<u32>) {
        let prefix = if self.add_space_prefix && after_marker { " " } else { "" };
        let text = [prefix, text].concat().replace(' ', SPACE.encode_utf8(&mut [0; 4]));
        for range in self.merge(&text) {
            let piece = &text[range];
            match self.tokens.get(piece) {
                Some((id, _)) => ids.push(*id),
                None => self.spell(piece, ids),
            }
        }
    }

    /// A character that is no token, in bytes if all of them are tokens.
    fn spell(&self, character: &str, ids: &mut Vec<u32>) {
        let bytes: Option<Vec<u32>> = character.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        match bytes {
            Some(bytes) => ids.extend(bytes),
            None => ids.extend(self.unk),
        }
    }

    /// Joins characters until no two neighbours make a token.
    fn merge(&self, text: &str) -> Vec<Range<usize>> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (at, c))| Symbol { range: at..at + c.len_utf8(), previous: i.checked_sub(1), next: Some(i + 1) })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut joins = BinaryHeap::new();
        for left in 0..symbols.len() {
            joins.extend(self.join(text, &symbols, Some(left), symbols[left].next));
        }
        while let Some(Join { left, right, length, .. }) = joins.pop() {
            let is_current = !symbols[left].range.is_empty()
                && !symbols[right].range.is_empty()
                && symbols[left].range.len() + symbols[right].range.len() == length;
            if !is_current {
                continue;
            }
            symbols[left].range.end = symbols[right].range.end;
            symbols[right].range.start = symbols[right].range.end;
            let next = symbols[right].next;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
            }
            joins.extend(self.join(text, &symbols, symbols[left].previous, Some(left)));
            joins.extend(self.join(text, &symbols, Some(left), next));
        }
        symbols.into_iter().map(|symbol| symbol.range).filter(|range| !range.is_empty()).collect()
    }

    fn join(&self, text: &str, symbols: &[Symbol], left: Option<usize>, right: Option<usize>) -> Option<Join> {
        let (left, right) = (left?, right?);
        let both = symbols[left].range.start..symbols[right].range.end;
        let (_, score) = self.tokens.get(&text[both.clone()])?;
        Some(Join { score: *score, left, right, length: both.len() })
    }

    /// The pairs that may join, the first to join first: the merges of the byte-pair encoding that is equal to
    /// this one.
    pub fn merges(&self) -> Vec<(&str, &str)> {
        let mut order: Vec<(&str, u32, f32)> =
            self.tokens.iter().map(|(token, (id, score))| (token.as_str(), *id, *score)).collect();
        order.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.1.cmp(&b.1)));
        let known = |token: &str| self.tokens.get(token).map(|(id, _)| *id);
        order.into_iter().flat_map(|(token, _, _)| splits(token, known)).collect()
    }
}

/// The ways to make `token` out of two known ones, those of the lowest ids first.
pub(crate) fn splits(token: &str, id_of: impl Fn(&str) -> Option<u32>) -> Vec<(&str, &str)> {
    let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
    let mut splits: Vec<_> =
        cuts.filter_map(|(left, right)| Some(((id_of(left)?, id_of(right)?), (left, right)))).collect();
    splits.sort_by_key(|(ids, _)| *ids);
    splits.into_iter().map(|(_, pair)| pair).collect()
}

impl Ord for Join {
    /// The greatest joins first: the highest score, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Join {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Join {}

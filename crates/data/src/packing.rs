//! How documents share windows: what of which document lies in which window.
//!
//! A window is what a sample is made from: `context` tokens that the model sees, and one more, the last target.

use std::collections::BTreeMap;
use std::ops::Range;

/// A part of a document: all of it, unless it is longer than a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The document.
    pub document: u32,
    /// Where in the document the piece begins.
    pub start: u32,
    /// Tokens.
    pub len: u32,
    /// Tokens of a window that are kept free for it beyond its own.
    pub reserve: u32,
}

impl Piece {
    fn room(&self) -> u32 {
        self.len + self.reserve
    }
}

/// Pieces of documents in windows, each piece in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    pieces: Vec<Piece>,
    /// Where in `pieces` each window ends.
    ends: Vec<u32>,
    window: u32,
}

/// A corpus that is too large for this way of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a source of more than 4 billion documents or parts of them, or with one of more than 4 billion tokens")]
pub struct TooLarge;

impl Packed {
    /// Packs documents of these lengths into windows of `window` tokens; `reserve` says for which documents
    /// room is to be kept.
    ///
    /// Documents longer than a window are cut into full windows and a rest. Then the longest piece goes first,
    /// each into the fullest window that still has room for it (best fit, decreasing). The same lengths always
    /// give the same windows.
    pub fn new(
        lengths: impl Iterator<Item = u64>,
        window: u32,
        reserve: impl Fn(u32) -> u32,
    ) -> Result<Self, TooLarge> {
        let mut pieces = cut(lengths, window, reserve)?;
        u32::try_from(pieces.len()).map_err(|_| TooLarge)?;
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.room()));
        let mut windows = 0u32;
        let mut with_room: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut places = Vec::with_capacity(pieces.len());
        for piece in &pieces {
            let room = piece.room();
            let (left, at) = take_fullest(&mut with_room, room).unwrap_or_else(|| {
                windows += 1;
                (window, windows - 1)
            });
            with_room.entry(left - room).or_default().push(at);
            places.push(at);
        }
        Ok(Self::by_window(&pieces, &places, windows as usize, window))
    }

    /// Sorts the pieces by their windows, keeping their order inside.
    fn by_window(pieces: &[Piece], places: &[u32], windows: usize, window: u32) -> Self {
        let mut order: Vec<u32> = (0..pieces.len() as u32).collect();
        order.sort_by_key(|&i| places[i as usize]);
        let mut ends = vec![0u32; windows];
        for &at in places {
            ends[at as usize] += 1;
        }
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            *end = sum;
        }
        Self { pieces: order.into_iter().map(|i| pieces[i as usize]).collect(), ends, window }
    }

    /// How many windows there are.
    pub fn windows(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The pieces of a window.
    pub fn window(&self, window: u64) -> &[Piece] {
        let window = window as usize;
        let start = window.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.pieces[start as usize..self.ends[window] as usize]
    }

    /// Tokens of documents that a window holds.
    pub fn tokens(&self, window: u64) -> u64 {
        self.window(window).iter().map(|piece| u64::from(piece.len)).sum()
    }

    /// Tokens of windows that no document fills.
    pub fn padding(&self) -> u64 {
        let held: u64 = self.pieces.iter().map(|piece| u64::from(piece.len)).sum();
        self.windows() * u64::from(self.window) - held
    }
}

/// The window with the least room that has enough, taken out of the map, with the room it has.
fn take_fullest(with_room: &mut BTreeMap<u32, Vec<u32>>, room: u32) -> Option<(u32, u32)> {
    let entry = with_room.range_mut(room..).next()?;
    let left = *entry.0;
    let at = entry.1.pop()?;
    if entry.1.is_empty() {
        with_room.remove(&left);
    }
    Some((left, at))
}

fn cut(lengths: impl Iterator<Item = u64>, window: u32, reserve: impl Fn(u32) -> u32) -> Result<Vec<Piece>, TooLarge> {
    let mut pieces = Vec::new();
    for (document, len) in lengths.enumerate() {
        let document = u32::try_from(document).map_err(|_| TooLarge)?;
        let len = u32::try_from(len).map_err(|_| TooLarge)?;
        // A window so short that it has no room beyond the reserve goes without one.
        let reserve = Some(reserve(document)).filter(|&reserve| 2 * reserve < window).unwrap_or(0);
        let step = window - reserve;
        for start in (0..len).step_by(step as usize) {
            pieces.push(Piece { document, start, len: step.min(len - start), reserve });
        }
    }
    Ok(pieces)
}

/// All documents as one stream, cut every `context` tokens: the last target of a window is the first token of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Tokens of the stream.
    pub tokens: u64,
    /// Tokens that the model sees at once.
    pub context: u64,
}

impl Stream {
    /// How many windows there are. (The last one may have to be filled up.)
    pub fn windows(&self) -> u64 {
        if self.tokens == 0 { 0 } else { (self.tokens - 1).div_ceil(self.context).max(1) }
    }

    /// The tokens of a window, the last target included.
    pub fn window(&self, window: u64) -> Range<u64> {
        let start = window * self.context;
        start..(start + self.context + 1).min(self.tokens)
    }

    /// Tokens that belong to a window and to no other.
    pub fn tokens(&self, window: u64) -> u64 {
        let Range { start, end } = self.window(window);
        if window + 1 == self.windows() { end - start } else { self.context }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_loses_no_token(
            lengths in proptest::collection::vec(1u64..300, 0..80),
            window in 3u32..100,
            reserve in 0u32..9,
        ) {
            let reserve_of = |document: u32| if document % 3 == 0 { reserve } else { 0 };
            let packed = Packed::new(lengths.iter().copied(), window, reserve_of).unwrap();
            let mut parts: Vec<Vec<(u32, u32)>> = vec![Vec::new(); lengths.len()];
            for at in 0..packed.windows() {
                prop_assert!(packed.window(at).iter().map(Piece::room).sum::<u32>() <= window);
                prop_assert!(!packed.window(at).is_empty());
                for piece in packed.window(at) {
                    parts[piece.document as usize].push((piece.start, piece.len));
                }
            }
            for (parts, &len) in parts.iter_mut().zip(&lengths) {
                parts.sort_unstable();
                let end = parts.iter().try_fold(0, |at, &(start, len)| (at == start).then_some(start + len));
                prop_assert_eq!(end, Some(len as u32));
            }
            let held: u64 = (0..packed.windows()).map(|at| packed.tokens(at)).sum();
            prop_assert_eq!(held, lengths.iter().sum::<u64>());
            prop_assert_eq!(held + packed.padding(), packed.windows() * u64::from(window));
        }

        #[test]
        fn a_stream_has_every_token_as_a_target_once(tokens in 0u64..500, context in 1u64..60) {
            let stream = Stream { tokens, context };
            let targets = (0..stream.windows()).flat_map(|at| stream.window(at).skip(1));
            prop_assert!(targets.eq(1..tokens.max(1)));
            prop_assert_eq!((0..stream.windows()).map(|at| stream.tokens(at)).sum::<u64>(), tokens);
        }
    }

    #[test]
    fn short_documents_fill_windows_nearly_completely() {
        let lengths = (0..10_000u64).map(|i| spec::random::below(spec::random::mix(i), 1000) + 1);
        let packed = Packed::new(lengths, 1025, |_| 0).unwrap();
        let share = packed.padding() as f64 / (packed.windows() * 1025) as f64;
        assert!(share < 0.01, "{share}");
    }
}

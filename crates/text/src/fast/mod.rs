//! Byte-pair encoding at speed: the same ids as the `tokenizers` library, an order of magnitude sooner.
//!
//! It serves the tokenisers whose way of cutting text is written out by hand ([`Cut`]) and whose vocabulary has all
//! 256 bytes. A word is looked up whole first ([`Words`] holds every token that merging would arrive at), and only
//! words that are no token are merged ([`Merges`]). Everything is fixed when the tokeniser is loaded: no cache, no
//! locks, and the same speed on every thread.

mod classes;
mod cut;
mod merges;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use cut::Cut;

use merges::{Merges, Scratch};
use words::Words;

use crate::document::Bpe;
use crate::pieces::ByteAlphabet;
use std::collections::HashMap;

/// Characters below are in composed form, whatever surrounds them.
const FIRST_UNSTABLE: char = '\u{300}';

/// A fast encoder.
pub(crate) struct FastBpe {
    cut: Cut,
    /// Whether text is to be brought into composed form first.
    nfc: bool,
    words: Words,
    merges: Merges,
}

impl FastBpe {
    /// The encoder for a model, if it has a token for every byte.
    pub fn new(model: &Bpe, cut: Cut, nfc: bool) -> Option<Self> {
        let alphabet = ByteAlphabet::new();
        let ids: HashMap<&str, u32> = model.vocab.0.iter().map(|(token, id)| (token.as_str(), *id)).collect();
        let tokens: Vec<(Vec<u8>, u32)> =
            ids.iter().filter_map(|(token, &id)| Some((alphabet.bytes(token)?, id))).collect();
        let mut bytes = [None; 256];
        for (token, id) in &tokens {
            if let [byte] = token[..] {
                bytes[usize::from(byte)] = Some(*id);
            }
        }
        let bytes: Vec<u32> = bytes.into_iter().collect::<Option<_>>()?;
        let joined = |(left, right): (&str, &str)| {
            Some((*ids.get(left)?, *ids.get(right)?, *ids.get([left, right].concat().as_str())?))
        };
        let merges = Merges::new(bytes, model.pairs().map(joined).collect::<Option<Vec<_>>>()?);
        let mut scratch = Scratch::default();
        let is_reached = |(token, id): &(Vec<u8>, u32)| {
            let mut out = Vec::new();
            merges.encode(token, &mut scratch, &mut out);
            out == [*id]
        };
        let words: Vec<_> = match model.ignore_merges {
            true => tokens,
            false => tokens.into_iter().filter(is_reached).collect(),
        };
        Some(Self { cut, nfc, words: Words::new(words), merges })
    }

    /// Whether this text can be encoded here: it is in the form that a normaliser would give it.
    pub fn accepts(&self, text: &str) -> bool {
        !self.nfc || text.is_ascii() || text.chars().all(|c| c < FIRST_UNSTABLE)
    }

    /// Appends the ids of a text without markers.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let mut scratch = Scratch::default();
        let mut start = 0;
        while start < bytes.len() {
            let end = self.cut.end(text, start);
            match self.words.get(bytes, start, end) {
                Some(id) => out.push(id),
                None => self.merges.encode(&bytes[start..end], &mut scratch, out),
            }
            start = end;
        }
    }
}

/// The words of a text as GPT-4 cuts it.
pub(crate) fn cut_gpt4(text: &str) -> impl Iterator<Item = &str> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let from = start;
        start = (from < text.len()).then(|| Cut::Gpt4 { digits: 3 }.end(text, from))?;
        text.get(from..start)
    })
}

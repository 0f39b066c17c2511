//! Finds added tokens in a text: special ones only where they are allowed, the others everywhere.
//!
//! The rules are those of the `tokenizers` library: leftmost, then longest; `single_word`, `lstrip` and
//! `rstrip` as it reads them. What it cannot do, and what safety needs, is to allow special tokens in one part
//! of a text and not in another.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Anchored, Input, MatchKind, StartKind};

use crate::document::AddedToken;
use crate::error::{Error, Result};

/// Of which ranges special tokens are allowed; nothing if of none.
pub(crate) type Allowed<'a> = Option<&'a dyn Fn(Range<usize>) -> bool>;

/// A stretch of text, and the added token that it is, if it is one.
pub(crate) type Segment = (Range<usize>, Option<u32>);

/// Searches for a set of added tokens.
#[derive(Default)]
pub(crate) struct Markers {
    tokens: Vec<AddedToken>,
    search: Option<Search>,
}

struct Search {
    all: AhoCorasick,
    /// Without the special tokens; `plain_tokens` are its patterns as indices into `tokens`.
    plain: AhoCorasick,
    plain_tokens: Vec<usize>,
}

impl Markers {
    /// Looks for `tokens`, each as spelt beside it.
    pub fn new(tokens: Vec<(AddedToken, String)>) -> Result<Self> {
        let (tokens, spelt): (Vec<_>, Vec<_>) = tokens.into_iter().filter(|(_, spelt)| !spelt.is_empty()).unzip();
        if tokens.is_empty() {
            return Ok(Self::default());
        }
        let plain_tokens: Vec<usize> = (0..tokens.len()).filter(|&i| !tokens[i].special).collect();
        let search = Search {
            all: automaton(spelt.iter())?,
            plain: automaton(plain_tokens.iter().map(|&i| &spelt[i]))?,
            plain_tokens,
        };
        Ok(Self { tokens, search: Some(search) })
    }

    /// Cuts `text` at the tokens. A special one counts only where `allowed` says so of its range.
    pub fn split(&self, text: &str, allowed: Allowed) -> Vec<Segment> {
        let mut segments = Vec::new();
        let (mut done, mut from) = (0, 0);
        while let Some((at, token)) = self.find(text, from, allowed) {
            from = at.end;
            if token.single_word && is_inside_word(text, &at) {
                continue;
            }
            let start = if token.lstrip { text[..at.start].trim_end().len().max(done) } else { at.start };
            let end = if token.rstrip { text.len() - text[at.end..].trim_start().len() } else { at.end };
            if done < start {
                segments.push((done..start, None));
            }
            segments.push((start..end, Some(token.id)));
            (done, from) = (end, end);
        }
        if done < text.len() {
            segments.push((done..text.len(), None));
        }
        segments
    }

    /// The first token at or after `from` that may stand there.
    fn find(&self, text: &str, mut from: usize, allowed: Allowed) -> Option<(Range<usize>, &AddedToken)> {
        let search = self.search.as_ref()?;
        let Some(allowed) = allowed else {
            let hit = search.plain.find(Input::new(text).range(from..))?;
            return Some((hit.range(), &self.tokens[search.plain_tokens[hit.pattern()]]));
        };
        loop {
            let hit = search.all.find(Input::new(text).range(from..))?;
            let token = &self.tokens[hit.pattern()];
            if !token.special || allowed(hit.range()) {
                return Some((hit.range(), token));
            }
            // It may hide an ordinary token that begins at the same place.
            let here = Input::new(text).range(hit.start()..).anchored(Anchored::Yes);
            if let Some(hit) = search.plain.find(here) {
                return Some((hit.range(), &self.tokens[search.plain_tokens[hit.pattern()]]));
            }
            from = text.ceil_char_boundary(hit.start() + 1);
        }
    }
}

fn automaton<'a>(patterns: impl Iterator<Item = &'a String>) -> Result<AhoCorasick> {
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .start_kind(StartKind::Both)
        .build(patterns)
        .map_err(|error| Error::Vocabulary(format!("its added tokens are too many to search for: {error}")))
}

fn is_inside_word(text: &str, at: &Range<usize>) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text[..at.start].ends_with(is_word) || text[at.end..].starts_with(is_word)
}

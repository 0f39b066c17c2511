//! Text to ids with the parts of the `tokenizers` library: normalise, split into words, merge bytes.
//!
//! The library's own `encode` is not used, because it cannot allow special tokens in one part of a text and
//! refuse them in another; its parts are put together here in the same order.

use std::collections::HashSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizer::Range as Offsets;
use tokenizers::tokenizer::pre_tokenizer::Split;
use tokenizers::{
    Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Token,
};

use crate::document::{AddedToken, Bpe, Document, Merge};
use crate::error::{Error, Result};
use crate::fast::FastBpe;
use crate::markers::{Allowed, Markers};
use crate::pre::Pre;

/// A byte-pair encoder with all that comes before it.
pub(crate) struct Pipeline {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    bpe: BPE,
    /// Does the same sooner, where it can.
    fast: Option<FastBpe>,
    raw_markers: Markers,
    normalized_markers: Markers,
    /// The sections as they were read, for writing them again; the vocabulary and the merges are left out.
    sections: Document,
    /// Special tokens that are in the file's vocabulary, and not in `bpe`: no text may lead to them.
    withheld: Vec<(String, u32)>,
}

impl Pipeline {
    /// Builds the parts that a checked document describes.
    pub fn new(mut document: Document) -> Result<Self> {
        let normalizer: Option<NormalizerWrapper> = section(&document.normalizer, "the tokenizer's normalizer")?;
        let pre_tokenizer = section(&document.pre_tokenizer, "the tokenizer's pre_tokenizer")?;
        let (normalized, raw): (Vec<_>, Vec<_>) =
            document.added_tokens.iter().cloned().partition(|token| token.normalized);
        let raw_markers = Markers::new(raw.into_iter().map(|token| (token.clone(), token.content)).collect())?;
        let normalized_markers = Markers::new(normalize_each(normalized, normalizer.as_ref())?)?;
        let withheld = withhold_specials(&mut document);
        let known = Pre::of_sections(&document.normalizer, &document.pre_tokenizer).find_map(Pre::fast);
        let fast = known.and_then(|(cut, nfc)| FastBpe::new(&document.model, cut, nfc));
        let bpe = build(&mut document.model)?;
        Ok(Self { normalizer, pre_tokenizer, bpe, fast, raw_markers, normalized_markers, sections: document, withheld })
    }

    /// The ids of `text`. Special tokens count only where `allowed` says so of their range.
    pub fn encode(&self, text: &str, allowed: Allowed) -> Result<Vec<u32>> {
        match &self.fast {
            Some(fast) if fast.accepts(text) => Ok(self.encode_fast(fast, text, allowed)),
            _ => self.encode_slow(text, allowed),
        }
    }

    #[cfg(test)]
    pub fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    fn encode_fast(&self, fast: &FastBpe, text: &str, allowed: Allowed) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        for (outer, marker) in self.raw_markers.split(text, allowed) {
            if let Some(id) = marker {
                ids.push(id);
                continue;
            }
            let begin = outer.start;
            let shifted = |range: Range<usize>| allowed.is_some_and(|f| f(begin + range.start..begin + range.end));
            let part = &text[outer];
            for (inner, marker) in self.normalized_markers.split(part, allowed.map(|_| &shifted as _)) {
                match marker {
                    Some(id) => ids.push(id),
                    None => fast.encode(&part[inner], &mut ids),
                }
            }
        }
        ids
    }

    /// With the library's parts, whatever the tokeniser.
    pub fn encode_slow(&self, text: &str, allowed: Allowed) -> Result<Vec<u32>> {
        let mut pieces = PreTokenizedString::from(text);
        self.fill(&mut pieces, allowed).map_err(|error| Error::Encode(error.to_string()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None);
        Ok(encoding.map_err(|error| Error::Encode(error.to_string()))?.get_ids().to_vec())
    }

    fn fill(&self, pieces: &mut PreTokenizedString, allowed: Allowed) -> tokenizers::Result<()> {
        pieces.split(|_, text| cut(&self.raw_markers, &text, allowed))?;
        pieces.split(|_, mut text| {
            if let Some(normalizer) = &self.normalizer {
                normalizer.normalize(&mut text)?;
            }
            cut(&self.normalized_markers, &text, allowed)
        })?;
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(pieces)?;
        }
        pieces.tokenize(|text| self.bpe.tokenize(text.get()))
    }

    /// The document from which this was made, its vocabulary in the order of the ids.
    pub fn document(&self) -> Result<Document> {
        let mut document = self.sections.clone();
        let model = serde_json::to_value(&self.bpe).map_err(|source| Error::Json { part: "the model", source })?;
        let model: Bpe = section(&model, "the model")?
            .ok_or_else(|| Error::Vocabulary("the tokenizers library wrote no model".into()))?;
        document.model = model;
        let vocab = &mut document.model.vocab.0;
        vocab.extend(self.withheld.iter().cloned());
        vocab.sort_by_key(|(_, id)| *id);
        Ok(document)
    }
}

/// Parses a section that may be absent.
pub(crate) fn section<T: DeserializeOwned>(section: &Value, part: &'static str) -> Result<Option<T>> {
    serde_json::from_value(section.clone()).map_err(|source| Error::Json { part, source })
}

/// How each token reads after normalisation, which is how it is met in a normalised text.
fn normalize_each(
    tokens: Vec<AddedToken>,
    normalizer: Option<&NormalizerWrapper>,
) -> Result<Vec<(AddedToken, String)>> {
    let normalize = |token: AddedToken| {
        let mut text = NormalizedString::from(token.content.as_str());
        if let Some(normalizer) = normalizer {
            normalizer.normalize(&mut text).map_err(|error| Error::Encode(error.to_string()))?;
        }
        Ok((token, text.get().to_string()))
    };
    tokens.into_iter().map(normalize).collect()
}

/// Takes out of the vocabulary the special tokens that nothing is merged into or out of: with
/// `ignore_merges` a word that reads like one would otherwise become it.
fn withhold_specials(document: &mut Document) -> Vec<(String, u32)> {
    let model = &mut document.model;
    let special: HashSet<&str> =
        document.added_tokens.iter().filter(|token| token.special).map(|token| token.content.as_str()).collect();
    let merged: HashSet<String> = model
        .pairs()
        .flat_map(|(left, right)| [left.into(), right.into(), [left, right].concat()])
        .filter(|token: &String| special.contains(token.as_str()))
        .collect();
    let unk = model.unk_token.as_deref();
    let is_withheld = |token: &str| {
        special.contains(token) && !merged.contains(token) && Some(token) != unk && token.chars().count() > 1
    };
    let (withheld, kept) = std::mem::take(&mut model.vocab.0).into_iter().partition(|(token, _)| is_withheld(token));
    model.vocab.0 = kept;
    withheld
}

/// Hands the vocabulary and the merges over to the library.
pub(crate) fn build(model: &mut Bpe) -> Result<BPE> {
    let vocab = std::mem::take(&mut model.vocab.0).into_iter().collect::<tokenizers::models::bpe::Vocab>();
    let owned = |merge: Merge| merge.pair().map(|(left, right)| (left.to_string(), right.to_string()));
    let merges = std::mem::take(&mut model.merges).into_iter().filter_map(owned).collect();
    let builder = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .fuse_unk(model.fuse_unk)
        .byte_fallback(model.byte_fallback)
        .ignore_merges(model.ignore_merges);
    let builder = match model.unk_token.clone() {
        Some(unk) => builder.unk_token(unk),
        None => builder,
    };
    builder.build().map_err(|error| Error::Vocabulary(error.to_string()))
}

/// Cuts a stretch of the text at the markers in it.
fn cut(markers: &Markers, text: &NormalizedString, allowed: Allowed) -> tokenizers::Result<Vec<Split>> {
    let begin = text.offsets_original().0;
    let in_original = |range: Range<usize>| {
        let original = text.convert_offsets(Offsets::Normalized(range));
        original.is_some_and(|range| allowed.is_some_and(|f| f(begin + range.start..begin + range.end)))
    };
    let slice = |(range, id): (Range<usize>, Option<u32>)| {
        let part = text.slice(Offsets::Normalized(range)).ok_or("a marker begins inside a character")?;
        let token = id.map(|id| vec![Token::new(id, String::new(), (0, 0))]);
        Ok(Split::from((part, token)))
    };
    markers.split(text.get(), allowed.map(|_| &in_original as _)).into_iter().map(slice).collect()
}

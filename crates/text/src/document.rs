//! The `tokenizer.json` document: what it holds, and what must be true of it before anyone may use it.
//!
//! The `tokenizers` library trusts its input (a merge that is longer than every token panics in it), so all
//! that it takes for granted is checked here.

use std::collections::HashMap;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// Ids beyond this are taken for damage, not for a large vocabulary.
const MOST_IDS: u32 = 1 << 24;

/// The normalizers that are used, all of which survive whatever text and settings they meet.
const NORMALIZERS: [&str; 10] =
    ["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Prepend", "Replace"];

/// The pre-tokenizers that are used.
const PRE_TOKENIZERS: [&str; 8] =
    ["Sequence", "ByteLevel", "Metaspace", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"];

/// A `tokenizer.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    #[serde(default = "version")]
    pub version: String,
    #[serde(default)]
    pub truncation: Value,
    #[serde(default)]
    pub padding: Value,
    #[serde(default)]
    pub added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    #[serde(default)]
    pub decoder: Value,
    pub model: Bpe,
}

fn version() -> String {
    "1.0".into()
}

/// A token that is looked for in the text before anything else happens to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

impl AddedToken {
    /// A token that is matched as it is written.
    pub fn new(id: u32, content: impl Into<String>, special: bool) -> Self {
        let content = content.into();
        Self { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }
    }
}

/// The model section: byte-pair encoding, the only kind that decoders of text use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bpe {
    #[serde(rename = "type", default = "bpe")]
    pub kind: String,
    #[serde(default)]
    pub dropout: Option<f32>,
    #[serde(default)]
    pub unk_token: Option<String>,
    #[serde(default)]
    pub continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub fuse_unk: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    pub vocab: Vocabulary,
    pub merges: Vec<Merge>,
}

fn bpe() -> String {
    "BPE".into()
}

/// Tokens and their ids, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary(pub Vec<(String, u32)>);

/// Two tokens that become one: a pair, or in older files one string with a space between.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Merge {
    Pair(String, String),
    Line(String),
}

impl Merge {
    /// The two tokens, unless an old-style line has not exactly one space.
    pub fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(left, right) => Some((left, right)),
            Self::Line(line) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        }
    }
}

impl Document {
    /// Parses and checks a `tokenizer.json`.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let document: Self = serde_json::from_slice(json).map_err(|source| better_reason(json, source))?;
        document.check()?;
        Ok(document)
    }

    /// Everything that is taken for granted later on.
    pub fn check(&self) -> Result<()> {
        self.check_settings()?;
        check_kinds("normalizer", &self.normalizer, &NORMALIZERS)?;
        check_kinds("pre_tokenizer", &self.pre_tokenizer, &PRE_TOKENIZERS)?;
        let ids = self.check_ids()?;
        check_merges(&self.model.merges, &ids)?;
        match &self.model.unk_token {
            Some(unk) if !ids.contains_key(unk.as_str()) => broken(format!("unk_token `{unk}` is not a token")),
            _ => Ok(()),
        }
    }

    fn check_settings(&self) -> Result<()> {
        let model = &self.model;
        let named = |what: &str, value: &str| format!("{what} `{value}` of the tokenizer's model");
        if model.kind != "BPE" {
            return unsupported(named("type", &model.kind), "only BPE is");
        }
        for (what, affix) in [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
                return unsupported(named(what, affix), "only tokens that join as they are written are");
            }
        }
        match model.dropout {
            Some(dropout) if dropout != 0.0 => unsupported(named("dropout", &dropout.to_string()), "set it to null"),
            _ => Ok(()),
        }
    }

    /// One id per token and one token per id, over the vocabulary and the added tokens together.
    fn check_ids(&self) -> Result<HashMap<&str, u32>> {
        let added = self.added_tokens.iter().map(|token| (token.content.as_str(), token.id));
        let base = self.model.vocab.0.iter().map(|(token, id)| (token.as_str(), *id));
        let mut ids = HashMap::new();
        let mut tokens: HashMap<u32, &str> = HashMap::new();
        for (token, id) in base.chain(added) {
            if id >= MOST_IDS {
                return broken(format!("token `{token}` has id {id}, and ids end at {MOST_IDS}"));
            }
            let other_id = ids.insert(token, id).filter(|&other| other != id);
            let other_token = tokens.insert(id, token).filter(|&other| other != token);
            if let Some(other) = other_id {
                return broken(format!("token `{token}` has the ids {other} and {id}"));
            }
            if let Some(other) = other_token {
                return broken(format!("id {id} stands for `{other}` and `{token}`"));
            }
        }
        if self.added_tokens.iter().any(|token| token.content.is_empty()) {
            return broken("an added token is empty".into());
        }
        if ids.is_empty() {
            return broken("it has no tokens".into());
        }
        Ok(ids)
    }
}

/// Every step of a section is of a kind that is known to be safe.
fn check_kinds(part: &str, section: &Value, known: &[&str]) -> Result<()> {
    if section.is_null() {
        return Ok(());
    }
    let kind = section.get("type").and_then(Value::as_str).unwrap_or("without a type");
    if !known.contains(&kind) {
        let what = format!("{part} `{kind}`");
        return Err(Error::Unsupported { what, instead: format!("these are: {}", known.join(", ")) });
    }
    // The library loses count of characters where an expression matches between two of them.
    let replaced = section.pointer("/pattern/String").and_then(Value::as_str);
    if kind == "Replace" && replaced.is_none_or(str::is_empty) {
        let what = format!("{part} `Replace` of an expression or of nothing");
        return Err(Error::Unsupported { what, instead: "a text to be replaced is".into() });
    }
    let steps = ["normalizers", "pretokenizers"].map(|name| section.get(name).and_then(Value::as_array));
    steps.into_iter().flatten().flatten().try_for_each(|step| check_kinds(part, step, known))
}

fn check_merges(merges: &[Merge], ids: &HashMap<&str, u32>) -> Result<()> {
    let mut joined = String::new();
    for (i, merge) in merges.iter().enumerate() {
        let Some((left, right)) = merge.pair() else {
            return broken(format!("merge {i} is not two tokens with a space between: {merge:?}"));
        };
        joined.clear();
        joined.extend([left, right]);
        if let Some(unknown) = [left, right, &joined].into_iter().find(|token| !ids.contains_key(token)) {
            return broken(format!("merge {i}, `{left}` + `{right}`, names `{unknown}`, which is not a token"));
        }
    }
    Ok(())
}

impl Bpe {
    /// The merges as pairs. (Lines that are none were refused by [`Document::check`].)
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.merges.iter().filter_map(Merge::pair)
    }
}

/// A model of another kind fails on the first field that BPE has not; say what it is instead.
fn better_reason(json: &[u8], source: serde_json::Error) -> Error {
    #[derive(Deserialize)]
    struct Peek {
        model: PeekModel,
    }
    #[derive(Deserialize)]
    struct PeekModel {
        #[serde(rename = "type")]
        kind: String,
    }
    match serde_json::from_slice::<Peek>(json) {
        Ok(peek) if peek.model.kind != "BPE" => Error::Unsupported {
            what: format!("type `{}` of the tokenizer's model", peek.model.kind),
            instead: "only BPE is".into(),
        },
        _ => Error::Json { part: "the tokenizer", source },
    }
}

fn broken<T>(reason: String) -> Result<T> {
    Err(Error::Vocabulary(reason))
}

fn unsupported<T>(what: String, instead: &str) -> Result<T> {
    Err(Error::Unsupported { what, instead: instead.into() })
}

impl Serialize for Vocabulary {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, id) in &self.0 {
            map.serialize_entry(token, id)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map from tokens to ids")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vocabulary, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Vocabulary(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

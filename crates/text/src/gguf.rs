//! A tokeniser from the vocabulary that a GGUF file carries in its metadata.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::chat::TemplateSources;
use crate::document::{AddedToken, Bpe, Document, Merge, Vocabulary};
use crate::error::{Error, Result};
use crate::markers::Markers;
use crate::pieces::{Spelling, fallback_byte};
use crate::pre::Pre;
use crate::roles::Roles;
use crate::spm::{SPACE, Spm};
use crate::tokenizer::{Model, Tokenizer};

/// What a GGUF file says about its tokeniser, field by field (`tokenizer.ggml.*`, `tokenizer.chat_template`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// `pre`: how text is cut into words; for `gpt2` only.
    pub pre: String,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `scores`, by id; needed for `llama`.
    pub scores: Option<Vec<f32>>,
    /// `token_type`, by id: one of the constants here. Absent means all are normal.
    pub token_types: Option<Vec<i32>>,
    /// `merges`, as two tokens with a space between; needed for `gpt2`.
    pub merges: Option<Vec<String>>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: ends a turn, and so a generation.
    pub eot: Option<u32>,
    /// `eom_token_id`: ends a message, and so a generation.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`. Absent: yes for `llama` and for some kinds of `pre`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`. Absent: no.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`, for `llama`. Absent: yes.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

impl GgufVocabulary {
    /// An ordinary token.
    pub const NORMAL: i32 = 1;
    /// The token for what is unknown.
    pub const UNKNOWN: i32 = 2;
    /// A marker: special.
    pub const CONTROL: i32 = 3;
    /// Matched whole in any text, and not special.
    pub const USER_DEFINED: i32 = 4;
    /// Fills a gap.
    pub const UNUSED: i32 = 5;
    /// One byte, `<0x41>`.
    pub const BYTE: i32 = 6;

    fn kind(&self, id: usize) -> i32 {
        self.token_types.as_ref().and_then(|types| types.get(id)).copied().unwrap_or(Self::NORMAL)
    }

    /// Tokens with ids and kinds. An empty token, which some converters leave, gets a name.
    fn entries(&self) -> impl Iterator<Item = (String, u32, i32)> {
        (0u32..).zip(&self.tokens).map(|(id, token)| {
            let token = if token.is_empty() { format!("[EMPTY_{id}]") } else { token.clone() };
            (token, id, self.kind(id as usize))
        })
    }

    /// Lists that go by id must be as long as the tokens, and ids must be tokens.
    fn check(&self) -> Result<()> {
        let size = self.tokens.len();
        let lengths =
            [("scores", self.scores.as_ref().map(Vec::len)), ("token_type", self.token_types.as_ref().map(Vec::len))];
        for (name, length) in lengths {
            if let Some(length) = length.filter(|&length| length != size) {
                return Err(Error::Vocabulary(format!("it has {size} tokens and {length} entries in `{name}`")));
            }
        }
        let ids = [self.bos, self.eos, self.eot, self.eom, self.unk, self.pad];
        match ids.into_iter().flatten().find(|&id| id as usize >= size) {
            Some(id) => Err(Error::UnknownId { id, size }),
            None => Ok(()),
        }
    }

    /// The tokens that are matched before all else.
    fn added(&self) -> Vec<AddedToken> {
        let added = self.entries().filter_map(|(token, id, kind)| {
            let special = match kind {
                Self::CONTROL | Self::UNKNOWN => true,
                Self::USER_DEFINED => false,
                _ => return None,
            };
            Some(AddedToken::new(id, token, special))
        });
        added.collect()
    }

    fn roles(&self, add_bos_by_default: bool) -> Roles {
        let names =
            [("bos_token", self.bos), ("eos_token", self.eos), ("unk_token", self.unk), ("pad_token", self.pad)];
        let text = |id: u32| self.tokens.get(id as usize).cloned();
        let named: BTreeMap<_, _> =
            names.into_iter().filter_map(|(name, id)| Some((name.to_string(), text(id?)?))).collect();
        let mut eos: Vec<u32> = self.eos.into_iter().collect();
        for id in self.eot.into_iter().chain(self.eom) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        let prefix = self.bos.filter(|_| self.add_bos.unwrap_or(add_bos_by_default)).into_iter().collect();
        let suffix = self.eos.filter(|_| self.add_eos == Some(true)).into_iter().collect();
        Roles { named, bos: self.bos, eos, prefix, suffix }
    }

    fn templates(&self) -> TemplateSources {
        self.chat_template.as_deref().map(TemplateSources::single).unwrap_or_default()
    }
}

impl Tokenizer {
    /// Builds the tokeniser of a GGUF file.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self> {
        vocabulary.check()?;
        match vocabulary.model.as_str() {
            "gpt2" => byte_level(vocabulary),
            "llama" => sentence_piece(vocabulary),
            other => Err(Error::Unsupported {
                what: format!("the tokenizer `{other}` (tokenizer.ggml.model)"),
                instead: "gpt2 and llama are".into(),
            }),
        }
    }
}

fn byte_level(vocabulary: &GgufVocabulary) -> Result<Tokenizer> {
    let pre = Pre::named(if vocabulary.pre.is_empty() { "default" } else { &vocabulary.pre })?;
    let Some(merges) = &vocabulary.merges else {
        return Err(Error::Vocabulary("`tokenizer.ggml.merges` is missing".into()));
    };
    let added = vocabulary.added();
    let is_added =
        |kind| matches!(kind, GgufVocabulary::CONTROL | GgufVocabulary::UNKNOWN | GgufVocabulary::USER_DEFINED);
    let vocab =
        vocabulary.entries().filter(|(_, _, kind)| !is_added(*kind)).map(|(token, id, _)| (token, id)).collect();
    let roles = vocabulary.roles(pre.add_bos);
    let document = Document {
        normalizer: pre.normalizer(),
        pre_tokenizer: pre.pre_tokenizer(),
        post_processor: post_processor(&roles, vocabulary),
        decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        ..Document::new(
            added,
            Bpe {
                ignore_merges: pre.ignore_merges,
                ..Bpe::new(vocab, merges.iter().cloned().map(Merge::Line).collect())
            },
        )
    };
    document.check()?;
    Tokenizer::from_document(document, roles, vocabulary.templates())
}

fn sentence_piece(vocabulary: &GgufVocabulary) -> Result<Tokenizer> {
    let Some(scores) = &vocabulary.scores else {
        return Err(Error::Vocabulary("`tokenizer.ggml.scores` is missing".into()));
    };
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(Error::Vocabulary(format!("token {id} has a score that is no number")));
    }
    let added = vocabulary.added();
    let base: Vec<_> = vocabulary.entries().map(|(token, id, _)| (token, id)).collect();
    let spm = build_spm(vocabulary, scores, &added)?;
    let roles = vocabulary.roles(true);
    let spelling = Spelling::parse(&space_decoder(spm.add_space_prefix))?;
    let document = Document::new(added.clone(), Bpe::new(base.clone(), Vec::new()));
    document.check()?;
    Tokenizer::assemble(Model::Spm(spm), spelling, base, added, roles, vocabulary.templates())
}

fn build_spm(vocabulary: &GgufVocabulary, scores: &[f32], added: &[AddedToken]) -> Result<Spm> {
    let (mut tokens, mut bytes) = (HashMap::new(), Box::new([None; 256]));
    for ((token, id, kind), &score) in vocabulary.entries().zip(scores) {
        match (kind, fallback_byte(&token)) {
            (GgufVocabulary::BYTE, Some(byte)) => bytes[usize::from(byte)] = Some(id),
            (GgufVocabulary::BYTE, None) => {
                return Err(Error::Vocabulary(format!("byte token {id} reads `{token}`, not like `<0x41>`")));
            }
            (GgufVocabulary::NORMAL | GgufVocabulary::UNUSED, _) => {
                tokens.insert(token, (id, score));
            }
            _ => {}
        }
    }
    let unknown = vocabulary.token_types.iter().flatten().position(|&kind| kind == GgufVocabulary::UNKNOWN);
    let unk = vocabulary.unk.or(unknown.map(|id| id as u32));
    if unk.is_none() && bytes.contains(&None) {
        return Err(Error::Vocabulary("it has neither a token for every byte nor one for the unknown".into()));
    }
    let markers = Markers::new(added.iter().map(|token| (token.clone(), token.content.clone())).collect())?;
    Ok(Spm { markers, tokens, bytes, unk, add_space_prefix: vocabulary.add_space_prefix.unwrap_or(true) })
}

/// The section that adds the first and the last token.
fn post_processor(roles: &Roles, vocabulary: &GgufVocabulary) -> Value {
    let token = |&id: &u32| vocabulary.tokens.get(id as usize).map(|token| (token.clone(), id));
    affix_processor(
        &roles.prefix.iter().filter_map(token).collect::<Vec<_>>(),
        &roles.suffix.iter().filter_map(token).collect::<Vec<_>>(),
    )
}

/// A post-processor that puts tokens around a text.
pub(crate) fn affix_processor(prefix: &[(String, u32)], suffix: &[(String, u32)]) -> Value {
    if prefix.is_empty() && suffix.is_empty() {
        return Value::Null;
    }
    let special = |(token, _): &(String, u32)| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let around = |name: &str| {
        let text = json!({ "Sequence": { "id": name, "type_id": 0 } });
        prefix.iter().map(special).chain([text]).chain(suffix.iter().map(special)).collect::<Vec<_>>()
    };
    let define = |(token, id): &(String, u32)| (token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
    let pair = [around("A"), around("B")].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": pair,
        "special_tokens": prefix.iter().chain(suffix).map(define).collect::<serde_json::Map<_, _>>(),
    })
}

/// The decoder of SentencePiece's spaces and bytes.
pub(crate) fn space_decoder(strip: bool) -> Value {
    let strip = strip.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    let steps = [
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    json!({ "type": "Sequence", "decoders": steps.into_iter().chain(strip).collect::<Vec<_>>() })
}

impl Document {
    /// A document with these tokens and nothing else.
    pub fn new(added_tokens: Vec<AddedToken>, model: Bpe) -> Self {
        let (truncation, padding, normalizer, pre_tokenizer) = Default::default();
        let (post_processor, decoder) = Default::default();
        let version = "1.0".into();
        Self { version, truncation, padding, added_tokens, normalizer, pre_tokenizer, post_processor, decoder, model }
    }
}

impl Bpe {
    /// Plain byte-pair encoding.
    pub fn new(vocab: Vec<(String, u32)>, merges: Vec<Merge>) -> Self {
        Self {
            kind: "BPE".into(),
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: Vocabulary(vocab),
            merges,
        }
    }
}

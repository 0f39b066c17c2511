//! The vocabulary for a GGUF file, for tokenisers that such a file can describe without loss.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::Model as _;

use crate::document::{AddedToken, Bpe, Document};
use crate::error::{Error, Result};
use crate::gguf::{GgufVocabulary, space_decoder};
use crate::pieces::fallback_byte;
use crate::pipeline::build;
use crate::pre::Pre;
use crate::spm::{SPACE, Spm, splits};
use crate::tokenizer::{Model, Tokenizer};

fn refuse<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::NotExpressible { format: "a GGUF vocabulary", reason: reason.into() })
}

impl Tokenizer {
    /// The vocabulary for a GGUF file; an error if such a file cannot say all of it.
    pub fn to_gguf(&self) -> Result<GgufVocabulary> {
        if let Some(token) = self.added.iter().find(|token| !is_plain(token)) {
            return refuse(format!("`{}` is matched in a way of its own (lstrip, ...)", token.content));
        }
        let mut gguf = self.roles_for_gguf()?;
        (gguf.tokens, gguf.token_types) = self.tokens_for_gguf(gguf.unk);
        match &self.model {
            Model::Spm(spm) => fill_from_spm(&mut gguf, spm),
            Model::Bpe(pipeline) if self.spelling.is_byte_level() => fill_byte_level(&mut gguf, &pipeline.document()?)?,
            Model::Bpe(pipeline) => fill_sentence_piece(&mut gguf, &pipeline.document()?)?,
        }
        Ok(gguf)
    }

    /// Tokens and their types, by id. Ids without a token are filled.
    fn tokens_for_gguf(&self, unk: Option<u32>) -> (Vec<String>, Option<Vec<i32>>) {
        let size = self.vocab_size();
        let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![GgufVocabulary::UNUSED; size];
        for (token, id) in self.entries() {
            tokens[id as usize] = token.into();
            types[id as usize] = GgufVocabulary::NORMAL;
        }
        for token in &self.added {
            types[token.id as usize] = match token.special {
                true if Some(token.id) == unk => GgufVocabulary::UNKNOWN,
                true => GgufVocabulary::CONTROL,
                false => GgufVocabulary::USER_DEFINED,
            };
        }
        (tokens, Some(types))
    }

    fn roles_for_gguf(&self) -> Result<GgufVocabulary> {
        let roles = &self.roles;
        let named = |name: &str| roles.named.get(name).and_then(|token| self.id_of(token));
        let adds = |ids: &[u32], token: Option<u32>| match ids {
            [] => Ok(Some(false)),
            [id] if Some(*id) == token => Ok(Some(true)),
            _ => refuse("it puts other tokens around a text than its bos and its eos"),
        };
        let [eos, eot, eom] = [0, 1, 2].map(|i| roles.eos.get(i).copied());
        if roles.eos.len() > 3 {
            return refuse(format!("{} tokens end a generation, and there is room for three", roles.eos.len()));
        }
        let bos = roles.bos.or(roles.prefix.first().copied());
        let chat_template = self.templates.only()?;
        Ok(GgufVocabulary {
            bos,
            eos,
            eot,
            eom,
            unk: named("unk_token"),
            pad: named("pad_token"),
            add_bos: adds(&roles.prefix, bos)?,
            add_eos: adds(&roles.suffix, eos)?,
            chat_template,
            ..Default::default()
        })
    }
}

/// Whether the token is matched as it is written, wherever it stands.
fn is_plain(token: &AddedToken) -> bool {
    let is_fixed = !token.normalized || token.content.is_ascii();
    is_fixed && !token.lstrip && !token.rstrip && !token.single_word
}

fn fill_from_spm(gguf: &mut GgufVocabulary, spm: &Spm) {
    let mut scores = vec![0.0; gguf.tokens.len()];
    for (id, score) in spm.tokens.values() {
        scores[*id as usize] = *score;
    }
    fill_sentence_piece_fields(gguf, scores, spm.add_space_prefix);
}

fn fill_sentence_piece_fields(gguf: &mut GgufVocabulary, scores: Vec<f32>, add_space_prefix: bool) {
    for (token, kind) in gguf.tokens.iter().zip(gguf.token_types.iter_mut().flatten()) {
        if *kind == GgufVocabulary::NORMAL && fallback_byte(token).is_some() {
            *kind = GgufVocabulary::BYTE;
        }
    }
    gguf.model = "llama".into();
    gguf.pre = "default".into();
    gguf.scores = Some(scores);
    gguf.add_space_prefix = Some(add_space_prefix);
}

/// Byte-level BPE: the pre-tokenizer must have a name.
fn fill_byte_level(gguf: &mut GgufVocabulary, document: &Document) -> Result<()> {
    let model = &document.model;
    if model.byte_fallback || model.unk_token.is_some() {
        return refuse("it mixes a byte alphabet with a token for the unknown");
    }
    let known: Vec<&Pre> = Pre::of_sections(&document.normalizer, &document.pre_tokenizer).collect();
    let pre = match known.iter().find(|pre| pre.ignore_merges == model.ignore_merges) {
        Some(pre) => pre,
        None if known.is_empty() => {
            return refuse("its pre-tokenizer is none that has a name there");
        }
        None if ignoring_merges_changes_nothing(document)? => known[0],
        None => {
            return refuse("its `ignore_merges` is not what a file with its pre-tokenizer means");
        }
    };
    gguf.model = "gpt2".into();
    gguf.pre = pre.names[0].into();
    gguf.merges = Some(model.pairs().map(|(left, right)| format!("{left} {right}")).collect());
    Ok(())
}

/// Whether the merges lead to every ordinary token, so that taking a word whole is the same as merging it.
fn ignoring_merges_changes_nothing(document: &Document) -> Result<bool> {
    let added: Vec<&str> = document.added_tokens.iter().map(|token| token.content.as_str()).collect();
    let bpe = build(&mut Bpe { ignore_merges: false, ..document.model.clone() })?;
    let is_reached = |(token, id): &(String, u32)| {
        let ids = bpe.tokenize(token).map(|found| found.iter().map(|token| token.id).collect::<Vec<_>>());
        ids.is_ok_and(|ids| ids == [*id]) || added.contains(&token.as_str())
    };
    Ok(document.model.vocab.0.iter().all(is_reached))
}

/// Characters with byte fallback: the merges must be those that scores can say.
fn fill_sentence_piece(gguf: &mut GgufVocabulary, document: &Document) -> Result<()> {
    let model = &document.model;
    if document.decoder != space_decoder(true) && document.decoder != space_decoder(false) {
        return refuse("its decoder is neither that of byte-level BPE nor SentencePiece's");
    }
    if model.ignore_merges && !ignoring_merges_changes_nothing(document)? {
        return refuse("it takes words whole to which no merges lead");
    }
    let Some(add_space_prefix) = space_prefix(&document.normalizer, &document.pre_tokenizer) else {
        return refuse("its spaces are not written as there: ▁ for each, and one before each text or none");
    };
    let scores = scores(gguf, model)?;
    fill_sentence_piece_fields(gguf, scores, add_space_prefix);
    Ok(())
}

/// Whether a text gets a space in front, if the sections are those that a GGUF file stands for.
fn space_prefix(normalizer: &Value, pre_tokenizer: &Value) -> Option<bool> {
    let space = String::from(SPACE);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": space });
    let prepend = json!({ "type": "Prepend", "prepend": space });
    if !pre_tokenizer.is_null() {
        return None;
    }
    if *normalizer == json!({ "type": "Sequence", "normalizers": [prepend, replace] }) {
        return Some(true);
    }
    let alone = [replace.clone(), json!({ "type": "Sequence", "normalizers": [replace] })];
    alone.contains(normalizer).then_some(false)
}

/// Scores from the order of the merges. They say that whatever two tokens make a token may join, the earlier
/// tokens first; so they exist only if the merges are all of those, and each token's stand together.
fn scores(gguf: &GgufVocabulary, model: &Bpe) -> Result<Vec<f32>> {
    let types = gguf.token_types.iter().flatten();
    let ordinary = gguf.tokens.iter().zip(0u32..).zip(types);
    let ids: HashMap<&str, u32> = ordinary
        .filter(|((token, _), kind)| **kind == GgufVocabulary::NORMAL && fallback_byte(token).is_none())
        .map(|((token, id), _)| (token.as_str(), id))
        .collect();
    let mut scores = vec![f32::NEG_INFINITY; gguf.tokens.len()];
    let mut merges: Vec<(&str, &str)> = model.pairs().collect();
    let mut rank = 0;
    while rank < merges.len() {
        let joined = [merges[rank].0, merges[rank].1].concat();
        let Some((&token, &id)) = ids.get_key_value(joined.as_str()) else {
            return refuse(format!("its merges lead to `{joined}`, which no text may become"));
        };
        let expected = splits(token, |part| ids.get(part).copied());
        let end = merges.len().min(rank + expected.len().max(1));
        let group = &mut merges[rank..end];
        group.sort_by_key(|(left, right)| (ids.get(left), ids.get(right)));
        let score = &mut scores[id as usize];
        if expected != group || *score != f32::NEG_INFINITY {
            return refuse(format!("its merges to `{token}` are not all that scores would allow"));
        }
        *score = -(rank as f32);
        rank = end;
    }
    for (token, &id) in &ids {
        let score = &mut scores[id as usize];
        if *score == f32::NEG_INFINITY && !splits(token, |part| ids.get(part).copied()).is_empty() {
            return refuse(format!("scores would allow merges to `{token}`, which it does not have"));
        }
    }
    let lowest = -(merges.len() as f32);
    scores.iter_mut().filter(|score| score.is_infinite()).for_each(|score| *score = lowest);
    Ok(scores)
}

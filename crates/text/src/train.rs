//! Makes a tokeniser out of texts: byte-level byte-pair encoding, trained with the `tokenizers` library.
//!
//! Text is cut by the expression of GPT-4's tokeniser (also Llama 3's), which other programs know by name:
//!
//! | alternative | what it makes a word |
//! |---|---|
//! | `(?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d)` | contractions |
//! | `[^\r\n\p{L}\p{N}]?\p{L}+` | letters, with one character before them: a space, `_`, `.`, `(` ... |
//! | `\p{N}{1,3}` | digits, in groups of up to three |
//! | ` ?[^\s\p{L}\p{N}]+[\r\n]*` | operators and punctuation, with the newlines after them: `{`, `);` and the end of the line |
//! | `\s*[\r\n]+` | the rest of a line and empty lines |
//! | `\s+(?!\S)` | indentation: a run of spaces but for the last, which belongs to the word that follows |
//! | `\s+` | a single space |
//!
//! No text leads to a special token: they are put behind the vocabulary, and merges never make them.

use std::collections::BTreeMap;

use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::tokenizer::Trainer;

use crate::chat::TemplateSources;
use crate::document::{AddedToken, Bpe, Document};
use crate::error::{Error, Result};
use crate::fast::cut_gpt4;
use crate::gguf::affix_processor;
use crate::pieces::ByteAlphabet;
use crate::pipeline::section;
use crate::pre::Pre;
use crate::roles::Roles;
use crate::tokenizer::Tokenizer;

/// The token between two texts: it begins each, and so ends the one before.
pub const END_OF_TEXT: &str = "<|endoftext|>";

const END_OF_TURN: &str = "<|im_end|>";

/// The special tokens of a tokeniser made here, in the order of their ids.
pub const SPECIAL_TOKENS: [&str; 11] = [
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<|image|>",
];

/// The smallest vocabulary: every byte and the special tokens.
pub const SMALLEST_VOCABULARY: usize = 256 + SPECIAL_TOKENS.len();

/// The name by which other programs know how text is cut.
const PRE: &str = "dbrx";

/// Pairs that occur once are not worth a token.
const LEAST_COUNT: u64 = 2;

/// Letters of the longest token.
const LONGEST: usize = 64;

const TEMPLATE: &str = include_str!("train/chat_template.jinja");

/// Trains a tokeniser with `vocab_size` ids, special tokens included. The same texts in any order give the same
/// tokeniser.
pub fn train(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Tokenizer> {
    let base = vocab_size.checked_sub(SPECIAL_TOKENS.len()).filter(|&base| base >= 256).ok_or_else(|| {
        let what = format!("a vocabulary of {vocab_size} ids");
        let instead = format!("it takes {SMALLEST_VOCABULARY} for the 256 bytes and the special tokens alone");
        Error::Unsupported { what, instead }
    })?;
    let mut model = train_merges(texts, base)?;
    model.vocab.0.sort_by_key(|(_, id)| *id);
    let learned = model.vocab.0.len();
    if learned < base {
        let what = format!("a vocabulary of {vocab_size} ids for this little text");
        let most = learned + SPECIAL_TOKENS.len();
        return Err(Error::Unsupported { what, instead: format!("it gives {most} at most, more text gives more") });
    }
    let special = |(id, token): (u32, &str)| AddedToken::new(id, token, true);
    let added: Vec<_> = (base as u32..).zip(SPECIAL_TOKENS).map(special).collect();
    assemble(added, model)
}

fn assemble(added: Vec<AddedToken>, model: Bpe) -> Result<Tokenizer> {
    let pre = Pre::named(PRE)?;
    let id_of = |name: &str| added.iter().find(|token| token.content == name).map(|token| token.id);
    let ids = |name| id_of(name).into_iter().collect::<Vec<_>>();
    let end_of_text = ids(END_OF_TEXT);
    let named = ["bos_token", "eos_token", "pad_token"].map(|role| (role.to_string(), END_OF_TEXT.to_string()));
    let roles = Roles {
        named: BTreeMap::from(named),
        bos: id_of(END_OF_TEXT),
        eos: [end_of_text.clone(), ids(END_OF_TURN)].concat(),
        prefix: end_of_text.clone(),
        suffix: Vec::new(),
    };
    let prefix: Vec<_> = end_of_text.into_iter().map(|id| (END_OF_TEXT.to_string(), id)).collect();
    let document = Document {
        normalizer: pre.normalizer(),
        pre_tokenizer: pre.pre_tokenizer(),
        post_processor: affix_processor(&prefix, &[]),
        decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        ..Document::new(added, model)
    };
    document.check()?;
    Tokenizer::from_document(document, roles, TemplateSources::single(TEMPLATE))
}

/// Vocabulary and merges, without special tokens.
fn train_merges(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Bpe> {
    let failed = |error: tokenizers::Error| Error::Encode(error.to_string());
    let alphabet = ByteAlphabet::new();
    let letters = alphabet.letters();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(LEAST_COUNT)
        .initial_alphabet(letters.iter().copied().collect())
        .max_token_length(Some(LONGEST))
        .show_progress(false)
        .build();
    let spell = |word: &str| word.bytes().map(|byte| letters[usize::from(byte)]).collect::<String>();
    trainer.feed(texts, |text| Ok(cut_gpt4(text).map(spell).collect())).map_err(failed)?;
    let mut bpe = BPE::default();
    trainer.train(&mut bpe).map_err(failed)?;
    let part = "the trained model";
    let json = serde_json::to_value(&bpe).map_err(|source| Error::Json { part, source })?;
    section::<Bpe>(&json, part)?.ok_or_else(|| Error::Vocabulary("the tokenizers library trained no model".into()))
}

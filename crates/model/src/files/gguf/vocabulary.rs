//! The tokeniser of a GGUF file, as plain data.

use super::config::Reader;
use super::parse::Gguf;
use crate::files::FileError;

/// What a GGUF file says about tokens (`tokenizer.*`). Which of it matters depends on `model`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// `gpt2` (byte-level BPE), `llama` (SentencePiece), ...
    pub model: String,
    /// Name of the pre-tokeniser, of `gpt2` vocabularies.
    pub pre: Option<String>,
    /// Tokens in the order of their ids.
    pub tokens: Vec<String>,
    /// One score a token, or none at all.
    pub scores: Vec<f32>,
    /// One type a token, or none at all: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// Pairs to merge, best first, joined by a space.
    pub merges: Vec<String>,
    /// First token of a text.
    pub bos: Option<u32>,
    /// Last token of a text.
    pub eos: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    /// End of a message.
    pub eom: Option<u32>,
    /// For what no token spells.
    pub unk: Option<u32>,
    /// Filler.
    pub pad: Option<u32>,
    /// Whether texts start with `bos`.
    pub add_bos: Option<bool>,
    /// Whether texts end with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space goes before the text.
    pub add_space_prefix: Option<bool>,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

const PREFIX: &str = "tokenizer.ggml.";

impl Vocabulary {
    /// Reads the vocabulary of a file; one without tokens has an empty one.
    pub(super) fn read(gguf: &Gguf) -> Result<Self, FileError> {
        let mut reader = Reader::new(gguf, PREFIX);
        let vocabulary = Self {
            model: reader.text("model")?.unwrap_or_default(),
            pre: reader.text("pre")?,
            tokens: reader.texts("tokens")?,
            scores: reader.floats("scores")?,
            token_types: reader.integers("token_type")?,
            merges: reader.texts("merges")?,
            bos: reader.id("bos_token_id")?,
            eos: reader.id("eos_token_id")?,
            eot: reader.id("eot_token_id")?,
            eom: reader.id("eom_token_id")?,
            unk: reader.id("unknown_token_id")?,
            pad: reader.id("padding_token_id")?,
            add_bos: reader.flag("add_bos_token")?,
            add_eos: reader.flag("add_eos_token")?,
            add_space_prefix: reader.flag("add_space_prefix")?,
            chat_template: Reader::new(gguf, "tokenizer.").text("chat_template")?,
        };
        let tokens = vocabulary.tokens.len();
        for (key, length) in [("scores", vocabulary.scores.len()), ("token_type", vocabulary.token_types.len())] {
            if length != 0 && length != tokens {
                let problem = format!("has {length} entries for {tokens} tokens");
                return Err(reader.error(key, problem));
            }
        }
        Ok(vocabulary)
    }
}

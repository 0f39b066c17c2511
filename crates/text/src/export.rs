//! Back to files: `tokenizer.json` and `tokenizer_config.json`.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::document::{Bpe, Document, Merge};
use crate::error::{Error, Result};
use crate::gguf::{affix_processor, space_decoder};
use crate::roles::affixes;
use crate::spm::{SPACE, Spm};
use crate::tokenizer::{Model, Tokenizer};

impl Tokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json` (with the chat template) into a folder.
    ///
    /// The ids that end a generation are not all in these files: write [`Self::eos`] into
    /// `generation_config.json`, as `eos_token_id`.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        write_json(&folder.join("tokenizer.json"), &self.document()?)?;
        write_json(&folder.join("tokenizer_config.json"), &self.config())
    }

    /// The `tokenizer.json` of this tokeniser.
    pub(crate) fn document(&self) -> Result<Document> {
        let mut document = match &self.model {
            Model::Bpe(pipeline) => pipeline.document()?,
            Model::Spm(spm) => self.spm_document(spm)?,
        };
        let around = (self.roles.prefix.clone(), self.roles.suffix.clone());
        if affixes(&document.post_processor)? != around {
            document.post_processor = affix_processor(&self.with_text(&around.0), &self.with_text(&around.1));
        }
        Ok(document)
    }

    fn with_text(&self, ids: &[u32]) -> Vec<(String, u32)> {
        ids.iter().filter_map(|&id| Some((self.token(id)?.to_string(), id))).collect()
    }

    fn config(&self) -> Value {
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        config.extend(self.roles.named.iter().map(|(name, token)| (name.clone(), token.clone().into())));
        if let Some(templates) = self.templates.to_json() {
            config.insert("chat_template".into(), templates);
        }
        config.into()
    }

    /// All tokens by id; ids without one are left out.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, u32)> {
        (0..self.vocab_size() as u32).filter_map(|id| Some((self.token(id)?, id)))
    }

    /// SentencePiece's encoding as merges, which come from the scores.
    fn spm_document(&self, spm: &Spm) -> Result<Document> {
        let unreachable = |token: &&String| {
            token.chars().any(|letter| !spm.tokens.contains_key(letter.encode_utf8(&mut [0; 4]) as &str))
        };
        if let Some(token) = spm.tokens.keys().find(unreachable) {
            return Err(Error::NotExpressible {
                format: "tokenizer.json",
                reason: format!("`{token}` has a character that is no token by itself"),
            });
        }
        let merges = spm.merges().into_iter().map(|(left, right)| Merge::Pair(left.into(), right.into())).collect();
        let vocab = self.entries().map(|(token, id)| (token.to_string(), id)).collect();
        let space = String::from(SPACE);
        let prepend = spm.add_space_prefix.then(|| json!({ "type": "Prepend", "prepend": space }));
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": space });
        let steps: Vec<Value> = prepend.into_iter().chain([replace]).collect();
        Ok(Document {
            normalizer: json!({ "type": "Sequence", "normalizers": steps }),
            decoder: space_decoder(spm.add_space_prefix),
            ..Document::new(
                self.added.clone(),
                Bpe {
                    unk_token: spm.unk.and_then(|id| self.token(id)).map(String::from),
                    byte_fallback: spm.bytes.iter().any(Option::is_some),
                    ..Bpe::new(vocab, merges)
                },
            )
        })
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let json =
        serde_json::to_vec_pretty(value).map_err(|source| Error::Json { part: "what was to be written", source })?;
    std::fs::write(path, json).map_err(|source| Error::File { path: path.into(), source })
}

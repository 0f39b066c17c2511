//! The tokeniser: where it comes from, and what may be asked of it.

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::chat::{ChatTemplate, RenderedPrompt, TemplateSources};
use crate::decoder::{DecodeOptions, Decoder};
use crate::document::{AddedToken, Document};
use crate::error::{Error, Result};
use crate::markers::Allowed;
use crate::pieces::{ByteAlphabet, Spelling};
use crate::pipeline::Pipeline;
use crate::roles::{Roles, Settings};
use crate::spm::Spm;

/// Turns text into ids and back.
pub struct Tokenizer {
    pub(crate) model: Model,
    pub(crate) spelling: Spelling,
    /// By id; ids that no token has are empty.
    tokens: Vec<Option<Token>>,
    ids: HashMap<Box<str>, u32>,
    pub(crate) added: Vec<AddedToken>,
    pub(crate) roles: Roles,
    pub(crate) templates: TemplateSources,
}

/// What merges characters into tokens.
pub(crate) enum Model {
    Bpe(Box<Pipeline>),
    Spm(Spm),
}

struct Token {
    text: Box<str>,
    bytes: Box<[u8]>,
    is_special: bool,
}

impl Tokenizer {
    /// Loads a `tokenizer.json` alone: without roles (`eos`) other than those that it adds to a text itself,
    /// and without a chat template.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::load(path.as_ref(), Settings::default(), TemplateSources::default())
    }

    /// Loads the tokeniser of a model folder: `tokenizer.json`, and where they are there
    /// `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and the chat template.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let settings = Settings::from_folder(folder)?;
        let templates = TemplateSources::from_folder(folder, &settings.tokenizer)?;
        Self::load(&folder.join("tokenizer.json"), settings, templates)
    }

    fn load(path: &Path, settings: Settings, templates: TemplateSources) -> Result<Self> {
        let json = std::fs::read(path).map_err(|source| Error::File { path: path.into(), source })?;
        let build = || {
            let mut document = Document::parse(&json)?;
            let roles = Roles::settle(&settings, &mut document)?;
            Self::from_document(document, roles, templates)
        };
        build().map_err(|error| error.in_file(path))
    }

    /// Builds on a document that has been checked.
    pub(crate) fn from_document(document: Document, roles: Roles, templates: TemplateSources) -> Result<Self> {
        let spelling = Spelling::parse(&document.decoder)?;
        let base = document.model.vocab.0.clone();
        let added = document.added_tokens.clone();
        let pipeline = Pipeline::new(document)?;
        Self::assemble(Model::Bpe(Box::new(pipeline)), spelling, base, added, roles, templates)
    }

    /// Lays out the table of tokens. `base` and `added` agree where they overlap.
    pub(crate) fn assemble(
        model: Model,
        spelling: Spelling,
        base: Vec<(String, u32)>,
        added: Vec<AddedToken>,
        roles: Roles,
        templates: TemplateSources,
    ) -> Result<Self> {
        let alphabet = ByteAlphabet::new();
        let all = base.into_iter().map(|(text, id)| (text, id, false));
        let all = all.chain(added.iter().map(|token| (token.content.clone(), token.id, token.special)));
        let (mut tokens, mut ids) = (Vec::new(), HashMap::new());
        for (text, id, is_special) in all {
            let place = id as usize;
            if tokens.len() <= place {
                tokens.resize_with(place + 1, || None);
            }
            let bytes = spelling.bytes(&text, &alphabet).into();
            ids.insert(text.clone().into(), id);
            tokens[place] = Some(Token { text: text.into(), bytes, is_special });
        }
        let tokenizer = Self { model, spelling, tokens, ids, added, roles, templates };
        tokenizer.check_roles()?;
        Ok(tokenizer)
    }

    fn check_roles(&self) -> Result<()> {
        let Roles { bos, eos, prefix, suffix, .. } = &self.roles;
        let around = prefix.iter().chain(suffix).map(|id| ("a token of the post_processor", id));
        let named = bos.iter().map(|id| ("bos_token_id", id)).chain(eos.iter().map(|id| ("eos_token_id", id)));
        match named.chain(around).find(|&(_, &id)| self.token(id).is_none()) {
            Some((role, &id)) => Err(Error::UnknownRole { role, id, size: self.vocab_size() }),
            None => Ok(()),
        }
    }

    /// What identifies the ids that texts get: SHA-256 of all that decides them, in hexadecimal. Roles, chat
    /// templates and what is put around a whole text are left out.
    pub fn fingerprint(&self) -> Result<String> {
        let document = self.document()?;
        let parts = (&document.added_tokens, &document.normalizer, &document.pre_tokenizer, &document.model);
        let json = serde_json::to_vec(&parts).map_err(|source| Error::Json { part: "the tokenizer", source })?;
        Ok(Sha256::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// One past the highest id. (Ids below it may be unused.)
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// Refuses a model whose embedding has fewer rows than there are ids.
    pub fn check_vocabulary(&self, model_vocab_size: usize) -> Result<()> {
        let Some(highest) = self.vocab_size().checked_sub(1).filter(|&id| id >= model_vocab_size) else {
            return Ok(());
        };
        let highest = highest as u32;
        let token = self.token(highest).unwrap_or_default().to_string();
        Err(Error::VocabularyTooLarge { highest, token, model: model_vocab_size })
    }

    /// The ids of a text that a person wrote: special tokens in it are read as plain characters.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_where(text, None)
    }

    /// [`Self::encode`] with the tokens that the model expects around a whole text (often [`Self::bos`]).
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        Ok([&self.roles.prefix, &*self.encode(text)?, &self.roles.suffix].concat())
    }

    /// The ids of a text of which every character is trusted: special tokens in it are recognised.
    ///
    /// For prompts whose author is the program's user. Never for what came in through a chat.
    pub fn encode_with_markers(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_where(text, Some(&|_| true))
    }

    /// The ids of a rendered chat: special tokens that the template wrote are recognised, those that a message
    /// spells are plain characters.
    pub fn encode_prompt(&self, prompt: &RenderedPrompt) -> Result<Vec<u32>> {
        self.encode_where(prompt.text(), Some(&|range| prompt.is_trusted(range)))
    }

    fn encode_where(&self, text: &str, allowed: Allowed) -> Result<Vec<u32>> {
        match &self.model {
            Model::Bpe(pipeline) => pipeline.encode(text, allowed),
            Model::Spm(spm) => Ok(spm.encode(text, allowed)),
        }
    }

    /// The text of `ids`, special tokens included; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, DecodeOptions::default())
    }

    /// The text of `ids`.
    pub fn decode_with(&self, ids: &[u32], options: DecodeOptions) -> Result<String> {
        let mut decoder = self.decoder(options);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&decoder.push(self, id)?);
        }
        text.push_str(&decoder.finish());
        Ok(text)
    }

    /// A decoder that takes ids one by one.
    pub fn decoder(&self, options: DecodeOptions) -> Decoder {
        Decoder::new(self.spelling.strip, options)
    }

    /// The token as the vocabulary writes it, such as `Ġthe` or `▁the`.
    pub fn token(&self, id: u32) -> Option<&str> {
        Some(&self.entry(id)?.text)
    }

    /// The bytes that a token stands for.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        Some(&self.entry(id)?.bytes)
    }

    pub(crate) fn bytes_or_error(&self, id: u32) -> Result<&[u8]> {
        self.token_bytes(id).ok_or(Error::UnknownId { id, size: self.vocab_size() })
    }

    /// The id of a token as the vocabulary writes it.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Whether the token is special: a marker, never part of a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.entry(id).is_some_and(|token| token.is_special)
    }

    fn entry(&self, id: u32) -> Option<&Token> {
        self.tokens.get(id as usize)?.as_ref()
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The tokens that end a generation.
    pub fn eos(&self) -> &[u32] {
        &self.roles.eos
    }

    /// The chat template; the one named `tool_use` for requests with tools, if there are both.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::new(&self.templates, self)
    }

    /// A chat template given by the caller, for a model without one.
    pub fn chat_template_from(&self, source: &str) -> Result<ChatTemplate> {
        ChatTemplate::new(&TemplateSources::single(source), self)
    }

    /// The special tokens as text.
    pub(crate) fn special_texts(&self) -> impl Iterator<Item = &str> {
        self.added.iter().filter(|token| token.special).map(|token| token.content.as_str())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).field("roles", &self.roles).finish()
    }
}

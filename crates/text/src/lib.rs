//! What is a token? Tokenisers and chat templates.
//!
//! A [`Tokenizer`] comes from a model folder ([`Tokenizer::from_folder`]) or from the vocabulary that a GGUF
//! file carries ([`Tokenizer::from_gguf`]), and goes back to either ([`Tokenizer::save`],
//! [`Tokenizer::to_gguf`]). Its ids equal those of the `tokenizers` library, with one law on top: **a special
//! token is never made from text that a person typed.** [`Tokenizer::encode`] reads special tokens as the
//! characters that spell them, and a chat ([`ChatTemplate::render`], then [`Tokenizer::encode_prompt`]) takes
//! as markers only those that the template wrote, every character of them.
//!
//! What this crate never does: clean up spaces after decoding, truncate, pad, read a clock, or load models.
//! (The `truncation` and `padding` of a `tokenizer.json` and `clean_up_tokenization_spaces` have no effect.)

mod chat;
mod decoder;
mod document;
mod error;
mod export;
mod fast;
mod gguf;
mod markers;
mod pieces;
mod pipeline;
mod pre;
mod roles;
mod spm;
mod to_gguf;
mod tokenizer;
mod train;

pub use chat::{ChatRequest, ChatTemplate, CivilTime, Message, RenderedPrompt};
pub use decoder::{DecodeOptions, Decoder};
pub use error::{Error, Result};
pub use gguf::GgufVocabulary;
pub use tokenizer::Tokenizer;
pub use train::{END_OF_TEXT, SMALLEST_VOCABULARY, SPECIAL_TOKENS, train};

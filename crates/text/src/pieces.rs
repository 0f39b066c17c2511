//! The exact bytes of each token, as the `decoder` of a `tokenizer.json` spells them.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// How tokens become bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spelling {
    steps: Vec<Step>,
    /// How many spaces at the very beginning of a text are not part of it.
    pub strip: usize,
}

/// One step of a decoder, of the kinds that work on each token alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type")]
enum Step {
    ByteLevel {},
    ByteFallback {},
    Fuse {},
    Replace {
        pattern: Pattern,
        content: String,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    Metaspace {
        replacement: char,
        #[serde(default)]
        prepend_scheme: Option<String>,
    },
    Sequence {
        decoders: Vec<Step>,
    },
}

#[derive(Clone, Debug, Deserialize)]
enum Pattern {
    String(String),
}

impl Spelling {
    /// Reads the decoder section.
    pub fn parse(decoder: &Value) -> Result<Self> {
        let step =
            Step::deserialize(decoder).map_err(|source| Error::Json { part: "the tokenizer's decoder", source })?;
        let mut spelling = Self::default();
        spelling.add(step)?;
        Ok(spelling)
    }

    fn add(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Sequence { decoders } => decoders.into_iter().try_for_each(|step| self.add(step))?,
            Step::Strip { content: ' ', start, stop: 0 } => self.strip += start,
            Step::Strip { content, start, stop } => {
                return Err(Error::Unsupported {
                    what: format!("a decoder that strips {start} `{content}` and, at the end, {stop}"),
                    instead: "spaces at the beginning are".into(),
                });
            }
            Step::Metaspace { replacement, prepend_scheme } => {
                self.strip += usize::from(prepend_scheme.as_deref() != Some("never"));
                self.steps.push(Step::Replace { pattern: Pattern::String(replacement.into()), content: " ".into() });
            }
            Step::Fuse {} => {}
            step => self.steps.push(step),
        }
        Ok(())
    }

    /// Whether tokens are written in GPT-2's alphabet of bytes.
    pub fn is_byte_level(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::ByteLevel {}))
    }

    /// The bytes of one token.
    pub fn bytes(&self, token: &str, alphabet: &ByteAlphabet) -> Vec<u8> {
        let mut text = token.to_string();
        for step in &self.steps {
            match step {
                Step::Replace { pattern: Pattern::String(from), content } => text = text.replace(from, content),
                Step::ByteFallback {} => {
                    if let Some(byte) = fallback_byte(&text) {
                        return vec![byte];
                    }
                }
                Step::ByteLevel {} => {
                    return alphabet.bytes(&text).unwrap_or_else(|| text.into_bytes());
                }
                _ => {}
            }
        }
        text.into_bytes()
    }
}

/// The byte that `<0x41>` stands for.
pub(crate) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others take characters from U+0100 on.
pub(crate) struct ByteAlphabet(HashMap<char, u8>);

impl ByteAlphabet {
    pub fn new() -> Self {
        let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut others = ('\u{100}'..).take(256);
        let letters = (0..=255u8).filter_map(|byte| {
            let letter = if is_printable(byte) { Some(char::from(byte)) } else { others.next() };
            Some((letter?, byte))
        });
        Self(letters.collect())
    }

    /// The letter of each byte.
    pub fn letters(&self) -> [char; 256] {
        let mut letters = ['\0'; 256];
        self.0.iter().for_each(|(&letter, &byte)| letters[usize::from(byte)] = letter);
        letters
    }

    /// The bytes of a token, if all its characters are in the alphabet.
    pub fn bytes(&self, token: &str) -> Option<Vec<u8>> {
        token.chars().map(|letter| self.0.get(&letter).copied()).collect()
    }
}

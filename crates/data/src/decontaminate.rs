//! Documents that share text with evaluation sets, so that a model is not examined on what it was taught.
//!
//! A document goes if it shares a run of [`RUN`] normalised words with an evaluation text, as in GPT-3
//! (arXiv:2005.14165, appendix C).

use crate::collect::{Error, Result};
use crate::sources::{File, Format, Source};
use crate::words::{Runs, normalised};
use serde_json::Value;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;

/// Words in the runs that count.
pub const RUN: usize = 13;

/// The runs of words of all evaluation texts.
#[derive(Debug, Default)]
pub struct Evaluation {
    runs: HashSet<u64, BuildHasherDefault<AsIs>>,
    /// Texts that were taken up.
    pub texts: u64,
    /// Texts with fewer than [`RUN`] words, which nothing is compared with.
    pub short: u64,
}

impl Evaluation {
    /// The texts of files: all strings in the records of JSONL files, and plain text as one.
    pub fn open(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut evaluation = Self::default();
        for path in paths {
            evaluation.read(path.as_ref())?;
        }
        Ok(evaluation)
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        if !path.is_file() {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: "there is no such file to decontaminate against".into(),
            });
        }
        for file in Source::path(path).list()?.files {
            match file.format {
                Format::JsonLines => self.read_records(&file)?,
                Format::Plain(_) => self.add(&file.text()?),
                _ => {
                    let what = "evaluation texts are read from JSONL and plain text".into();
                    return Err(Error::Unsupported { path: file.path, what });
                }
            }
        }
        Ok(())
    }

    fn read_records(&mut self, file: &File) -> Result<()> {
        for (number, line) in file.text()?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{}, line {}", file.path.display(), number + 1);
            let record = serde_json::from_str(line).map_err(|error| Error::damaged(place(), error))?;
            self.add_strings(&record);
        }
        Ok(())
    }

    fn add_strings(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add(text),
            Value::Array(values) => values.iter().for_each(|value| self.add_strings(value)),
            Value::Object(fields) => fields.values().for_each(|value| self.add_strings(value)),
            _ => {}
        }
    }

    /// Takes up a text.
    pub fn add(&mut self, text: &str) {
        let words = words(text);
        self.texts += 1;
        match words.len() < RUN {
            true => self.short += 1,
            false => self.runs.extend(Runs::new(&words, RUN)),
        }
    }

    /// Whether nothing can be shared with it.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The first run of words that a text shares with an evaluation text.
    pub fn shared<'t>(&self, text: &'t str) -> Option<&'t str> {
        if self.is_empty() {
            return None;
        }
        let words = words(text);
        if words.len() < RUN {
            return None;
        }
        let at = Runs::new(&words, RUN).position(|run| self.runs.contains(&run))?;
        let mut places = Vec::new();
        normalised(text, |_, place| places.push(place));
        Some(&text[places[at].start..places[at + RUN - 1].end])
    }
}

fn words(text: &str) -> Vec<u64> {
    let mut words = Vec::with_capacity(text.len() / 6);
    normalised(text, |hash, _| words.push(hash));
    words
}

/// What is hashed already.
#[derive(Debug, Default, Clone, Copy)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only whole numbers are hashed")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVALUATION: &str = "It was the best of times, it was the worst of times, it was the age of wisdom.";

    fn evaluation() -> Evaluation {
        let mut evaluation = Evaluation::default();
        evaluation.add(EVALUATION);
        evaluation.add("too short to count");
        evaluation
    }

    #[test]
    fn thirteen_shared_words_are_found_whatever_their_spelling() {
        let evaluation = evaluation();
        assert_eq!((evaluation.texts, evaluation.short), (2, 1));
        let text = "He read: IT WAS the best of times -- it was\nthe worst of times; it went on.";
        assert_eq!(evaluation.shared(text), Some("IT WAS the best of times -- it was\nthe worst of times; it"));
    }

    #[test]
    fn twelve_are_not() {
        let evaluation = evaluation();
        assert_eq!(evaluation.shared("It was the best of times, it was the worst of times, he said, and left."), None);
        assert_eq!(evaluation.shared("too short to count"), None);
        assert_eq!(evaluation.shared(""), None);
    }
}

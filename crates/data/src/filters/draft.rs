//! A document under judgement, and the words and lines that filters count.

use super::tally::Tally;
use crate::sources::Kind;
use crate::words::{hash, join};
use std::ops::Range;

/// A document under judgement. It is reused from document to document, so that its buffers are.
#[derive(Default)]
pub struct Draft {
    text: String,
    kind: Kind,
    damaged: usize,
    edits: usize,
    fresh: bool,
    anatomy: Anatomy,
    tally: Tally,
}

impl Draft {
    /// Takes up a document. `damaged` is the number of bytes that were no UTF-8 before they were decoded.
    pub fn load(&mut self, text: String, kind: Kind, damaged: usize) {
        (self.text, self.kind, self.damaged) = (text, kind, damaged);
        (self.edits, self.fresh) = (0, false);
    }

    /// Gives the document back.
    pub fn take(&mut self) -> String {
        self.fresh = false;
        std::mem::take(&mut self.text)
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many of its bytes were no UTF-8.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// How often its text was replaced.
    pub fn edits(&self) -> usize {
        self.edits
    }

    /// Replaces its text.
    pub fn replace(&mut self, text: String) {
        self.text = text;
        self.edits += 1;
        self.fresh = false;
    }

    /// Its text with its words and lines.
    pub fn anatomy(&mut self) -> (&str, &Anatomy) {
        let (text, anatomy, _) = self.parts();
        (text, anatomy)
    }

    /// The same, with a table to count in.
    pub(super) fn parts(&mut self) -> (&str, &Anatomy, &mut Tally) {
        if !self.fresh {
            self.anatomy.read(&self.text);
            self.fresh = true;
        }
        (&self.text, &self.anatomy, &mut self.tally)
    }
}

/// The words and lines of a text. Words are what ASCII white space separates.
#[derive(Debug, Default)]
pub struct Anatomy {
    /// Words in order.
    pub words: Vec<Word>,
    /// Lines in order, blank ones too.
    pub lines: Vec<Line>,
    /// Characters, white space too.
    pub chars: usize,
    /// Words with at least one letter.
    pub alphabetic: usize,
}

/// A word.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// Hash of its bytes.
    pub hash: u64,
    /// Characters.
    pub chars: u32,
}

/// A line, without the white space around it.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its place in the text.
    pub text: Range<usize>,
    /// Its words.
    pub words: Range<usize>,
    /// Hash of its words.
    pub hash: u64,
    /// Characters.
    pub chars: usize,
}

impl Line {
    /// Whether nothing is on it.
    pub fn is_blank(&self) -> bool {
        self.words.is_empty()
    }
}

impl Anatomy {
    /// Lines on which something stands.
    pub fn filled(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.is_blank())
    }

    /// Characters of all words, without the space between them.
    pub fn word_chars(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.chars)).sum()
    }

    fn read(&mut self, text: &str) {
        self.words.clear();
        self.lines.clear();
        (self.chars, self.alphabetic) = (0, 0);
        let bytes = text.as_bytes();
        let mut start = 0;
        for line in text.split('\n') {
            self.read_line(bytes, start..start + line.len());
            start += line.len() + 1;
        }
        self.chars += self.lines.len() - 1;
    }

    fn read_line(&mut self, bytes: &[u8], range: Range<usize>) {
        let first = self.words.len();
        let (mut line, mut line_hash, mut long) = (range.end..range.end, 0, 0);
        let mut at = range.start;
        loop {
            while at < range.end && CLASS[usize::from(bytes[at])] == SPACE {
                at += 1;
            }
            if at == range.end {
                break;
            }
            let word = at;
            let (mut classes, mut continued) = (0, 0);
            while at < range.end {
                let class = CLASS[usize::from(bytes[at])];
                if class == SPACE {
                    break;
                }
                classes |= class;
                continued += usize::from(class == CONTINUED);
                at += 1;
            }
            let bytes = &bytes[word..at];
            let hash = hash(bytes);
            self.words.push(Word { hash, chars: (bytes.len() - continued) as u32 });
            self.alphabetic += usize::from(classes & LETTER != 0 || classes & CONTINUED != 0 && has_letter(bytes));
            line_hash = join(line_hash, hash);
            line = line.start.min(word)..at;
            long += continued;
        }
        let chars = line.len() - long;
        self.chars += range.len() - long;
        self.lines.push(Line { text: line, words: first..self.words.len(), hash: line_hash, chars });
    }
}

/// Classes of bytes, as bits.
const SPACE: u8 = 1;
const LETTER: u8 = 2;
const CONTINUED: u8 = 4;

const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_whitespace() {
            table[byte] = SPACE;
        } else if b.is_ascii_alphabetic() {
            table[byte] = LETTER;
        } else if b & 0xc0 == 0x80 {
            table[byte] = CONTINUED;
        }
        byte += 1;
    }
    table
};

/// Whether a word without ASCII letters has others.
fn has_letter(word: &[u8]) -> bool {
    str::from_utf8(word).is_ok_and(|word| word.chars().any(char::is_alphabetic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_lines_are_counted() {
        let mut draft = Draft::default();
        draft.load(" Grüße an\talle \n\n— 42 été\n".into(), Kind::Text, 0);
        let (text, anatomy) = draft.anatomy();
        assert_eq!(anatomy.chars, text.chars().count());
        assert_eq!(anatomy.words.iter().map(|w| w.chars).collect::<Vec<_>>(), [5, 2, 4, 1, 2, 3]);
        assert_eq!(anatomy.alphabetic, 4);
        let lines: Vec<_> = anatomy.lines.iter().map(|line| (&text[line.text.clone()], line.chars)).collect();
        assert_eq!(lines, [("Grüße an\talle", 13), ("", 0), ("— 42 été", 8), ("", 0)]);
        assert_eq!(anatomy.filled().count(), 2);
    }

    #[test]
    fn an_empty_text_has_one_blank_line() {
        let mut draft = Draft::default();
        draft.load(String::new(), Kind::Text, 0);
        assert_eq!((draft.anatomy().1.lines.len(), draft.anatomy().1.chars), (1, 0));
    }
}

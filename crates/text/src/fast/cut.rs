//! Cuts text into words as well-known regular expressions do, without regular expressions.
//!
//! Both expressions match every text without a gap, so a cut is known by the end of the word that begins at a
//! given place. The order of the tests is the order of the alternatives.

use super::classes::{CLASSES, Classes, Kind};

/// A way to cut that is written out here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// GPT-2's: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// GPT-4's, Llama 3's and Qwen 2's, which differ in how many digits make a word:
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Gpt4 {
        /// The most digits in a word.
        digits: u8,
    },
}

impl Cut {
    /// Where the word ends that begins at `start`, which must lie before the end of the text.
    #[inline]
    pub fn end(self, text: &str, start: usize) -> usize {
        let cutter = Cutter { text, classes: &CLASSES };
        match self {
            Self::Gpt2 => cutter.gpt2(start),
            Self::Gpt4 { digits } => cutter.gpt4(start, digits),
        }
    }
}

#[derive(Clone, Copy)]
struct Cutter<'a> {
    text: &'a str,
    classes: &'a Classes,
}

impl Cutter<'_> {
    #[inline]
    fn gpt2(self, start: usize) -> usize {
        let Some((kind, len)) = self.kind(start) else { return start + 1 };
        let next = start + len;
        if let Some(end) = self.contraction(start, false) {
            return end;
        }
        if is_space(kind) {
            let is_blank = self.text.as_bytes()[start] == b' ';
            return match self.kind(next) {
                Some((kind, _)) if is_blank && !is_space(kind) => self.run(next, |other| other == kind),
                _ => self.spaces(start).0,
            };
        }
        self.run(next, |other| other == kind)
    }

    #[inline]
    fn gpt4(self, start: usize, digits: u8) -> usize {
        let Some((kind, len)) = self.kind(start) else { return start + 1 };
        let next = start + len;
        match kind {
            Kind::Letter => return self.run(next, |kind| kind == Kind::Letter),
            Kind::Number => return self.numbers(next, digits),
            Kind::Newline => return self.blank_lines(start),
            Kind::Other | Kind::Space => {}
        }
        if let Some(end) = self.contraction(start, true) {
            return end;
        }
        let is_punctuation = |kind| kind == Kind::Other;
        match self.kind(next) {
            Some((Kind::Letter, len)) => self.run(next + len, |kind| kind == Kind::Letter),
            _ if is_punctuation(kind) => self.newlines(self.run(next, is_punctuation)),
            Some((Kind::Other, len)) if self.text.as_bytes()[start] == b' ' => {
                self.newlines(self.run(next + len, is_punctuation))
            }
            _ => self.blank_lines(start),
        }
    }

    #[inline(always)]
    fn kind(self, at: usize) -> Option<(Kind, usize)> {
        self.classes.at(self.text, at)
    }

    /// The end of the characters from `at` on that are of a kind.
    #[inline(always)]
    fn run(self, mut at: usize, is_kind: impl Fn(Kind) -> bool) -> usize {
        while let Some((kind, len)) = self.kind(at) {
            if !is_kind(kind) {
                break;
            }
            at += len;
        }
        at
    }

    fn newlines(self, at: usize) -> usize {
        self.run(at, |kind| kind == Kind::Newline)
    }

    fn numbers(self, mut at: usize, digits: u8) -> usize {
        for _ in 1..digits {
            match self.kind(at) {
                Some((Kind::Number, len)) => at += len,
                _ => break,
            }
        }
        at
    }

    /// `\s*[\r\n]+`, up to the last newline among spaces; without one as [`Self::spaces`].
    fn blank_lines(self, start: usize) -> usize {
        let (end, after_newline) = self.spaces(start);
        after_newline.unwrap_or(end)
    }

    /// `\s+(?!\S)|\s+`: all spaces, but the last is left to the word that follows, unless it is the only one. And
    /// where the last newline among them ends.
    fn spaces(self, start: usize) -> (usize, Option<usize>) {
        let (mut at, mut last, mut after_newline) = (start, start, None);
        while let Some((kind, len)) = self.kind(at) {
            if !is_space(kind) {
                let end = if last == start { at } else { last };
                return (end, after_newline);
            }
            last = at;
            at += len;
            if kind == Kind::Newline {
                after_newline = Some(at);
            }
        }
        (at, after_newline)
    }

    /// The end of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d`. Without regard to case, `ſ` is an `s` too.
    #[inline]
    fn contraction(self, start: usize, any_case: bool) -> Option<usize> {
        let bytes = self.text.as_bytes();
        if bytes[start] != b'\'' {
            return None;
        }
        let fold = |byte: u8| if any_case { byte.to_ascii_lowercase() } else { byte };
        let letter = |at: usize| bytes.get(start + at).copied().map(fold);
        match (letter(1)?, letter(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(start + 2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(start + 3),
            (0xC5, Some(0xBF)) if any_case => Some(start + 3),
            _ => None,
        }
    }
}

#[inline(always)]
fn is_space(kind: Kind) -> bool {
    matches!(kind, Kind::Space | Kind::Newline)
}

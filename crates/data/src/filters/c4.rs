//! The rules of C4 (arXiv:1910.10683, section 2.2).

use super::draft::Line;
use super::{Draft, Filter, Verdict};
use aho_corasick::AhoCorasick;

/// What a page, or a line of it, must not mention.
const PHRASES: [&str; 9] = [
    "lorem ipsum",
    "{",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
];

/// Pages with place holders, code or hardly a sentence; lines about JavaScript and policies.
pub(super) struct C4 {
    phrases: Option<AhoCorasick>,
}

impl C4 {
    pub(super) fn new() -> Self {
        let mut builder = AhoCorasick::builder();
        builder.ascii_case_insensitive(true).kind(Some(aho_corasick::AhoCorasickKind::DFA));
        Self { phrases: builder.build(PHRASES).ok() }
    }

    /// Where lines that must go mention what they must not, or why the whole document goes.
    fn mentions(&self, text: &str) -> Result<Vec<usize>, &'static str> {
        let mut places = Vec::new();
        for found in self.phrases.iter().flat_map(|phrases| phrases.find_iter(text)) {
            match found.pattern().as_usize() {
                0 => return Err("lorem ipsum"),
                1 => return Err("a curly brace"),
                _ => places.push(found.start()),
            }
        }
        Ok(places)
    }
}

impl Filter for C4 {
    fn judge(&self, draft: &mut Draft) -> Verdict {
        let places = match self.mentions(draft.text()) {
            Ok(places) => places,
            Err(reason) => return Verdict::Drop(reason),
        };
        let mut places = places.into_iter().peekable();
        retain_lines(draft, |_, line, longest| {
            let mut goes = false;
            while places.next_if(|&place| place < line.text.end).is_some() {
                goes = true;
            }
            !goes && longest <= 1000
        });
        match has_five_sentences(draft.text()) {
            true => Verdict::Keep,
            false => Verdict::Drop("fewer than five sentences"),
        }
    }
}

/// Lines that end like sentences and have three words.
pub(super) struct Lines;

impl Filter for Lines {
    fn judge(&self, draft: &mut Draft) -> Verdict {
        retain_lines(draft, |text, line, _| {
            let text = &text[line.text.clone()];
            line.words.len() >= 3 && text.ends_with(['.', '!', '?', '"', '\'', '”']) && !text.ends_with("...")
        });
        if draft.text().is_empty() { Verdict::Drop("no line ends like a sentence") } else { Verdict::Keep }
    }
}

/// Removes the lines that are not to stay. `stays` gets the text, a line and the length of its longest word.
fn retain_lines(draft: &mut Draft, mut stays: impl FnMut(&str, &Line, u32) -> bool) {
    let (text, anatomy) = draft.anatomy();
    let longest = |line: &Line| anatomy.words[line.words.clone()].iter().map(|word| word.chars).max().unwrap_or(0);
    let goes: Vec<_> = anatomy.lines.iter().map(|line| !line.is_blank() && !stays(text, line, longest(line))).collect();
    if !goes.contains(&true) {
        return;
    }
    let lines = text.split('\n').zip(&goes).filter(|(_, goes)| !**goes);
    let kept: Vec<_> = lines.map(|(line, _)| line).collect();
    let kept = kept.join("\n").trim().to_owned();
    draft.replace(kept);
}

/// Whether terminal punctuation ends something at least five times: a word, a line or the text.
fn has_five_sentences(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_end = |at: &usize| match bytes[*at] {
        b'.' | b'!' | b'?' => match bytes.get(at + 1) {
            None => true,
            Some(&next) => next.is_ascii_whitespace() || matches!(next, b'"' | b'\'' | b')' | 0xe2),
        },
        // 。！？ start with these bytes.
        0xe3 => bytes[*at..].starts_with("。".as_bytes()),
        0xef => bytes[*at..].starts_with("！".as_bytes()) || bytes[*at..].starts_with("？".as_bytes()),
        _ => false,
    };
    (0..bytes.len()).filter(is_end).nth(4).is_some()
}

//! Who wrote which character of a rendered chat.
//!
//! A marker counts only if the template wrote all of it. To find out, the messages are rendered a second time
//! with two spare characters around every character of theirs: what comes out tagged is theirs, whatever the
//! template did with it (trimmed, cut, joined, in whatever order). If the tags change what the template does,
//! because it looks into the messages, fewer characters are tagged and it is tried again: first those with
//! which a special token could begin or end at the edge of a text, then those of special tokens spelt out.

use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::error::{Error, Result};

/// How much is tagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Every character but whitespace.
    Everything,
    /// Special tokens, and pieces of them at the edges of a text.
    Edges,
    /// Special tokens spelt out.
    Tokens,
}

impl Extent {
    /// From the most certain to the least intrusive.
    pub const ALL: [Self; 3] = [Self::Everything, Self::Edges, Self::Tokens];
}

/// Words that programs choose, not people, and that templates compare.
const KINDS: [&str; 16] = [
    "text",
    "image",
    "image_url",
    "video",
    "audio",
    "input_audio",
    "function",
    "object",
    "string",
    "integer",
    "number",
    "boolean",
    "array",
    "null",
    "json_schema",
    "json_object",
];
const ROLES: [&str; 9] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
    "observation",
    "model",
];

/// The special tokens that must not be made out of messages.
pub(super) struct Guard {
    specials: Vec<String>,
    search: AhoCorasick,
}

/// The two spare characters.
#[derive(Clone, Copy)]
pub(super) struct Tags {
    open: char,
    close: char,
}

impl Guard {
    pub fn new<'a>(specials: impl Iterator<Item = &'a str>) -> Result<Self> {
        let specials: Vec<String> = specials.map(str::to_ascii_lowercase).collect();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            .build(&specials)
            .map_err(|error| {
                Error::Vocabulary(format!("its special tokens are too many: {error}"))
            })?;
        Ok(Self { specials, search })
    }

    /// The same value with the texts in it tagged.
    pub fn tag(&self, value: &Value, extent: Extent, tags: Tags) -> Value {
        match value {
            Value::String(text) => self.tag_text(text, extent, tags).into(),
            Value::Array(items) => items
                .iter()
                .map(|item| self.tag(item, extent, tags))
                .collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, item)| self.tag_entry(key, item, extent, tags))
                .collect(),
            other => other.clone(),
        }
    }

    /// Templates look fields up by their keys, so of those only the dangerous parts are tagged.
    fn tag_entry(&self, key: &str, item: &Value, extent: Extent, tags: Tags) -> (String, Value) {
        let is_chosen = match (key, item.as_str()) {
            ("role", Some(role)) => ROLES.contains(&role),
            ("type", Some(kind)) => KINDS.contains(&kind),
            _ => false,
        };
        let item = if is_chosen {
            item.clone()
        } else {
            self.tag(item, extent, tags)
        };
        (self.tag_text(key, Extent::Tokens, tags), item)
    }

    fn tag_text(&self, text: &str, extent: Extent, tags: Tags) -> String {
        let mut parts: Vec<Range<usize>> = Vec::new();
        if extent == Extent::Everything {
            parts.push(0..text.len());
        } else {
            parts.extend(
                self.search
                    .find_overlapping_iter(text)
                    .map(|hit| hit.range()),
            );
        }
        if extent == Extent::Edges {
            self.edges(text, &mut parts);
        }
        parts.sort_by_key(|part| part.start);
        let mut parts = parts.into_iter().peekable();
        let mut tagged = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            while parts.next_if(|part| part.end <= at).is_some() {}
            if parts.peek().is_some_and(|part| part.start <= at) && !c.is_whitespace() {
                tagged.extend([tags.open, c, tags.close]);
            } else {
                tagged.push(c);
            }
        }
        tagged
    }

    /// Where the text, but for the spaces around it, ends like a special token begins, or the other way round,
    /// or is a part of one.
    fn edges(&self, text: &str, parts: &mut Vec<Range<usize>>) {
        let lower = text.to_ascii_lowercase();
        let core = lower.trim();
        let start = lower.len() - lower.trim_start().len();
        let end = start + core.len();
        for special in &self.specials {
            let inner = special
                .char_indices()
                .map(|(at, _)| at)
                .filter(|&at| at > 0);
            let ending = inner
                .clone()
                .rev()
                .find(|&at| core.ends_with(&special[..at]));
            let beginning = inner.clone().find(|&at| core.starts_with(&special[at..]));
            parts.extend(ending.map(|length| end - length..end));
            parts.extend(beginning.map(|at| start..start + special.len() - at));
            if !core.is_empty() && special.contains(core) {
                parts.push(start..end);
            }
        }
    }
}

impl Tags {
    /// Two characters that none of the texts has.
    pub fn unused_in<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self> {
        let spare = || {
            ('\u{FDD0}'..='\u{FDEF}')
                .chain('\u{F0000}'..='\u{FFFFD}')
                .chain('\u{100000}'..='\u{10FFFD}')
        };
        let is_spare = |c: &char| matches!(c, '\u{FDD0}'..='\u{FDEF}' | '\u{F0000}'..='\u{10FFFF}');
        let used: HashSet<char> = texts.flat_map(str::chars).filter(is_spare).collect();
        let mut unused = spare().filter(|c| !used.contains(c));
        match (unused.next(), unused.next()) {
            (Some(open), Some(close)) => Ok(Self { open, close }),
            _ => Err(Error::NoSpareCharacter),
        }
    }

    /// The text without the tags, and the ranges that the template wrote.
    pub fn remove(self, tagged: &str) -> (String, Vec<Range<usize>>) {
        let mut text = String::with_capacity(tagged.len());
        let mut trusted: Vec<Range<usize>> = Vec::new();
        let mut chars = tagged.chars().peekable();
        let mut after_open = false;
        while let Some(c) = chars.next() {
            if c == self.open || c == self.close {
                after_open = c == self.open;
                continue;
            }
            // One tag is enough: a template that cuts a text may have lost the other.
            let is_theirs = after_open || chars.peek() == Some(&self.close);
            after_open = false;
            let range = text.len()..text.len() + c.len_utf8();
            text.push(c);
            match trusted.last_mut() {
                _ if is_theirs => {}
                Some(last) if last.end == range.start => last.end = range.end,
                _ => trusted.push(range),
            }
        }
        (text, trusted)
    }
}

/// Every text in a value, keys included.
pub(super) fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, item)| [vec![key.as_str()], texts(item)].concat())
            .collect(),
        _ => Vec::new(),
    }
}

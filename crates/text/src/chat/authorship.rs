//! Who wrote which character of a rendered chat.
//!
//! A marker counts only if the template wrote all of it. To find out, the messages are rendered a second time
//! with every character of theirs replaced by a stand-in, one that occurs nowhere else: what comes out as a
//! stand-in is theirs, whatever the template did with it (trimmed, cut, joined, in whatever order).
//!
//! If the template looks into the messages, the stand-ins may change what it does. Then fewer characters are
//! replaced and it is tried again: first those with which a special token could begin or end at the edge of a
//! text, then those of special tokens spelt out. That is less certain, so then only those special tokens
//! count that the template's source can have written.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::error::{Error, Result};

/// How much is replaced, from the most certain to the least intrusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Every character but whitespace.
    Everything,
    /// Special tokens, and pieces of them at the edges of a text.
    Edges,
    /// Special tokens spelt out.
    Tokens,
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
const ROLES: [&str; 9] =
    ["system", "developer", "user", "assistant", "tool", "function", "ipython", "observation", "model"];

/// The special tokens that must not be made out of messages.
pub(super) struct Guard {
    specials: Vec<String>,
    search: AhoCorasick,
}

/// Characters that stand in for those of the messages.
pub(super) struct StandIns {
    of: HashMap<char, char>,
    behind: HashMap<char, char>,
}

impl Guard {
    pub fn new<'a>(specials: impl Iterator<Item = &'a str>) -> Result<Self> {
        let specials: Vec<String> = specials.map(str::to_ascii_lowercase).collect();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            .build(&specials)
            .map_err(|error| Error::Vocabulary(format!("its special tokens are too many: {error}")))?;
        Ok(Self { specials, search })
    }

    /// The same value with the texts in it replaced.
    pub fn replace(&self, value: &Value, extent: Extent, stand_ins: &StandIns) -> Value {
        match value {
            Value::String(text) => self.replace_text(text, extent, stand_ins).into(),
            Value::Array(items) => items.iter().map(|item| self.replace(item, extent, stand_ins)).collect(),
            Value::Object(map) => {
                map.iter().map(|(key, item)| self.replace_entry(key, item, extent, stand_ins)).collect()
            }
            other => other.clone(),
        }
    }

    /// Templates look fields up by their keys, so of those only the dangerous parts are replaced.
    fn replace_entry(&self, key: &str, item: &Value, extent: Extent, stand_ins: &StandIns) -> (String, Value) {
        let is_chosen = match (key, item.as_str()) {
            ("role", Some(role)) => ROLES.contains(&role),
            ("type", Some(kind)) => KINDS.contains(&kind),
            _ => false,
        };
        let item = if is_chosen { item.clone() } else { self.replace(item, extent, stand_ins) };
        (self.replace_text(key, Extent::Tokens, stand_ins), item)
    }

    fn replace_text(&self, text: &str, extent: Extent, stand_ins: &StandIns) -> String {
        let mut parts: Vec<Range<usize>> = Vec::new();
        if extent == Extent::Everything {
            parts.push(0..text.len());
        } else {
            parts.extend(self.search.find_overlapping_iter(text).map(|hit| hit.range()));
        }
        if extent == Extent::Edges {
            self.edges(text, &mut parts);
        }
        parts.sort_by_key(|part| part.start);
        let mut parts = parts.into_iter().peekable();
        let replace = |(at, c): (usize, char)| {
            while parts.next_if(|part| part.end <= at).is_some() {}
            let is_part = parts.peek().is_some_and(|part| part.start <= at);
            stand_ins.of.get(&c).filter(|_| is_part).copied().unwrap_or(c)
        };
        text.char_indices().map(replace).collect()
    }

    /// Takes trust from the special tokens that `source` does not spell out, nor builds from a role.
    pub fn distrust(&self, text: &str, trusted: Vec<Range<usize>>, source: &str) -> Vec<Range<usize>> {
        let source = source.to_ascii_lowercase();
        let builds = |special: &str, role: &str| {
            let around = special.split_once(role);
            around.is_some_and(|(before, after)| source.contains(before) && source.contains(after))
        };
        let is_written = |special: &String| source.contains(special) || ROLES.iter().any(|role| builds(special, role));
        let written: Vec<bool> = self.specials.iter().map(is_written).collect();
        let unwritten = self.search.find_overlapping_iter(text).filter(|hit| !written[hit.pattern()]);
        let mut cuts: Vec<usize> = unwritten.map(|hit| text.ceil_char_boundary(hit.start() + 1)).collect();
        cuts.sort_unstable();
        let cut = |range: Range<usize>| {
            let inside = &cuts[cuts.partition_point(|&cut| cut <= range.start)..];
            let inside = inside.iter().copied().take_while(|&cut| cut < range.end);
            let ends: Vec<usize> = inside.chain([range.end]).collect();
            let starts = std::iter::once(range.start).chain(ends.clone());
            starts.zip(ends).map(|(start, end)| start..end).collect::<Vec<_>>()
        };
        trusted.into_iter().flat_map(cut).collect()
    }

    /// Where the text, but for the spaces around it, ends like a special token begins, or the other way round,
    /// or is a part of one.
    fn edges(&self, text: &str, parts: &mut Vec<Range<usize>>) {
        let lower = text.to_ascii_lowercase();
        let core = lower.trim();
        let start = lower.len() - lower.trim_start().len();
        let end = start + core.len();
        for special in &self.specials {
            let inner = special.char_indices().map(|(at, _)| at).filter(|&at| at > 0);
            let ending = inner.clone().rev().find(|&at| core.ends_with(&special[..at]));
            let beginning = inner.clone().find(|&at| core.starts_with(&special[at..]));
            parts.extend(ending.map(|length| end - length..end));
            parts.extend(beginning.map(|at| start..start + special.len() - at));
            if !core.is_empty() && special.contains(core) {
                parts.push(start..end);
            }
        }
    }
}

impl StandIns {
    /// Stand-ins for all characters of `theirs` but whitespace; `others` are the remaining texts of the chat.
    pub fn new<'a>(theirs: &[&str], others: impl Iterator<Item = &'a str>) -> Result<Self> {
        let replaced: HashSet<char> =
            theirs.iter().flat_map(|text| text.chars()).filter(|c| !c.is_whitespace()).collect();
        let others: HashSet<char> = others.flat_map(str::chars).collect();
        let private = ('\u{E000}'..='\u{F8FF}').chain('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}');
        let spare = private.filter(|c| !replaced.contains(c) && !others.contains(c));
        let of: HashMap<char, char> = replaced.iter().copied().zip(spare).collect();
        if of.len() < replaced.len() {
            return Err(Error::NoSpareCharacter);
        }
        let behind = of.iter().map(|(c, stand_in)| (*stand_in, *c)).collect();
        Ok(Self { of, behind })
    }

    /// The text with the characters back in place, and the ranges of it that the template wrote.
    pub fn restore(&self, rendered: &str) -> (String, Vec<Range<usize>>) {
        let mut text = String::with_capacity(rendered.len());
        let mut trusted: Vec<Range<usize>> = Vec::new();
        for c in rendered.chars() {
            let start = text.len();
            let theirs = self.behind.get(&c);
            text.push(*theirs.unwrap_or(&c));
            match trusted.last_mut() {
                _ if theirs.is_some() => {}
                Some(last) if last.end == start => last.end = text.len(),
                _ => trusted.push(start..text.len()),
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
        Value::Object(map) => map.iter().flat_map(|(key, item)| [vec![key.as_str()], texts(item)].concat()).collect(),
        _ => Vec::new(),
    }
}

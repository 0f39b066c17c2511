//! Reads calls of tools out of text as it comes.

use super::{ARGUMENTS, ToolFormat};

/// Something that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text beside calls.
    Text(String),
    /// Call number `index` begins.
    Call {
        /// Counted from 0.
        index: usize,
        /// The function's name.
        name: String,
    },
    /// The arguments of call number `index` go on.
    Arguments {
        /// Counted from 0.
        index: usize,
        /// JSON, to be appended.
        text: String,
    },
}

/// Where in the text the parser is.
#[derive(Debug)]
enum Place {
    /// Beside calls.
    Text,
    /// After a marker, before the arguments.
    Head,
    /// In the arguments.
    Arguments(Nesting),
    /// After the arguments, up to the brace that closes the call.
    Tail,
    /// After a call.
    After,
}

/// How deep JSON is nested.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Takes the next character; true when the value is complete with it.
    fn push(&mut self, c: char) -> bool {
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' if self.in_string => self.escaped = true,
            '"' => self.in_string = !self.in_string,
            '{' | '[' if !self.in_string => self.depth += 1,
            '}' | ']' if !self.in_string => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// Reads calls out of text. What looks like one and is none stays text.
#[derive(Debug)]
pub struct ToolParser {
    format: ToolFormat,
    place: Place,
    /// Text that is not decided yet.
    held: String,
    /// Calls begun.
    calls: usize,
}

impl ToolParser {
    /// At the beginning of a text.
    pub fn new(format: ToolFormat) -> Self {
        Self { format, place: Place::Text, held: String::new(), calls: 0 }
    }

    /// Calls that were begun.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Takes the next text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// The text has ended.
    pub fn finish(mut self) -> Vec<Piece> {
        match self.place {
            // A call that never came to its arguments is text.
            Place::Head => vec![Piece::Text(format!("{}{}", self.format.marker(), self.held))],
            Place::Text if !self.held.is_empty() => vec![Piece::Text(std::mem::take(&mut self.held))],
            _ => Vec::new(),
        }
    }

    /// Goes on as far as it is clear; false where more text is needed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match &mut self.place {
            Place::Text => self.text(pieces),
            Place::Head => match head(&self.held) {
                Head::Whole { name, length } => {
                    self.held.drain(..length);
                    pieces.push(Piece::Call { index: self.calls, name });
                    self.calls += 1;
                    self.place = Place::Arguments(Nesting::default());
                    true
                }
                Head::Part => false,
                Head::Other => {
                    pieces.push(Piece::Text(self.format.marker().to_string()));
                    self.place = Place::Text;
                    true
                }
            },
            Place::Arguments(nesting) => {
                let end = self.held.char_indices().find(|(_, c)| nesting.push(*c));
                let length = end.map_or(self.held.len(), |(at, c)| at + c.len_utf8());
                let text: String = self.held.drain(..length).collect();
                if !text.is_empty() {
                    pieces.push(Piece::Arguments { index: self.calls - 1, text });
                }
                if end.is_some() {
                    self.place = Place::Tail;
                }
                end.is_some()
            }
            Place::Tail => match self.held.find('}') {
                Some(at) => {
                    self.held.drain(..=at);
                    self.place = Place::After;
                    true
                }
                None => false,
            },
            Place::After => self.after(),
        }
    }

    /// Text up to the marker that begins a call, as far as it cannot be a part of one.
    fn text(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let marker = self.format.marker();
        let found = self.held.find(marker);
        let end = found.unwrap_or_else(|| self.held.len() - undecided(&self.held, marker));
        // Blanks before a call belong to its layout.
        let shown = self.held[..end].trim_end().len();
        let text: String = self.held.drain(..shown).collect();
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        if found.is_some() {
            self.held.drain(..end - shown + marker.len());
            self.place = Place::Head;
        }
        found.is_some()
    }

    /// Between calls, or behind the last one: the marker that ends them leads back to text.
    fn after(&mut self) -> bool {
        let rest = self.held.trim_start();
        let between = self.format.between.trim();
        let end = self.format.end.trim();
        if rest.is_empty()
            || (rest.len() < between.len().max(end.len()) && (between.starts_with(rest) || end.starts_with(rest)))
        {
            return false;
        }
        if let Some(rest) = rest.strip_prefix(between) {
            self.held = rest.to_string();
            self.place = Place::Head;
        } else {
            self.held = rest.strip_prefix(end).unwrap_or(rest).to_string();
            self.place = Place::Text;
        }
        true
    }
}

/// Bytes at the end of a text that may be the beginning of a marker.
fn undecided(text: &str, marker: &str) -> usize {
    let starts = text.char_indices().map(|(at, _)| &text[at..]);
    starts.filter(|end| end.len() < marker.len()).find(|end| marker.starts_with(end)).map_or(0, str::len)
}

/// The beginning of a call, up to its arguments.
enum Head {
    Whole {
        name: String,
        length: usize,
    },
    /// More text may make it whole.
    Part,
    /// It is something else.
    Other,
}

/// Reads `{"name": "...", "arguments":`, with any blanks between, and with a bracket before.
fn head(text: &str) -> Head {
    let mut rest = text.trim_start();
    rest = rest.strip_prefix('[').unwrap_or(rest);
    let mut name = None;
    for (index, expected) in ["{", "\"name\"", ":", "", ",", ARGUMENTS, ":"].into_iter().enumerate() {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Head::Part;
        }
        if index == 3 {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            match values.next() {
                Some(Ok(value)) => {
                    name = Some(value);
                    rest = &rest[values.byte_offset()..];
                }
                Some(Err(error)) if !error.is_eof() => return Head::Other,
                _ => return Head::Part,
            }
            continue;
        }
        let quoted = if expected == ARGUMENTS { format!("\"{ARGUMENTS}\"") } else { expected.to_string() };
        match rest.strip_prefix(quoted.as_str()) {
            Some(after) => rest = after,
            None if quoted.starts_with(rest) => return Head::Part,
            None => return Head::Other,
        }
    }
    rest = rest.trim_start();
    match (name, rest.chars().next()) {
        (_, None) => Head::Part,
        (Some(name), Some('{' | '[')) => Head::Whole { name, length: text.len() - rest.len() },
        _ => Head::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LIST, TAGS};
    use super::*;

    /// Text and calls as they come out, whatever the pieces were.
    fn read(format: ToolFormat, text: &str, cut: usize) -> (String, Vec<(String, String)>) {
        let mut parser = ToolParser::new(format);
        let letters: Vec<char> = text.chars().collect();
        let mut pieces: Vec<_> =
            letters.chunks(cut).flat_map(|part| parser.push(&part.iter().collect::<String>())).collect();
        pieces.extend(parser.finish());
        let (mut shown, mut calls) = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Text(text) => shown += &text,
                Piece::Call { index, name } => {
                    assert_eq!(index, calls.len());
                    calls.push((name, String::new()));
                }
                Piece::Arguments { index, text } => calls[index].1 += &text,
            }
        }
        (shown, calls)
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.into(), arguments.into())
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let arguments = r#"{"q": "}</tool_call>\"{", "n": [1, {"a": 2}]}"#;
        let tags = format!(
            "Let me see.\n<tool_call>\n{{\"name\": \"look\", \"arguments\": {arguments}}}\n</tool_call>\n<tool_call>\n{{\"name\":\"x\",\"arguments\":{{}}}}\n</tool_call>"
        );
        let list = format!(
            "Hm [TOOL_CALLS] [{{\"name\": \"look\", \"arguments\": {arguments}}}, {{\"name\": \"x\", \"arguments\": {{}}}}]"
        );
        for cut in 1..40 {
            let expected = vec![call("look", arguments), call("x", "{}")];
            assert_eq!(read(TAGS, &tags, cut), ("Let me see.".into(), expected.clone()), "cut {cut}");
            assert_eq!(read(LIST, &list, cut), ("Hm".into(), expected), "cut {cut}");
        }
    }

    #[test]
    fn what_only_looks_like_a_call_stays_text() {
        for text in ["a < b", "<tool", "<tool_call>", "<tool_call> is a tag", "<tool_call>{\"title\": 3}", "x\n\n y \n"]
        {
            for cut in 1..12 {
                let (shown, calls) = read(TAGS, text, cut);
                assert_eq!((shown.replace([' ', '\n'], ""), calls.len()), (text.replace([' ', '\n'], ""), 0), "{text}");
            }
        }
        assert_eq!(read(TAGS, "x\n\n y \n", 2).0, "x\n\n y \n");
    }

    #[test]
    fn a_call_that_is_cut_off_keeps_what_there_is() {
        let text = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b";
        assert_eq!(read(TAGS, text, 3), (String::new(), vec![call("f", "{\"a\": \"b")]));
    }
}

//! The text of web pages.

use encoding_rs::{Encoding, UTF_8};
use html5gum::{DefaultEmitter, Token, Tokenizer};

/// The text of a page: its title, then what its blocks say, one line each and a blank line between paragraphs.
/// Scripts, styles, menus, forms and the like are left out. The encoding is the page's byte order mark's, the
/// server's, the page's own, or UTF-8.
pub fn html_text(page: &[u8], charset: Option<&str>) -> String {
    let named = charset.and_then(|name| Encoding::for_label(name.as_bytes())).or_else(|| declared(page));
    let (page, _, _) = named.unwrap_or(UTF_8).decode(page);
    let mut text = Text::default();
    let mut emitter = DefaultEmitter::default();
    // The content of scripts and styles is no markup.
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(page.as_ref(), emitter).flatten() {
        match token {
            Token::StartTag(tag) => text.open(&tag.name, tag.self_closing),
            Token::EndTag(tag) => text.close(&tag.name),
            Token::String(string) => text.write(&String::from_utf8_lossy(&string)),
            _ => {}
        }
    }
    text.finish()
}

/// The encoding that a page states in its first kilobyte.
fn declared(page: &[u8]) -> Option<&'static Encoding> {
    let head = page[..page.len().min(1024)].to_ascii_lowercase();
    let at = head.windows(8).position(|window| window == b"charset=")? + 8;
    let rest = &head[at..];
    let rest = rest.strip_prefix(b"\"").or_else(|| rest.strip_prefix(b"'")).unwrap_or(rest);
    let end = rest.iter().position(|b| !b.is_ascii_alphanumeric() && !b"-_:".contains(b)).unwrap_or(rest.len());
    Encoding::for_label(&rest[..end])
}

/// Elements whose content is no text of the page.
const HIDDEN: [&[u8]; 15] = [
    b"script",
    b"style",
    b"nav",
    b"noscript",
    b"template",
    b"svg",
    b"math",
    b"button",
    b"select",
    b"iframe",
    b"object",
    b"aside",
    b"footer",
    b"canvas",
    b"textarea",
];

/// Elements that start a line.
const LINES: [&[u8]; 8] = [b"br", b"li", b"tr", b"dt", b"dd", b"option", b"div", b"caption"];

/// Elements with a blank line around them.
const BLOCKS: [&[u8]; 22] = [
    b"p",
    b"title",
    b"h1",
    b"h2",
    b"h3",
    b"h4",
    b"h5",
    b"h6",
    b"blockquote",
    b"pre",
    b"ul",
    b"ol",
    b"dl",
    b"table",
    b"section",
    b"article",
    b"header",
    b"main",
    b"figure",
    b"hr",
    b"figcaption",
    b"address",
];

/// Text as it grows. White space and line ends wait until something follows them.
#[derive(Default)]
struct Text {
    out: String,
    /// The hidden element that is open, and how often.
    hidden: Option<(Vec<u8>, usize)>,
    /// How many preformatted elements are open.
    pre: usize,
    space: bool,
    newlines: usize,
}

impl Text {
    fn open(&mut self, name: &[u8], closed: bool) {
        if let Some((hidden, depth)) = &mut self.hidden {
            *depth += usize::from(hidden == name && !closed);
            return;
        }
        if HIDDEN.contains(&name) && !closed {
            self.hidden = Some((name.to_vec(), 1));
        }
        self.pre += usize::from(name == b"pre");
        self.break_at(name);
    }

    fn close(&mut self, name: &[u8]) {
        if let Some((hidden, depth)) = &mut self.hidden {
            *depth -= usize::from(hidden == name);
            if *depth == 0 {
                self.hidden = None;
            }
            return;
        }
        self.pre = self.pre.saturating_sub(usize::from(name == b"pre"));
        self.break_at(name);
    }

    fn break_at(&mut self, name: &[u8]) {
        let newlines = if BLOCKS.contains(&name) { 2 } else { usize::from(LINES.contains(&name)) };
        self.newlines = self.newlines.max(newlines);
        self.space |= name == b"td" || name == b"th";
    }

    fn write(&mut self, text: &str) {
        if self.hidden.is_some() || text.is_empty() {
            return;
        }
        if self.pre > 0 {
            self.separate();
            self.out.push_str(text);
            return;
        }
        self.space |= text.starts_with(char::is_whitespace);
        for word in text.split_whitespace() {
            self.separate();
            self.out.push_str(word);
            self.space = true;
        }
        self.space = text.ends_with(char::is_whitespace);
    }

    /// Writes the line ends or the space that waited.
    fn separate(&mut self) {
        if !self.out.is_empty() {
            match self.newlines {
                0 if self.space => self.out.push(' '),
                0 => {}
                count => {
                    self.out.truncate(self.out.trim_end().len());
                    self.out.extend(std::iter::repeat_n('\n', count));
                }
            }
        }
        (self.newlines, self.space) = (0, false);
    }

    fn finish(mut self) -> String {
        self.out.truncate(self.out.trim_end().len());
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::html_text;

    #[test]
    fn text_without_furniture() {
        let page = "<!doctype html><html><head><title>A &amp; B</title><style>p { x }</style></head><body>\
            <nav><ul><li>Home</ul></nav><h1>Head</h1><p>One <b>bo</b>ld\n  word,<br>next line.</p>\
            <script>if (a < b) { document.write('<p>no</p>') }</script><ul><li>x<li>y</ul><pre>a\n  b</pre>\
            <footer><p>no</footer><p>End";
        let text = "A & B\n\nHead\n\nOne bold word,\nnext line.\n\nx\ny\n\na\n  b\n\nEnd";
        assert_eq!(html_text(page.as_bytes(), None), text);
    }

    #[test]
    fn encodings_are_the_servers_or_the_pages() {
        assert_eq!(html_text(b"caf\xe9", Some("iso-8859-1")), "café");
        assert_eq!(html_text(b"<meta charset='windows-1251'>\xcf\xf0", None), "Пр");
        assert_eq!(html_text("<p>né".as_bytes(), Some("nonsense")), "né");
    }
}

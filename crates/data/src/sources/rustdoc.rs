//! Documentation in Rust sources.

/// The documentation comments of a Rust source as prose (`///`, `//!`, `/** */`, `/*! */`), a blank line between
/// items. Lines that rustdoc hides in examples (`# ...`) are left out.
pub fn rust_docs(source: &str) -> String {
    let mut docs = Docs { text: String::new(), fence: None };
    let mut block: Option<Block> = None;
    let mut in_comment = false;
    for line in source.lines() {
        let line = line.trim();
        if let Some(open) = &block {
            let (content, closes) = match line.split_once("*/") {
                Some((content, _)) => (content, true),
                None => (line, false),
            };
            let content = content.trim();
            let content = content.strip_prefix('*').map_or(content, |c| c.strip_prefix(' ').unwrap_or(c));
            if open.is_doc {
                docs.line(content);
            }
            if closes {
                docs.end();
                block = None;
            }
        } else if let Some(comment) = doc_line(line) {
            docs.line(comment.strip_prefix(' ').unwrap_or(comment).trim_end());
            in_comment = true;
            continue;
        } else if let Some(comment) = line.strip_prefix("/*") {
            let is_doc = comment.starts_with('!') || comment.starts_with('*') && !comment.starts_with("**");
            let content = if is_doc { comment[1..].trim() } else { "" };
            match content.split_once("*/").map(|(content, _)| content) {
                Some(content) => docs.line(content.trim_end()),
                None if comment.contains("*/") => {}
                None => {
                    if !content.is_empty() {
                        docs.line(content);
                    }
                    block = Some(Block { is_doc });
                }
            }
        }
        if in_comment {
            docs.end();
            in_comment = false;
        }
    }
    docs.end();
    docs.text.truncate(docs.text.trim_end().len());
    docs.text
}

/// An open block comment.
struct Block {
    is_doc: bool,
}

/// What stands after `///` or `//!`.
fn doc_line(line: &str) -> Option<&str> {
    let comment = line.strip_prefix("//")?;
    match comment.as_bytes() {
        [b'/', b'/', ..] => None,
        [b'/' | b'!', ..] => Some(&comment[1..]),
        _ => None,
    }
}

struct Docs {
    text: String,
    /// Whether a code block is open, and whether it is Rust.
    fence: Option<bool>,
}

impl Docs {
    fn line(&mut self, line: &str) {
        let content = line.trim_start();
        if let Some(language) = content.strip_prefix("```") {
            self.fence = match self.fence {
                Some(_) => None,
                None => Some(is_rust(language)),
            };
        } else if self.fence == Some(true) && (content == "#" || content.starts_with("# ")) {
            return;
        }
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Ends an item's documentation.
    fn end(&mut self) {
        self.fence = None;
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }
}

/// Whether rustdoc takes a code block for Rust.
fn is_rust(language: &str) -> bool {
    let rust =
        ["", "rust", "ignore", "no_run", "should_panic", "compile_fail", "edition2018", "edition2021", "edition2024"];
    language.split([',', ' ']).all(|word| rust.contains(&word.trim()))
}

#[cfg(test)]
mod tests {
    use super::rust_docs;

    #[test]
    fn comments_become_prose() {
        let source = "//! A crate.\n//!\n//! ```\n//! # use a::b;\n//! b();\n//! ```\n//// no\n// no\nuse x;\n\n    /// One.\n    /// # Title\n    fn f() {} /* no */\n/** Block\n * more\n */\nfn g() {}\n/*** no ***/\n/* no\n/// no\n*/\n";
        assert_eq!(rust_docs(source), "A crate.\n\n```\nb();\n```\n\nOne.\n# Title\n\nBlock\nmore");
    }

    #[test]
    fn code_has_none() {
        assert_eq!(rust_docs("fn main() {\n    let url = \"http://x\"; // y\n}\n"), "");
    }
}

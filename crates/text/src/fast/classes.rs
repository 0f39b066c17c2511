//! What kind a character is, from the same tables as the regular expressions of the `tokenizers` library.

use regex_syntax::hir::{Class as HirClass, HirKind};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The kinds that the expressions tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// None of the others.
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s` but for the newlines
    Space,
    /// `\r` and `\n`
    Newline,
}

/// A table of two levels over all characters.
pub(super) struct Classes {
    ascii: [Kind; 128],
    page: Vec<u8>,
    pages: Vec<[Kind; 256]>,
}

/// The one table.
pub(super) static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::new);

impl Classes {
    fn new() -> Self {
        let mut kinds = vec![Kind::Other; 0x11_0000];
        for (expression, kind) in [(r"\p{L}", Kind::Letter), (r"\p{N}", Kind::Number), (r"\s", Kind::Space)] {
            for (first, last) in ranges(expression) {
                kinds[first as usize..=last as usize].fill(kind);
            }
        }
        kinds[usize::from(b'\n')] = Kind::Newline;
        kinds[usize::from(b'\r')] = Kind::Newline;
        let mut ascii = [Kind::Other; 128];
        ascii.copy_from_slice(&kinds[..128]);
        let (mut page, mut pages) = (Vec::new(), Vec::new());
        let mut known: HashMap<Vec<u8>, u8> = HashMap::new();
        for chunk in kinds.as_chunks::<256>().0 {
            let key = chunk.iter().map(|&kind| kind as u8).collect();
            let number = *known.entry(key).or_insert_with(|| {
                pages.push(*chunk);
                // Unicode has far fewer kinds of pages than 256.
                (pages.len() - 1) as u8
            });
            page.push(number);
        }
        Self { ascii, page, pages }
    }

    /// The kind of the character that begins at `at`, and its length; nothing at the end of the text.
    #[inline(always)]
    pub fn at(&self, text: &str, at: usize) -> Option<(Kind, usize)> {
        match text.as_bytes().get(at) {
            Some(&byte) if byte < 128 => Some((self.ascii[usize::from(byte)], 1)),
            Some(_) => self.wide(text, at),
            None => None,
        }
    }

    #[inline(never)]
    fn wide(&self, text: &str, at: usize) -> Option<(Kind, usize)> {
        let c = text[at..].chars().next()?;
        let code = c as usize;
        Some((self.pages[usize::from(self.page[code >> 8])][code & 255], c.len_utf8()))
    }
}

/// The characters that an expression of one class matches.
fn ranges(expression: &str) -> Vec<(u32, u32)> {
    match regex_syntax::parse(expression).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(HirClass::Unicode(class))) => {
            class.ranges().iter().map(|range| (range.start() as u32, range.end() as u32)).collect()
        }
        // The three expressions above are classes.
        _ => Vec::new(),
    }
}

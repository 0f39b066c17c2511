//! Languages, as far as their scripts tell them.

use super::{Draft, Filter, Verdict};
use unicode_script::{Script, UnicodeScript};

/// At least 80% of the letters are of the scripts asked for.
pub(super) struct Scripts {
    keep: Vec<Script>,
    keeps_latin: bool,
}

impl Scripts {
    pub(super) fn new(keep: &[Script]) -> Self {
        Self { keep: keep.to_vec(), keeps_latin: keep.contains(&Script::Latin) }
    }

    /// Whether a letter is of those scripts; letters that many scripts share are of any.
    fn keeps(&self, letter: char) -> bool {
        let script = letter.script();
        matches!(script, Script::Common | Script::Inherited) || self.keep.contains(&script)
    }
}

impl Filter for Scripts {
    fn judge(&self, draft: &mut Draft) -> Verdict {
        if self.keep.is_empty() {
            return Verdict::Keep;
        }
        let (mut letters, mut kept) = (0usize, 0usize);
        let ascii = draft.text().bytes().filter(u8::is_ascii_alphabetic).count();
        letters += ascii;
        kept += if self.keeps_latin { ascii } else { 0 };
        for char in draft.text().chars().filter(|c| !c.is_ascii() && c.is_alphabetic()) {
            letters += 1;
            kept += usize::from(self.keeps(char));
        }
        match kept as f64 >= 0.8 * letters as f64 {
            true => Verdict::Keep,
            false => Verdict::Drop("over 20% of letters are of other scripts"),
        }
    }
}

//! The rules that FineWeb adds to C4 and Gopher (arXiv:2406.17557, section 3.6).

use super::{Draft, Filter, Verdict};

/// Lines without punctuation, repeated lines, short lines, and too many lines for the words.
pub(super) struct FineWeb;

impl Filter for FineWeb {
    fn judge(&self, draft: &mut Draft) -> Verdict {
        let (text, anatomy, tally) = draft.parts();
        tally.reset(anatomy.lines.len());
        let (mut lines, mut chars) = (0.0, 0.0);
        let (mut ended, mut short, mut repeated) = (0.0, 0.0, 0.0);
        for line in anatomy.filled() {
            lines += 1.0;
            chars += line.chars as f64;
            ended +=
                f64::from(text[line.text.clone()].ends_with(['.', '!', '?', '"', '\'', '”', '’', '。', '！', '？']));
            short += f64::from(line.chars <= 30);
            repeated += if tally.repeats(line.hash) { line.chars as f64 } else { 0.0 };
        }
        let newlines = (anatomy.lines.len() - 1) as f64;
        Verdict::first_of([
            (lines == 0.0, "empty"),
            (ended <= 0.12 * lines, "at most 12% of lines end in punctuation"),
            (short >= 0.67 * lines, "67% of lines or more have at most 30 characters"),
            (repeated >= 0.1 * chars, "repeated lines have 10% of characters or more"),
            (newlines > 0.3 * anatomy.words.len() as f64, "more than 0.3 line ends per word"),
        ])
    }
}

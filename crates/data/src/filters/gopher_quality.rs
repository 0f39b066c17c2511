//! The quality rules of Gopher (arXiv:2112.11446, appendix A.1.1).

use super::{Draft, Filter, Verdict};

/// Counts of words, their lengths, symbols, bullets, ellipses and words without letters.
pub(super) struct Quality;

const BULLETS: [char; 10] = ['•', '‣', '▶', '◀', '◦', '■', '□', '▪', '▫', '–'];

impl Filter for Quality {
    fn judge(&self, draft: &mut Draft) -> Verdict {
        let (text, anatomy) = draft.anatomy();
        let words = anatomy.words.len();
        if words < 50 {
            return Verdict::Drop("fewer than 50 words");
        }
        if words > 100_000 {
            return Verdict::Drop("more than 100,000 words");
        }
        let words = words as f64;
        let mean_length = anatomy.word_chars() as f64 / words;
        let (mut lines, mut bullets, mut ellipses) = (0.0, 0.0, 0.0);
        for line in anatomy.filled() {
            let line = &text[line.text.clone()];
            lines += 1.0;
            bullets += f64::from(starts_with_bullet(line));
            ellipses += f64::from(line.ends_with("...") || line.ends_with('…'));
        }
        let hashes = text.bytes().filter(|&byte| byte == b'#').count() as f64;
        Verdict::first_of([
            (mean_length < 3.0, "mean word length under 3"),
            (mean_length > 10.0, "mean word length over 10"),
            (hashes > 0.1 * words, "more than 0.1 hash signs per word"),
            (count_ellipses(text) as f64 > 0.1 * words, "more than 0.1 ellipses per word"),
            (bullets > 0.9 * lines, "over 90% of lines start with a bullet"),
            (ellipses > 0.3 * lines, "over 30% of lines end with an ellipsis"),
            ((anatomy.alphabetic as f64) < 0.8 * words, "under 80% of words have a letter"),
        ])
    }
}

fn starts_with_bullet(line: &str) -> bool {
    line.starts_with(BULLETS) || line.starts_with("- ") || line.starts_with("* ")
}

/// `...` and `…`.
fn count_ellipses(text: &str) -> usize {
    text.matches("...").count() + text.matches('…').count()
}

/// At least two words of: the, be, to, of, and, that, have, with.
pub(super) struct StopWords;

impl Filter for StopWords {
    fn judge(&self, draft: &mut Draft) -> Verdict {
        let mut words = draft.text().split_ascii_whitespace();
        let mut is_enough = || words.by_ref().any(is_stop_word);
        if is_enough() && is_enough() { Verdict::Keep } else { Verdict::Drop("fewer than two stop words") }
    }
}

fn is_stop_word(word: &str) -> bool {
    let word = word.trim_matches(|c: char| c.is_ascii_punctuation());
    let stop = ["the", "be", "to", "of", "and", "that", "have", "with"];
    word.len() <= 4 && stop.iter().any(|stop| word.eq_ignore_ascii_case(stop))
}

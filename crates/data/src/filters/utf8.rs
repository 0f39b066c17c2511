//! Text that is not quite UTF-8.

use super::{Draft, Filter, Verdict};
use encoding_rs::{UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Text out of bytes, and how many of them were no UTF-8. UTF-16 is known by its mark; bytes that are neither are
/// taken for Windows-1252, so that nothing is lost.
pub fn decode(bytes: Vec<u8>) -> (String, usize) {
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => return (UTF_16LE.decode_without_bom_handling(rest).0.into_owned(), 0),
        [0xfe, 0xff, rest @ ..] => return (UTF_16BE.decode_without_bom_handling(rest).0.into_owned(), 0),
        _ => {}
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return (text, 0),
        Err(error) => error.into_bytes(),
    };
    let (mut text, mut damaged) = (String::with_capacity(bytes.len() + bytes.len() / 8), 0);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        damaged += chunk.invalid().len();
        text.push_str(&WINDOWS_1252.decode_without_bom_handling(chunk.invalid()).0);
    }
    (text, damaged)
}

/// Line ends, control characters and letters that were encoded twice; drops what is mostly not text.
pub(super) struct Utf8;

impl Filter for Utf8 {
    fn judge(&self, draft: &mut Draft) -> Verdict {
        let text = draft.text();
        if draft.damaged() == 0 && !text.bytes().any(|byte| SUSPECT[usize::from(byte)]) {
            return Verdict::Keep;
        }
        let bytes = text.len() as f64;
        let controls = text.bytes().filter(|&byte| is_control(byte)).count() as f64;
        let unknown = text.matches('\u{fffd}').count() as f64;
        let verdict = Verdict::first_of([
            (draft.damaged() as f64 > 0.1 * bytes, "over 10% of bytes are no UTF-8"),
            (controls > 0.01 * bytes, "over 1% control characters"),
            (unknown > 0.01 * bytes, "over 1% replacement characters"),
        ]);
        if verdict != Verdict::Keep {
            return verdict;
        }
        let mended = mend(text);
        if mended != text {
            draft.replace(mended);
        }
        Verdict::Keep
    }
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\n' | b'\t' | b'\r' | 0x0c) || byte == 0x7f
}

/// Bytes without which there is nothing to mend: control characters, and the first bytes of C1 controls (C2), of
/// the letters that twice-encoded text consists of (C2, C3, E2) and of the byte order mark and U+FFFD (EF).
const SUSPECT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 && byte != b'\n' as usize && byte != b'\t' as usize
            || matches!(byte, 0x7f | 0xc2 | 0xc3 | 0xe2 | 0xef);
        byte += 1;
    }
    table
};

/// Line ends become `\n`, control characters go, twice-encoded characters are decoded once more.
fn mend(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| SUSPECT[usize::from(byte)]) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        rest = match rest.as_bytes() {
            [b'\r', b'\n', ..] => &rest[1..],
            _ => mend_one(rest, &mut out),
        };
    }
    out.push_str(rest);
    out
}

/// Handles what stands first, and returns what follows it.
fn mend_one<'t>(text: &'t str, out: &mut String) -> &'t str {
    if let Some((char, length)) = decode_twice(text) {
        out.push(char);
        return &text[length..];
    }
    let mut chars = text.chars();
    match chars.next() {
        Some('\r' | '\u{c}' | '\u{85}') => out.push('\n'),
        Some(char) if char.is_control() => {}
        Some(char) => out.push(char),
        None => {}
    }
    chars.as_str()
}

/// The character whose UTF-8 was taken for Windows-1252 and encoded again, and the bytes that this takes:
/// `â€™` is `’`.
fn decode_twice(text: &str) -> Option<(char, usize)> {
    let mut bytes = [0; 4];
    let mut length = 0;
    let first = text.chars().next()?;
    let wanted = match first {
        'Â' | 'Ã' => 2,
        'â' => 3,
        'ð' => 4,
        _ => return None,
    };
    for (byte, char) in bytes.iter_mut().zip(text.chars()).take(wanted) {
        *byte = windows_1252(char)?;
        length += char.len_utf8();
    }
    let char = str::from_utf8(&bytes[..wanted]).ok()?.chars().next()?;
    (!char.is_control()).then_some((char, length))
}

/// The byte of a character beyond ASCII in Windows-1252.
fn windows_1252(char: char) -> Option<u8> {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match char {
        '\u{a0}'..='\u{ff}' => Some(char as u8),
        _ => HIGH.iter().position(|&high| high == char).map(|at| 0x80 + at as u8),
    }
}

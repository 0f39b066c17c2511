//! Files that are one document.

use super::{Body, File, Format, Item, Kind, Raw, ReadOptions, Skip};
use crate::collect::{Error, Result};
use std::io::Read;
use std::sync::atomic::AtomicU64;

/// Reads a file as a document, or as several if it is a long text.
pub(super) fn read(
    file: &File,
    kind: Kind,
    options: &ReadOptions,
    progress: &AtomicU64,
    each: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut content = file.open(progress)?;
    let mut fill = |buffer: &mut Vec<u8>, most: usize| {
        let room = most.saturating_sub(buffer.len()) as u64;
        content.by_ref().take(room).read_to_end(buffer).map_err(Error::reading(&file.path))
    };
    let mut buffer = Vec::new();
    fill(&mut buffer, 8 << 10)?;
    if is_binary(&buffer) {
        return each(Item::Skipped(Skip::Binary));
    }
    let is_cut = kind != Kind::Code && file.format != Format::RustDocs && !is_utf16(&buffer);
    // One byte more than is taken at once tells whether there is more.
    let most = if is_cut { options.piece } else { options.largest };
    for piece in 1.. {
        fill(&mut buffer, most + 1)?;
        let is_last = buffer.len() <= most;
        if !is_last && !is_cut {
            return each(Item::Skipped(Skip::TooLarge));
        }
        let rest = if is_last { Vec::new() } else { buffer.split_off(cut(&buffer[..most])) };
        let path = if piece == 1 { file.name.clone() } else { format!("{}#{piece}", file.name) };
        let bytes = std::mem::replace(&mut buffer, rest);
        let body = if file.format == Format::RustDocs { Body::RustDocs(bytes) } else { Body::Text(bytes) };
        each(Item::Document(Raw { body, path, url: None, kind }))?;
        if is_last {
            break;
        }
    }
    Ok(())
}

fn is_utf16(start: &[u8]) -> bool {
    start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff])
}

/// Text holds no zero bytes, unless it is UTF-16.
fn is_binary(start: &[u8]) -> bool {
    !is_utf16(start) && start.contains(&0)
}

/// Where to cut: after the last paragraph, line, word or character, none of them in the first half.
fn cut(bytes: &[u8]) -> usize {
    let half = bytes.len() / 2;
    let late = &bytes[half..];
    let paragraph = late.windows(2).rposition(|pair| pair == b"\n\n").map(|at| at + 2);
    let after = |byte| late.iter().rposition(|&b| b == byte).map(|at| at + 1);
    let char = || late.iter().rposition(|&byte| byte as i8 >= -0x40);
    let at = paragraph.or_else(|| after(b'\n')).or_else(|| after(b' ')).or_else(char);
    at.map_or(bytes.len(), |at| half + at).max(1)
}

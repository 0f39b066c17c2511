//! A file's bytes, mapped into memory: the one place of this crate that needs `unsafe`.
#![allow(unsafe_code)]

use super::ShardError;
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// Maps a file that is not empty.
pub(super) fn map(path: &Path) -> Result<Mmap, ShardError> {
    let file = File::open(path).map_err(ShardError::file(path))?;
    // SAFETY: shards are written beside and renamed, and nothing writes to them afterwards. Should another program do so, the bytes
    // read as numbers, each of which is checked before it is used.
    unsafe { Mmap::map(&file) }.map_err(ShardError::file(path))
}

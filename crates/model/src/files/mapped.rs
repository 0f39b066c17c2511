//! A file's bytes, mapped into memory: the one place that needs `unsafe`.
#![allow(unsafe_code)]

use super::FileError;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// What a page fault may bring in around the page that was touched (Linux's `fault_around_bytes`).
const FAULT_AROUND: usize = 64 << 10;

/// A file mapped read-only.
pub(super) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(FileError::io(path, "open"))?;
        // SAFETY: the map is read-only and private to this type, which hands out shared slices only. What
        // Rust cannot rule out is another process that writes to or truncates the file while it is mapped:
        // then bytes change under us (every byte pattern is a valid value of every type read from here) or
        // the process receives SIGBUS. This is the common contract of programs that map model files.
        let map = unsafe { Mmap::map(&file) }.map_err(FileError::io(path, "map"))?;
        Ok(Self { map })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Drops the resident pages of a range and those that came in around it. A later read brings them back from the file.
    pub(super) fn release(&self, range: &Range<usize>) {
        if range.is_empty() || range.end > self.map.len() {
            return;
        }
        let start = range.start / FAULT_AROUND * FAULT_AROUND;
        let end = range.end.next_multiple_of(FAULT_AROUND).min(self.map.len());
        #[cfg(unix)]
        // SAFETY: MADV_DONTNEED on a read-only mapping of a file loses no data: the next access faults the
        // same bytes in again, so slices into the map stay valid.
        let advised =
            unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        // A hint that was not taken costs memory, not correctness.
        #[cfg(unix)]
        drop(advised);
    }
}

/// Some bytes of a mapped file.
#[derive(Clone)]
pub(super) struct Bytes<'a> {
    file: &'a MappedFile,
    range: Range<usize>,
}

impl<'a> Bytes<'a> {
    /// `range` must lie within the file; files are checked for that when they are opened.
    pub(super) fn new(file: &'a MappedFile, range: Range<usize>) -> Self {
        Self { file, range }
    }

    pub(super) fn slice(&self) -> &'a [u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// Part `index` of `count` equal ones.
    pub(super) fn part(&self, index: usize, count: usize) -> Self {
        let length = self.range.len() / count;
        let start = self.range.start + index * length;
        Self::new(self.file, start..start + length)
    }

    pub(super) fn release(&self) {
        self.file.release(&self.range);
    }
}

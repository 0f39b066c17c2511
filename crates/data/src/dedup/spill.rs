//! Sorting more keys than fit in memory.

use crate::collect::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// A hash, and the document that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) hash: u128,
    pub(super) document: u64,
}

/// Bytes of a key on disk.
const BYTES: usize = 24;

/// Files that are merged at once.
const FAN_IN: usize = 64;

/// Groups larger than this are cut: nothing is as common as that but boilerplate.
const LARGEST_GROUP: usize = 1 << 20;

impl Key {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(&self.hash.to_be_bytes());
        bytes[16..].copy_from_slice(&self.document.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; BYTES]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n: u128, &byte| n << 8 | u128::from(byte));
        Self { hash: number(&bytes[..16]), document: number(&bytes[16..]) as u64 }
    }
}

/// Keys, in memory up to a bound and in sorted files beyond it.
pub(super) struct Spill {
    folder: PathBuf,
    name: &'static str,
    buffer: Vec<Key>,
    most: usize,
    files: Vec<PathBuf>,
    written: usize,
    len: u64,
}

impl Spill {
    /// No keys yet; at most `memory` bytes of them stay in memory.
    pub(super) fn new(folder: &Path, name: &'static str, memory: usize) -> Self {
        let most = (memory / size_of::<Key>()).max(16);
        Self { folder: folder.to_owned(), name, buffer: Vec::new(), most, files: Vec::new(), written: 0, len: 0 }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Takes up a key.
    pub(super) fn push(&mut self, key: Key) -> Result<()> {
        if self.buffer.len() == self.most {
            self.buffer.sort_unstable();
            let keys = std::mem::take(&mut self.buffer);
            self.write(keys.iter().map(|key| Ok(*key)))?;
            self.buffer = keys;
            self.buffer.clear();
        }
        self.buffer.push(key);
        self.len += 1;
        Ok(())
    }

    /// Calls `each` with the documents of every hash, in order.
    pub(super) fn groups(&mut self, each: &mut dyn FnMut(&[u64]) -> Result<()>) -> Result<()> {
        self.buffer.sort_unstable();
        let buffer = std::mem::take(&mut self.buffer);
        if self.files.is_empty() {
            return group(buffer.into_iter().map(Ok), each);
        }
        self.write(buffer.into_iter().map(Ok))?;
        while self.files.len() > FAN_IN {
            let files: Vec<_> = self.files.drain(..FAN_IN).collect();
            self.write(Merge::open(&files)?)?;
            remove(&files)?;
        }
        group(Merge::open(&self.files)?, each)?;
        remove(&self.files)
    }

    /// Writes sorted keys to a new file.
    fn write(&mut self, keys: impl Iterator<Item = Result<Key>>) -> Result<()> {
        let path = self.folder.join(format!("{}-{:05}", self.name, self.written));
        self.written += 1;
        let mut file = BufWriter::new(File::create(&path).map_err(Error::io("create", &path))?);
        for key in keys {
            file.write_all(&key?.to_bytes()).map_err(Error::io("write", &path))?;
        }
        file.flush().map_err(Error::io("write", &path))?;
        self.files.push(path);
        Ok(())
    }
}

fn remove(files: &[PathBuf]) -> Result<()> {
    files.iter().try_for_each(|file| fs::remove_file(file).map_err(Error::io("remove", file)))
}

/// Calls `each` with the documents of every hash of sorted keys.
fn group(keys: impl Iterator<Item = Result<Key>>, each: &mut dyn FnMut(&[u64]) -> Result<()>) -> Result<()> {
    let mut documents = Vec::new();
    let mut last = None;
    for key in keys {
        let key = key?;
        if last != Some(key.hash) && !documents.is_empty() {
            each(&documents)?;
            documents.clear();
        }
        if documents.len() == LARGEST_GROUP {
            // The first stays, so that what follows is compared with the same document.
            each(&documents)?;
            documents.truncate(1);
        }
        last = Some(key.hash);
        documents.push(key.document);
    }
    if documents.is_empty() { Ok(()) } else { each(&documents) }
}

/// Sorted files as one sequence.
struct Merge {
    files: Vec<(PathBuf, BufReader<File>)>,
    next: BinaryHeap<Reverse<(Key, usize)>>,
}

impl Merge {
    fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut merge = Self { files: Vec::new(), next: BinaryHeap::new() };
        for (at, path) in paths.iter().enumerate() {
            let file = File::open(path).map_err(Error::io("open", path))?;
            merge.files.push((path.clone(), BufReader::with_capacity(64 << 10, file)));
            merge.read(at)?;
        }
        Ok(merge)
    }

    /// Reads the next key of a file.
    fn read(&mut self, at: usize) -> Result<()> {
        let (path, file) = &mut self.files[at];
        let mut bytes = [0; BYTES];
        match file.read_exact(&mut bytes) {
            Ok(()) => self.next.push(Reverse((Key::from_bytes(bytes), at))),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
        Ok(())
    }
}

impl Iterator for Merge {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Result<Key>> {
        let Reverse((key, at)) = self.next.pop()?;
        Some(self.read(at).map(|()| key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_on_disk_group_as_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let groups = |memory: usize| {
            let mut spill = Spill::new(folder.path(), "test", memory);
            for document in 0..5000u64 {
                spill.push(Key { hash: u128::from(crate::words::mix(document % 700)) << 50, document }).unwrap();
            }
            let mut groups = Vec::new();
            spill.groups(&mut |documents| Ok(groups.push(documents.to_vec()))).unwrap();
            assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
            groups
        };
        let in_memory = groups(1 << 20);
        assert_eq!(in_memory.len(), 700);
        assert!(in_memory.iter().all(|documents| documents.is_sorted() && documents.len() >= 7));
        assert_eq!(groups(16 << 10), in_memory);
        // So many files that they are merged twice.
        assert_eq!(groups(0), in_memory);
    }
}

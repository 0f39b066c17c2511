//! Copies: documents that say the same as an earlier one, or nearly.
//!
//! Exact copies have the same text but for white space. Near copies are found by MinHash over runs of five words
//! ([`minhash`]) and locality-sensitive hashing: two documents that agree in one of 14 bands of 8 hashes are compared,
//! and the later goes if at least [`NEAR`] of all their 112 hashes agree. So of copies the first stays, whatever
//! the order in which they are found.
//!
//! The hashes of all documents are sorted, in memory as long as they fit and through files on disk otherwise. What always
//! stays in memory is two bits per document.

mod bits;
pub mod minhash;
mod spill;

use crate::collect::{Error, Result};
use crate::words::{Runs, normalised};
use bits::Bits;
use minhash::{BANDS, HASHES, Signature};
use spill::{Key, Spill};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use twox_hash::XxHash3_128;

/// Words in the runs that near copies share.
const SHINGLE: usize = 5;

/// The least share of common hashes that makes a near copy, an estimate of the share of common runs of words.
pub const NEAR: f64 = 0.75;

/// Documents of one bucket that a later one is compared with.
const COMPARED: usize = 4;

/// Which copies are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copies {
    /// The same text.
    pub exact: bool,
    /// Nearly the same text.
    pub near: bool,
}

/// What is compared of a document.
#[derive(Debug, Clone, Default)]
pub struct Print {
    exact: Option<u128>,
    near: Option<Box<Signature>>,
}

impl Copies {
    /// What is compared of a text.
    pub fn print(self, text: &str) -> Print {
        Print {
            exact: self.exact.then(|| exact_hash(text)),
            near: if self.near { signature(text).map(Box::new) } else { None },
        }
    }
}

/// A hash of a text in which all white space is alike.
fn exact_hash(text: &str) -> u128 {
    let mut squeezed = String::with_capacity(text.len());
    for word in text.split_ascii_whitespace() {
        squeezed.push_str(word);
        squeezed.push(' ');
    }
    XxHash3_128::oneshot(squeezed.as_bytes())
}

/// The MinHash signature of a text's runs of five normalised words; nothing if it has no words.
pub fn signature(text: &str) -> Option<Signature> {
    let mut words = Vec::with_capacity(text.len() / 6);
    normalised(text, |hash, _| words.push(hash));
    minhash::signature(&Runs::new(&words, SHINGLE).collect::<Vec<_>>())
}

/// The prints of all documents, in order, and what they share.
pub struct Index {
    copies: Copies,
    documents: u64,
    exact: Spill,
    near: Spill,
    folder: PathBuf,
    signatures: Option<BufWriter<File>>,
}

impl Index {
    /// An index that keeps at most `memory` bytes of hashes in memory, and the others in files in `folder`.
    pub fn new(copies: Copies, folder: &Path, memory: usize) -> Result<Self> {
        // Every document has one exact key and `BANDS` near ones.
        let share = if copies.near { memory / (BANDS + 1) } else { memory };
        let exact = Spill::new(folder, "exact", share);
        let near = Spill::new(folder, "near", memory.saturating_sub(share));
        Ok(Self { copies, documents: 0, exact, near, folder: folder.to_owned(), signatures: None })
    }

    /// Takes up the next document.
    pub fn add(&mut self, print: &Print) -> Result<()> {
        let document = self.documents;
        self.documents += 1;
        if let Some(hash) = print.exact {
            self.exact.push(Key { hash, document })?;
        }
        if self.copies.near {
            self.write_signature(print.near.as_deref())?;
        }
        for (band, hash) in print.near.iter().flat_map(|signature| minhash::bands(signature)).enumerate() {
            self.near.push(Key { hash: (band as u128) << 64 | u128::from(hash), document })?;
        }
        Ok(())
    }

    fn write_signature(&mut self, signature: Option<&Signature>) -> Result<()> {
        let path = self.signature_path();
        let file = match &mut self.signatures {
            Some(file) => file,
            none => none.insert(BufWriter::new(File::create(&path).map_err(Error::io("create", &path))?)),
        };
        let mut bytes = [0; HASHES * 4];
        for (bytes, hash) in bytes.chunks_exact_mut(4).zip(signature.into_iter().flatten()) {
            bytes.copy_from_slice(&hash.to_le_bytes());
        }
        file.write_all(&bytes).map_err(Error::io("write", &path))
    }

    fn signature_path(&self) -> PathBuf {
        self.folder.join("signatures")
    }

    /// Finds the copies. `progress` is told of the hashes compared so far and all of them.
    pub fn resolve(mut self, progress: &dyn Fn(u64, u64)) -> Result<Found> {
        let mut found = Found::new(self.documents);
        let all = self.exact.len() + self.near.len();
        let mut done = 0;
        self.exact.groups(&mut |documents| {
            for &document in &documents[1..] {
                found.exact.set(document);
                found.note(document, documents[0]);
            }
            done += documents.len() as u64;
            progress(done, all);
            Ok(())
        })?;
        let path = self.signature_path();
        let Some(file) = self.signatures.take() else { return Ok(found) };
        let file = file.into_inner().map_err(|error| Error::io("write", &path)(error.into_error()))?;
        drop(file);
        let mut signatures = Signatures::open(path)?;
        self.near.groups(&mut |documents| {
            done += documents.len() as u64;
            progress(done, all);
            find_near(documents, &mut signatures, &mut found)
        })?;
        Ok(found)
    }
}

/// Looks for near copies among documents that share a band, in order.
fn find_near(documents: &[u64], signatures: &mut Signatures, found: &mut Found) -> Result<()> {
    // Those that differ from the ones before, each the first of its kind.
    let mut firsts: Vec<(u64, Signature)> = Vec::new();
    for &document in documents {
        if documents.len() == 1 || found.is_copy(document) && !firsts.is_empty() {
            continue;
        }
        let signature = signatures.get(document)?;
        match firsts.iter().find(|(_, first)| minhash::similarity(first, &signature) >= NEAR) {
            Some(&(first, _)) => {
                found.near.set(document);
                found.note(document, first);
            }
            None if firsts.len() < COMPARED => firsts.push((document, signature)),
            None => {}
        }
    }
    Ok(())
}

/// Signatures on disk, one after the other.
struct Signatures {
    file: BufReader<File>,
    path: PathBuf,
}

impl Signatures {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        Ok(Self { file: BufReader::with_capacity(HASHES * 4, file), path })
    }

    fn get(&mut self, document: u64) -> Result<Signature> {
        let mut bytes = [0; HASHES * 4];
        let read = self.file.seek(SeekFrom::Start(document * bytes.len() as u64));
        read.and_then(|_| self.file.read_exact(&mut bytes)).map_err(Error::io("read", &self.path))?;
        Ok(std::array::from_fn(|at| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at * 4 + byte]))))
    }
}

/// Which documents are copies.
#[derive(Debug)]
pub struct Found {
    exact: Bits,
    near: Bits,
    /// Whose copies the first of them are.
    originals: BTreeMap<u64, u64>,
}

/// Copies whose originals are remembered.
const NOTED: usize = 1000;

impl Found {
    fn new(documents: u64) -> Self {
        Self { exact: Bits::new(documents), near: Bits::new(documents), originals: BTreeMap::new() }
    }

    /// Remembers the original of the first copies.
    fn note(&mut self, document: u64, original: u64) {
        let known = self.originals.entry(document).or_insert(original);
        *known = (*known).min(original);
        if self.originals.len() > NOTED {
            self.originals.pop_last();
        }
    }

    /// Whether there are no copies at all.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.near.is_empty()
    }

    /// Whether a document is a copy of an earlier one.
    pub fn is_copy(&self, document: u64) -> bool {
        self.is_exact(document) || self.near.get(document)
    }

    /// Whether it has the same text as an earlier one.
    pub fn is_exact(&self, document: u64) -> bool {
        self.exact.get(document)
    }

    /// The documents that the first copies are copies of.
    pub fn originals(&self) -> impl Iterator<Item = u64> {
        self.originals.values().copied()
    }

    /// The document that this one is a copy of, where it is one of the first copies.
    pub fn original(&self, document: u64) -> Option<u64> {
        self.originals.get(&document).copied()
    }
}

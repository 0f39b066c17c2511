//! Writes the shards of one source: beside, and renamed when all is there.

use super::ShardError;
use super::format::{FileEntry, HEADER, Header, INDEX, Index, TokenizerId, VERSION, checksum};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A document as ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The ids, with what marks where the document begins or ends.
    pub tokens: Vec<u32>,
    /// For each id whether it counts in the loss; all do if there is none.
    pub mask: Option<Vec<bool>>,
    /// Bytes of the text.
    pub text_bytes: u64,
}

/// Writes one folder. Nothing is at its place until [`SetWriter::finish`].
#[derive(Debug)]
pub struct SetWriter {
    folder: PathBuf,
    partial: PathBuf,
    index: Index,
    train: PartWriter,
    held_out: PartWriter,
}

/// One of the two parts of a folder, of which one file is being filled.
#[derive(Debug)]
struct PartWriter {
    name: &'static str,
    token_bytes: usize,
    shard_tokens: u64,
    entries: Vec<FileEntry>,
    ends: Vec<u64>,
    ids: Vec<u8>,
    mask: Vec<bool>,
    has_mask: bool,
    text_bytes: u64,
}

impl SetWriter {
    /// Begins the folder of a source. A shard takes documents until it holds `shard_tokens`.
    pub fn new(
        folder: &Path,
        source: &str,
        tokenizer: TokenizerId,
        end_of_text: u32,
        shard_tokens: u64,
    ) -> Result<Self, ShardError> {
        if folder.exists() {
            return Err(ShardError::Exists { path: folder.into() });
        }
        let mut name = folder.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let partial = folder.with_file_name(name);
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(ShardError::file(&partial))?;
        }
        fs::create_dir_all(&partial).map_err(ShardError::file(&partial))?;
        let token_bytes = tokenizer.token_bytes();
        let part = |name| PartWriter::new(name, token_bytes, shard_tokens);
        let index = Index {
            format: VERSION,
            source: source.into(),
            tokenizer,
            end_of_text,
            train: Vec::new(),
            held_out: Vec::new(),
        };
        Ok(Self { folder: folder.into(), partial, index, train: part("train"), held_out: part("held-out") })
    }

    /// Adds a document to what is learned from, or to what is held out. One without ids is left out.
    pub fn push(&mut self, document: &Document, held_out: bool) -> Result<(), ShardError> {
        let part = if held_out { &mut self.held_out } else { &mut self.train };
        part.push(&self.partial, document)
    }

    /// Writes what is left and the index, and puts the folder in its place.
    pub fn finish(mut self) -> Result<(), ShardError> {
        self.train.flush(&self.partial)?;
        self.held_out.flush(&self.partial)?;
        (self.index.train, self.index.held_out) = (self.train.entries, self.held_out.entries);
        let path = self.partial.join(INDEX);
        let json = self.index.to_json().map_err(|source| ShardError::Index { path: path.clone(), source })?;
        write_synced(&path, &json)?;
        fs::rename(&self.partial, &self.folder).map_err(ShardError::file(&self.folder))
    }
}

impl PartWriter {
    fn new(name: &'static str, token_bytes: usize, shard_tokens: u64) -> Self {
        Self {
            name,
            token_bytes,
            shard_tokens,
            entries: Vec::new(),
            ends: Vec::new(),
            ids: Vec::new(),
            mask: Vec::new(),
            has_mask: false,
            text_bytes: 0,
        }
    }

    fn tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn push(&mut self, folder: &Path, document: &Document) -> Result<(), ShardError> {
        let len = document.tokens.len();
        if len == 0 {
            return Ok(());
        }
        if self.tokens() > 0 && self.tokens() + len as u64 > self.shard_tokens {
            self.flush(folder)?;
        }
        for id in &document.tokens {
            self.ids.extend_from_slice(&id.to_le_bytes()[..self.token_bytes]);
        }
        match &document.mask {
            Some(mask) => {
                self.has_mask = true;
                self.mask.extend(mask.iter().copied().chain(std::iter::repeat(true)).take(len));
            }
            None => self.mask.resize(self.mask.len() + len, true),
        }
        self.ends.push(self.tokens() + len as u64);
        self.text_bytes += document.text_bytes;
        Ok(())
    }

    /// Writes the file that was being filled, and begins the next.
    fn flush(&mut self, folder: &Path) -> Result<(), ShardError> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let header = Header {
            token_bytes: self.token_bytes,
            documents: self.ends.len() as u64,
            tokens: self.tokens(),
            has_mask: self.has_mask,
        };
        let mut head = Vec::with_capacity(HEADER + 8 * self.ends.len());
        head.extend_from_slice(&header.to_bytes());
        head.extend(self.ends.iter().flat_map(|end| end.to_le_bytes()));
        let bits = |eight: &[bool]| eight.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        let mask: Vec<u8> = if self.has_mask { self.mask.chunks(8).map(bits).collect() } else { Vec::new() };
        let file = format!("{}-{:05}.tokens", self.name, self.entries.len());
        let whole = [&*head, &self.ids, &mask].concat();
        write_synced(&folder.join(&file), &whole)?;
        self.entries.push(FileEntry {
            file,
            documents: header.documents,
            tokens: header.tokens,
            text_bytes: self.text_bytes,
            head: checksum(&head),
            whole: checksum(&whole),
        });
        self.ends.clear();
        self.ids.clear();
        self.mask.clear();
        (self.has_mask, self.text_bytes) = (false, 0);
        Ok(())
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ShardError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(ShardError::file(path))
}

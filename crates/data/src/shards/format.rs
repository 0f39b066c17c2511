//! What stands in the files: the header of a shard, and the index of a folder.

use super::ShardError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use text::Tokenizer;
use twox_hash::XxHash3_128;

/// The version of the format.
pub(super) const VERSION: u32 = 1;
/// The name of the index.
pub(super) const INDEX: &str = "index.json";
/// Bytes of a header.
pub(super) const HEADER: usize = 64;

const MAGIC: &[u8; 8] = b"LYCSHARD";
const HAS_MASK: u64 = 1;

/// Which tokeniser made the ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerId {
    /// SHA-256 of what decides its ids, in hexadecimal.
    pub fingerprint: String,
    /// One past its highest id.
    pub vocab_size: usize,
}

impl TokenizerId {
    /// The identity of a tokeniser.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, text::Error> {
        Ok(Self { fingerprint: tokenizer.fingerprint()?, vocab_size: tokenizer.vocab_size() })
    }

    /// Bytes that an id takes on disk.
    pub(super) fn token_bytes(&self) -> usize {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }
}

impl fmt::Display for TokenizerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.fingerprint.get(..12).unwrap_or(&self.fingerprint);
        write!(f, "{short} ({} ids)", self.vocab_size)
    }
}

/// The head of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub token_bytes: usize,
    pub documents: u64,
    pub tokens: u64,
    pub has_mask: bool,
}

impl Header {
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields: [&[u8]; 6] = [
            MAGIC,
            &VERSION.to_le_bytes(),
            &(self.token_bytes as u32).to_le_bytes(),
            &self.documents.to_le_bytes(),
            &self.tokens.to_le_bytes(),
            &(u64::from(self.has_mask) * HAS_MASK).to_le_bytes(),
        ];
        let mut at = 0;
        for field in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        bytes
    }

    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ShardError> {
        let damaged = |what: &str| ShardError::damaged(path, what);
        let header = bytes.first_chunk::<HEADER>().ok_or_else(|| damaged("it is shorter than its header"))?;
        if !header.starts_with(MAGIC) {
            return Err(damaged("it does not begin like a shard"));
        }
        let version = word(header, 8) as u32;
        if version != VERSION {
            return Err(ShardError::Version { path: path.into(), found: version, known: VERSION });
        }
        let parsed = Self {
            token_bytes: (word(header, 8) >> 32) as usize,
            documents: word(header, 16),
            tokens: word(header, 24),
            has_mask: word(header, 32) & HAS_MASK != 0,
        };
        if parsed.to_bytes() != *header {
            return Err(damaged("its header has bits that mean nothing"));
        }
        Ok(parsed)
    }

    /// Where the ids begin, where the mask begins, and where the file ends; nothing if that is beyond any file.
    pub fn layout(self) -> Option<[usize; 3]> {
        let ids = usize::try_from(self.documents).ok()?.checked_mul(8)?.checked_add(HEADER)?;
        let tokens = usize::try_from(self.tokens).ok()?;
        let mask = tokens.checked_mul(self.token_bytes)?.checked_add(ids)?;
        let mask_bytes = if self.has_mask { tokens.div_ceil(8) } else { 0 };
        Some([ids, mask, mask.checked_add(mask_bytes)?])
    }
}

/// Eight bytes as a number. The caller knows that they are there.
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    pub format: u32,
    pub source: String,
    pub tokenizer: TokenizerId,
    pub end_of_text: u32,
    pub train: Vec<FileEntry>,
    pub held_out: Vec<FileEntry>,
}

/// One file of ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    pub file: String,
    pub documents: u64,
    pub tokens: u64,
    /// Bytes of the text that the ids stand for.
    pub text_bytes: u64,
    /// XXH3 (128 bits) of the header and the table of documents.
    pub head: String,
    /// XXH3 (128 bits) of the whole file.
    pub whole: String,
}

/// The index as it is written, with the checksum of its compact form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexFile<T> {
    checksum: String,
    index: T,
}

impl Index {
    /// The file's content.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let checksum = checksum(&serde_json::to_vec(self)?);
        serde_json::to_vec_pretty(&IndexFile { checksum, index: self })
    }

    /// Reads and checks the index of a folder; also its checksum.
    pub fn read(folder: &Path) -> Result<(Self, String), ShardError> {
        #[derive(Deserialize)]
        struct Peek {
            format: u32,
        }
        let path = &folder.join(INDEX);
        let json = std::fs::read(path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => ShardError::NoIndex { folder: folder.into() },
            _ => ShardError::File { path: path.into(), source },
        })?;
        let invalid = |source| ShardError::Index { path: path.into(), source };
        let peek: IndexFile<Peek> = serde_json::from_slice(&json).map_err(invalid)?;
        if peek.index.format != VERSION {
            return Err(ShardError::Version { path: path.into(), found: peek.index.format, known: VERSION });
        }
        let file: IndexFile<Self> = serde_json::from_slice(&json).map_err(invalid)?;
        if checksum(&serde_json::to_vec(&file.index).map_err(invalid)?) != file.checksum {
            return Err(ShardError::damaged(path, "its checksum does not fit its content"));
        }
        Ok((file.index, file.checksum))
    }
}

/// The checksum of bytes as the index writes it.
pub(super) fn checksum(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}

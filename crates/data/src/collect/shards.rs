//! Documents in compressed files of bounded size.

use super::manifest::{Count, Shard};
use super::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// How hard zstd tries: three times as fast as it is read by anyone.
const LEVEL: i32 = 3;

/// A document of a collection: a line of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its text.
    pub text: String,
    /// The source that it came from.
    pub source: String,
    /// The file in it.
    pub path: String,
    /// The page that it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its language, where the source told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
}

impl Document {
    /// The document as a line, with its end.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.text.len() + self.text.len() / 16 + 128);
        // Strings always serialise, and memory takes all writes.
        let _ = serde_json::to_writer(&mut line, self);
        line.push(b'\n');
        line
    }
}

/// Writes the shards of one source.
pub(super) struct ShardWriter {
    folder: PathBuf,
    /// The source's name, which is its folder in the collection.
    name: String,
    most: u64,
    open: Option<Open>,
    done: Vec<Shard>,
}

/// A shard that is being written.
struct Open {
    encoder: zstd::Encoder<'static, Hashed>,
    path: PathBuf,
    count: Count,
    bytes: u64,
}

impl ShardWriter {
    /// Shards of at most `most` bytes before compression, in a folder of the source's name. A longer document has a
    /// shard of its own.
    pub(super) fn new(collection: &Path, name: &str, most: u64) -> Result<Self> {
        let folder = collection.join(name);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        Ok(Self { folder, name: name.to_owned(), most, open: None, done: Vec::new() })
    }

    /// Writes a document, given as its line and the length of its text.
    pub(super) fn write(&mut self, line: &[u8], text_bytes: usize) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.bytes + line.len() as u64 > self.most) {
            self.close()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::new(self.folder.join(file_name(self.done.len())))?),
        };
        open.encoder.write_all(line).map_err(Error::io("write", &open.path))?;
        open.bytes += line.len() as u64;
        open.count.add(text_bytes);
        Ok(())
    }

    /// The shards that were written.
    pub(super) fn finish(mut self) -> Result<Vec<Shard>> {
        self.close()?;
        Ok(self.done)
    }

    fn close(&mut self) -> Result<()> {
        let Some(Open { encoder, path, count, .. }) = self.open.take() else { return Ok(()) };
        let closed = encoder.finish().and_then(|hashed| hashed.finish());
        let (compressed, sha256) = closed.map_err(Error::io("write", &path))?;
        let file = format!("{}/{}", self.name, file_name(self.done.len()));
        self.done.push(Shard { file, count, compressed, sha256 });
        Ok(())
    }
}

fn file_name(number: usize) -> String {
    format!("{number:05}.jsonl.zst")
}

impl Open {
    fn new(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let hashed = Hashed { file, hash: Sha256::new(), bytes: 0 };
        let encoder = zstd::Encoder::new(hashed, LEVEL).and_then(|mut encoder| {
            encoder.include_checksum(true)?;
            Ok(encoder)
        });
        let encoder = encoder.map_err(Error::io("write", &path))?;
        Ok(Self { encoder, path, count: Count::default(), bytes: 0 })
    }
}

/// A file whose hash is computed as it is written.
struct Hashed {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Hashed {
    fn finish(self) -> io::Result<(u64, String)> {
        self.file.sync_all()?;
        Ok((self.bytes, hex(&self.hash.finalize())))
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of a file.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = io::Read::read(&mut file, &mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// Reads the lines of a shard.
pub(super) struct ShardReader {
    path: PathBuf,
    lines: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    number: u64,
}

impl ShardReader {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let decoder = zstd::Decoder::new(file).map_err(Error::reading(&path))?;
        Ok(Self { path, lines: BufReader::with_capacity(1 << 20, decoder), number: 0 })
    }

    /// The next line, with its end.
    pub(super) fn line(&mut self) -> Option<Result<Vec<u8>>> {
        let mut line = Vec::new();
        self.number += 1;
        match self.lines.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(Error::reading(&self.path)(error))),
        }
    }

    /// The document on a line.
    pub(super) fn parse(&self, line: &[u8]) -> Result<Document> {
        let place = || format!("{}, line {}", self.path.display(), self.number);
        serde_json::from_slice(line).map_err(|error| Error::damaged(place(), error))
    }
}

//! Where documents come from: files and folders, JSONL, Parquet, WARC, and the crates of a Cargo.lock.
//!
//! [`Source::list`] says which files there are, in an order that does not depend on the machine; [`File::read`]
//! streams the raw documents of one; [`Raw::open`], which runs in parallel, makes text of them.

mod cargo;
mod compressed;
mod html;
mod jsonl;
mod kind;
#[cfg(feature = "parquet")]
mod parquet;
mod plain;
mod rustdoc;
mod walk;
mod warc;

pub use cargo::Cargo;
pub use html::html_text;
pub use kind::{Compression, Format, Kind};
pub use rustdoc::rust_docs;

use crate::collect::{Error, Result};
use crate::filters::decode;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Documents that are collected under one name.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name, and the folder that they go to.
    pub name: String,
    /// Where they are.
    pub from: From,
}

/// Where the documents of a source are.
#[derive(Debug, Clone)]
pub enum From {
    /// A file, or all files in a folder.
    Path(PathBuf),
    /// The sources ([`Kind::Code`]) or the documentation ([`Kind::Docs`]) of the crates of a Cargo.lock.
    Cargo(Cargo, Kind),
}

/// How to read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// The field of JSONL records, or the column of Parquet files, that holds the text.
    pub field: String,
    /// What all documents are taken for; by their files' names if not given.
    pub kind: Option<Kind>,
    /// Largest document, in bytes; larger ones are left out and counted.
    pub largest: usize,
    /// Plain texts longer than this many bytes are cut, between paragraphs if possible. Code is never cut.
    pub piece: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { field: "text".into(), kind: None, largest: 64 << 20, piece: 256 << 10 }
    }
}

/// The files of a source.
#[derive(Debug, Default)]
pub struct Listing {
    /// Files that are read, in order.
    pub files: Vec<File>,
    /// Files that are not, with the reason.
    pub skipped: Vec<(String, Skip)>,
    /// Crates of the Cargo.lock whose sources are not on this machine.
    pub not_found: Vec<String>,
}

/// A file to read.
#[derive(Debug, Clone)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called in the collection: its path from where the source starts, the same on every machine.
    pub name: String,
    /// What is in it.
    pub format: Format,
    /// How it is packed.
    pub compression: Compression,
    /// Its size on disk.
    pub bytes: u64,
}

/// What a file yields, in order.
#[derive(Debug)]
pub enum Item {
    /// A document.
    Document(Raw),
    /// Something that is no document.
    Skipped(Skip),
}

/// Why something among the data is no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// Nothing but white space.
    Empty,
    /// No text.
    Binary,
    /// Larger than documents may be.
    TooLarge,
    /// A file whose name says nothing of its content.
    UnknownKind,
    /// A symbolic link.
    Link,
    /// A page that is neither HTML nor plain text, or an answer without a page.
    NoPage,
    /// A damaged file or record, where those are not to end the work.
    Damaged,
}

impl Skip {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Binary => "binary",
            Self::TooLarge => "too-large",
            Self::UnknownKind => "unknown-kind",
            Self::Link => "link",
            Self::NoPage => "no-page",
            Self::Damaged => "damaged",
        }
    }
}

/// A document as it was read, not yet text.
#[derive(Debug)]
pub struct Raw {
    /// Its bytes, and what they are.
    pub body: Body,
    /// The file it is from.
    pub path: String,
    /// The page it was.
    pub url: Option<String>,
    /// What it is.
    pub kind: Kind,
}

/// The bytes of a raw document.
#[derive(Debug)]
pub enum Body {
    /// Text in an encoding to be found out.
    Text(Vec<u8>),
    /// A line of JSONL, with its number.
    Json(Vec<u8>, u64),
    /// A web page, with the encoding that its server told.
    Html(Vec<u8>, Option<String>),
    /// Rust source, of which only the documentation counts.
    RustDocs(Vec<u8>),
}

/// A document as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The text.
    pub text: String,
    /// How many of its bytes were no UTF-8.
    pub damaged: usize,
    /// The file or record it is from.
    pub path: String,
    /// The page it was.
    pub url: Option<String>,
    /// Its language, where the record told.
    pub lang: Option<String>,
    /// What it is.
    pub kind: Kind,
}

impl Source {
    /// The documents in a file or folder, under its own name.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let full = path.canonicalize().unwrap_or_else(|_| path.clone());
        Self { name: kind::stem(&full), from: From::Path(path) }
    }

    /// Which files there are.
    pub fn list(&self) -> Result<Listing> {
        let listing = match &self.from {
            From::Path(path) => walk::list(path)?,
            From::Cargo(cargo, kind) => cargo.list(*kind)?,
        };
        if listing.files.is_empty() {
            let place = match &self.from {
                From::Path(path) => path.clone(),
                From::Cargo(cargo, _) => cargo.lock.clone(),
            };
            let what = match listing.not_found.is_empty() {
                true => "there is no text, Markdown, source code, JSONL, Parquet or WARC file in it".into(),
                false => format!(
                    "none of its crates is on this machine ({}): cargo fetch brings them",
                    listing.not_found.len()
                ),
            };
            return Err(Error::Unsupported { path: place, what });
        }
        Ok(listing)
    }
}

impl File {
    /// Streams the documents of the file to `each`. `progress` grows by the bytes that were read from disk.
    pub fn read(
        &self,
        options: &ReadOptions,
        progress: &AtomicU64,
        each: &mut dyn FnMut(Item) -> Result<()>,
    ) -> Result<()> {
        match self.format {
            Format::Plain(kind) => plain::read(self, options.kind.unwrap_or(kind), options, progress, each),
            Format::RustDocs => plain::read(self, Kind::Docs, options, progress, each),
            Format::JsonLines => jsonl::read(self, options, progress, each),
            Format::Warc => warc::read(self, options, progress, each),
            #[cfg(feature = "parquet")]
            Format::Parquet => parquet::read(self, options, progress, each),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => Err(Error::Unsupported {
                path: self.path.clone(),
                what: "this program was built without the feature `parquet`".into(),
            }),
        }
    }

    /// All of it as text.
    pub(crate) fn text(&self) -> Result<String> {
        let mut bytes = Vec::new();
        self.open(&AtomicU64::new(0))?.read_to_end(&mut bytes).map_err(Error::reading(&self.path))?;
        Ok(decode(bytes).0)
    }

    /// Its content, unpacked.
    fn open<'p>(&self, progress: &'p AtomicU64) -> Result<Box<dyn io::BufRead + 'p>> {
        compressed::open(&self.path, self.compression, progress)
    }
}

impl Raw {
    /// Makes text of it; nothing if it is empty.
    pub fn open(self, options: &ReadOptions) -> Result<Option<Opened>> {
        let Self { body, path, url, kind } = self;
        let plain = |(text, damaged), path| Opened { text, damaged, path, url, lang: None, kind };
        let opened = match body {
            Body::Text(bytes) => plain(decode(bytes), path),
            Body::Html(bytes, charset) => plain((html_text(&bytes, charset.as_deref()), 0), path),
            Body::RustDocs(bytes) => {
                let (text, damaged) = decode(bytes);
                plain((rust_docs(&text), damaged), path)
            }
            Body::Json(line, number) => jsonl::open(&line, number, path, options, kind)?,
        };
        Ok(Some(opened).filter(|opened| !opened.text.trim_ascii().is_empty()))
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        match &self.body {
            Body::Text(bytes) | Body::Json(bytes, _) | Body::Html(bytes, _) | Body::RustDocs(bytes) => bytes.len(),
        }
    }
}

/// A reader that counts.
struct Counted<'p, R> {
    inner: R,
    progress: &'p AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// A path with `/` between its parts on every system.
fn portable(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

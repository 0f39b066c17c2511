//! `collection.json`: what was read, dropped and kept. It says nothing of times, machines or absolute paths, so that
//! the same input gives the same file.

use super::{Error, Result};
use crate::sources::Skip;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The version of this form.
pub(super) const FORMAT: u32 = 1;

/// The file's name.
pub(super) const FILE: &str = "collection.json";

/// Names that are listed of a kind of skipped files; the count goes on.
const NAMED: usize = 10;

/// The account of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form: 1.
    pub format: u32,
    /// What was asked for.
    pub settings: Settings,
    /// The sources in order.
    pub sources: Vec<Account>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Field or column of the text.
    pub field: String,
    /// What all documents were taken for, if they were.
    pub kind: Option<String>,
    /// Bytes of the largest document.
    pub largest_document: u64,
    /// Bytes of the pieces of long texts.
    pub piece: u64,
    /// Filters in order.
    pub filters: Vec<String>,
    /// Scripts that were kept; empty: any.
    pub scripts: Vec<String>,
    /// Whether copies were dropped.
    pub exact: bool,
    /// Whether near copies were dropped.
    pub near: bool,
    /// Names of the evaluation files.
    pub decontaminate: Vec<String>,
    /// Texts in them.
    pub evaluation_texts: u64,
    /// Those of them that were too short to compare with.
    pub evaluation_texts_too_short: u64,
    /// Whether damaged records were left out.
    pub skip_damaged: bool,
    /// Bytes of a shard.
    pub shard_bytes: u64,
}

/// The account of a source. `read` is what was kept and all that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name and folder.
    pub name: String,
    /// Files that were read.
    pub files: u64,
    /// Documents that were read.
    pub read: Count,
    /// What was no document, by reason.
    pub skipped: BTreeMap<Skip, Skips>,
    /// Crates that are not on this machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_found: Vec<String>,
    /// What filters changed.
    pub mended: Vec<Mended>,
    /// What filters and the search for copies dropped, in the order in which they were asked.
    pub dropped: Vec<Dropped>,
    /// Documents that stayed.
    pub kept: Count,
    /// The files that they are in.
    pub shards: Vec<Shard>,
}

/// Things that are no documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skips {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

/// A number of documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many.
    pub documents: u64,
    /// Bytes of their text in UTF-8.
    pub bytes: u64,
}

impl Count {
    /// One more.
    pub(super) fn add(&mut self, bytes: usize) {
        self.documents += 1;
        self.bytes += bytes as u64;
    }
}

/// What one filter changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// The filter.
    pub filter: String,
    /// How many documents.
    pub documents: u64,
}

/// What one filter dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The filter.
    pub filter: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
    /// How many documents for which reason.
    pub reasons: BTreeMap<String, u64>,
}

/// A file of documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its path in the collection.
    pub file: String,
    /// The documents in it.
    #[serde(flatten)]
    pub count: Count,
    /// Its size on disk.
    pub compressed: u64,
    /// Its hash.
    pub sha256: String,
}

impl Account {
    /// Nothing yet. `judges` are the names of all who may drop documents.
    pub(super) fn new(name: &str, judges: &[&str]) -> Self {
        let dropped =
            |name: &&str| Dropped { filter: (*name).to_owned(), count: Count::default(), reasons: BTreeMap::new() };
        Self {
            name: name.to_owned(),
            files: 0,
            read: Count::default(),
            skipped: BTreeMap::new(),
            not_found: Vec::new(),
            mended: Vec::new(),
            dropped: judges.iter().map(dropped).collect(),
            kept: Count::default(),
            shards: Vec::new(),
        }
    }

    /// Counts what is no document.
    pub(super) fn skip(&mut self, why: Skip, name: &str) {
        let skips = self.skipped.entry(why).or_default();
        skips.count += 1;
        if skips.first.len() < NAMED {
            skips.first.push(name.to_owned());
        }
    }

    /// Counts a dropped document.
    pub(super) fn drop(&mut self, filter: &str, reason: &str, bytes: usize) {
        if let Some(dropped) = self.dropped.iter_mut().find(|dropped| dropped.filter == filter) {
            dropped.count.add(bytes);
            *dropped.reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }

    /// Counts a changed document.
    pub(super) fn mend(&mut self, filter: &str) {
        match self.mended.iter_mut().find(|mended| mended.filter == filter) {
            Some(mended) => mended.documents += 1,
            None => self.mended.push(Mended { filter: filter.to_owned(), documents: 1 }),
        }
    }
}

impl Manifest {
    /// Reads the account of a collection.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let what = format!("it is no collection: there is no {FILE} in it (lyceum data collect makes one)");
                return Err(Error::Unsupported { path: folder.to_owned(), what });
            }
            text => text.map_err(Error::io("read", &path))?,
        };
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| Error::damaged(path.display(), error))?;
        match manifest.format {
            FORMAT => Ok(manifest),
            other => {
                Err(Error::Unsupported { path, what: format!("its form is number {other}; only {FORMAT} is known") })
            }
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::io("write", &path)(error.into()))?;
        fs::write(&path, text + "\n").map_err(Error::io("write", &path))
    }
}

//! The first documents that each filter dropped, to look at.

use super::shards::Document;
use super::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where they are in a collection.
pub(super) const FOLDER: &str = "samples";

/// Bytes that are kept of a text.
const LONGEST: usize = 8 << 10;

/// A document that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Why.
    pub reason: String,
    /// What it shares with an evaluation text, or the document that it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The document, its text cut if it is long.
    #[serde(flatten)]
    pub document: Document,
}

/// Samples by filter.
pub(super) struct Samples {
    most: usize,
    by_filter: BTreeMap<String, Vec<Sample>>,
}

impl Samples {
    pub(super) fn new(most: usize) -> Self {
        Self { most, by_filter: BTreeMap::new() }
    }

    /// Whether a filter has room for more.
    pub(super) fn want(&self, filter: &str) -> bool {
        self.by_filter.get(filter).map_or(0, Vec::len) < self.most
    }

    pub(super) fn add(&mut self, filter: &str, mut sample: Sample) {
        if self.want(filter) {
            let text = &mut sample.document.text;
            text.truncate(text.floor_char_boundary(LONGEST));
            self.by_filter.entry(filter.to_owned()).or_default().push(sample);
        }
    }

    /// Writes a file per filter.
    pub(super) fn write(&self, collection: &Path) -> Result<()> {
        let folder = collection.join(FOLDER);
        if !self.by_filter.is_empty() {
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        }
        for (filter, samples) in &self.by_filter {
            let path = folder.join(file_name(filter));
            let lines: Result<Vec<_>, _> = samples.iter().map(serde_json::to_string).collect();
            let text = lines.map(|lines| lines.join("\n") + "\n");
            let text = text.map_err(|error| Error::io("write", &path)(error.into()))?;
            fs::write(&path, text).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }
}

fn file_name(filter: &str) -> String {
    format!("{filter}.jsonl")
}

/// The samples of a filter; none if it dropped nothing.
pub(super) fn read(collection: &Path, filter: &str) -> Result<Vec<Sample>> {
    let path = collection.join(FOLDER).join(file_name(filter));
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(Error::io("read", &path))?,
    };
    let samples: Result<Vec<_>, _> = text.lines().map(serde_json::from_str).collect();
    samples.map_err(|error| Error::damaged(path.display(), error))
}

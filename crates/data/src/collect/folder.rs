//! The folder of a collection.

use super::manifest::{Account, Manifest};
use super::samples::{self, Sample};
use super::shards::{self, Document, ShardReader};
use super::{Error, Result, droppers};
use std::fs;
use std::path::{Path, PathBuf};

/// Collected documents: a folder per source with shards of JSONL, packed by zstd, and the account of them.
#[derive(Debug, Clone)]
pub struct Collection {
    folder: PathBuf,
    manifest: Manifest,
}

impl Collection {
    /// Opens a collection.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let manifest = Manifest::read(&folder)?;
        Ok(Self { folder, manifest })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The account of it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The account of one source.
    pub fn source(&self, name: &str) -> Result<&Account> {
        let sources = &self.manifest.sources;
        sources.iter().find(|source| source.name == name).ok_or_else(|| {
            let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
            let what = format!("it has no source {name:?}; it has {}", names.join(", "));
            Error::Unsupported { path: self.folder.clone(), what }
        })
    }

    /// The documents of a source, in order.
    pub fn documents(&self, source: &str) -> Result<Documents> {
        let mut shards: Vec<_> =
            self.source(source)?.shards.iter().map(|shard| self.folder.join(&shard.file)).collect();
        shards.reverse();
        Ok(Documents { shards, open: None })
    }

    /// The first documents that a filter dropped.
    pub fn samples(&self, filter: &str) -> Result<Vec<Sample>> {
        if !droppers().any(|name| name == filter) {
            let names: Vec<_> = droppers().collect();
            return Err(Error::Options(format!("there is no filter {filter:?}; there are {}", names.join(", "))));
        }
        samples::read(&self.folder, filter)
    }

    /// Checks every shard against its hash.
    pub fn verify(&self) -> Result<()> {
        for shard in self.manifest.sources.iter().flat_map(|source| &source.shards) {
            let path = self.folder.join(&shard.file);
            if shards::sha256(&path)? != shard.sha256 {
                return Err(Error::damaged(path.display(), "its hash is not that in collection.json"));
            }
        }
        Ok(())
    }
}

/// Documents, one after the other.
pub struct Documents {
    /// Shards that are still to be read, the next one last.
    shards: Vec<PathBuf>,
    open: Option<ShardReader>,
}

impl Documents {
    fn step(&mut self) -> Result<Option<Document>> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(line) = open.line() {
                    return open.parse(&line?).map(Some);
                }
                self.open = None;
            }
            let Some(path) = self.shards.pop() else { return Ok(None) };
            self.open = Some(ShardReader::open(path)?);
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        let step = self.step();
        if step.is_err() {
            (self.shards, self.open) = (Vec::new(), None);
        }
        step.transpose()
    }
}

/// A place for a collection: it is made beside, and moved there when it is complete.
pub(super) struct Place {
    out: PathBuf,
    work: PathBuf,
    is_done: bool,
}

impl Place {
    /// Checks the place before any work is done. What is there is replaced only if it may be, and is a collection.
    pub(super) fn new(out: &Path, replace: bool) -> Result<Self> {
        let name =
            out.file_name().ok_or_else(|| Error::Options(format!("{} names no folder to write", out.display())))?;
        if !is_free(out)? {
            if !replace {
                return Err(Error::Exists(out.to_owned()));
            }
            Manifest::read(out)?;
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        let work = out.with_file_name(hidden);
        if work.exists() {
            // What a run that was killed has left.
            fs::remove_dir_all(&work).map_err(Error::io("remove", &work))?;
        }
        fs::create_dir_all(&work).map_err(Error::io("create", &work))?;
        Ok(Self { out: out.to_owned(), work, is_done: false })
    }

    /// Where it is made.
    pub(super) fn work(&self) -> &Path {
        &self.work
    }

    /// Puts it into its place.
    pub(super) fn finish(mut self) -> Result<Collection> {
        if self.out.exists() {
            fs::remove_dir_all(&self.out).map_err(Error::io("remove", &self.out))?;
        }
        fs::rename(&self.work, &self.out).map_err(Error::io("create", &self.out))?;
        self.is_done = true;
        Collection::open(&self.out)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_dir_all(&self.work);
        }
    }
}

fn is_free(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("read", folder)(error)),
    }
}

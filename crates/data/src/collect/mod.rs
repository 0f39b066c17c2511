//! From files to a collection: read, judge, compare, write.
//!
//! One thread reads, all judge (`pipeline`), one writes (`writer`); documents keep their order throughout, so
//! the result does not depend on the number of threads. What is in memory is a few batches of documents and what
//! [`crate::dedup::Index`] was allowed.

mod error;
mod folder;
mod manifest;
mod pipeline;
mod samples;
mod shards;
mod writer;

pub use error::{Error, Result};
pub use folder::{Collection, Documents};
pub use manifest::{Account, Count, Dropped, Manifest, Mended, Settings, Shard};
pub use samples::Sample;
pub use shards::Document;

use crate::decontaminate::Evaluation;
use crate::dedup::Copies;
use crate::filters::{self, Chain, RULES};
use crate::sources::{File, Listing, ReadOptions, Skip, Source};
use folder::Place;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use writer::Writer;

/// What to do with what was read.
#[derive(Debug, Clone)]
pub struct Options {
    /// How to read.
    pub read: ReadOptions,
    /// Filters by name; those that run by default if not given.
    pub filters: Option<Vec<String>>,
    /// Scripts of the letters to keep, by their Unicode names; empty: any.
    pub scripts: Vec<String>,
    /// Copies to drop.
    pub copies: Copies,
    /// Files with evaluation texts, which documents must not share text with.
    pub decontaminate: Vec<PathBuf>,
    /// Leave out damaged files and records and count them, instead of ending with an error.
    pub skip_damaged: bool,
    /// Replace a collection that is there already.
    pub replace: bool,
    /// Bytes of a shard, before compression.
    pub shard_bytes: u64,
    /// Bytes of memory for the hashes that copies are found by.
    pub memory: usize,
    /// Documents to show of those that each filter dropped.
    pub samples: usize,
    /// Threads; as many as the machine runs at once if not given.
    pub threads: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read: ReadOptions::default(),
            filters: None,
            scripts: Vec::new(),
            copies: Copies { exact: true, near: true },
            decontaminate: Vec::new(),
            skip_damaged: false,
            replace: false,
            shard_bytes: 64 << 20,
            memory: 1 << 30,
            samples: 20,
            threads: None,
        }
    }
}

/// What the work is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading and judging; counted in bytes on disk.
    Reading,
    /// Looking for copies; counted in hashes.
    Comparing,
    /// Leaving out the copies; counted in documents.
    Writing,
}

/// Whoever wants to know how far the work is.
pub trait Watch: Sync {
    /// So much of a stage is done.
    fn at(&self, stage: Stage, done: u64, total: u64);
}

impl<F: Fn(Stage, u64, u64) + Sync> Watch for F {
    fn at(&self, stage: Stage, done: u64, total: u64) {
        self(stage, done, total);
    }
}

/// Collects documents into the folder `out`, which appears when it is complete.
pub fn collect(sources: &[Source], out: &Path, options: &Options, watch: &dyn Watch) -> Result<Collection> {
    check(sources, options)?;
    let judges = Judges::new(options)?;
    let place = Place::new(out, options.replace)?;
    let listings = sources.iter().map(Source::list).collect::<Result<Vec<_>>>()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build();
    let pool = pool.map_err(|error| Error::Options(format!("cannot start threads: {error}")))?;

    let accounts = accounts(sources, &listings, &judges);
    let files: Vec<_> =
        listings.iter().enumerate().flat_map(|(source, l)| l.files.iter().map(move |f| (source, f))).collect();
    let mut writer = Writer::new(place.work(), accounts, options)?;
    pool.install(|| pipeline::run(&files, sources, &judges, options, watch, &mut writer))?;
    let accounts = pool.install(|| writer.finish(watch))?;
    let manifest = Manifest { format: manifest::FORMAT, settings: settings(&judges, options), sources: accounts };
    manifest.write(place.work())?;
    place.finish()
}

/// Refuses what cannot work before anything is read.
fn check(sources: &[Source], options: &Options) -> Result<()> {
    if sources.is_empty() {
        return Err(Error::Options("there is nothing to collect: name files or folders".into()));
    }
    let mut names = BTreeSet::new();
    for Source { name, .. } in sources {
        let is_plain = !name.starts_with('.') && name.chars().all(|c| c.is_alphanumeric() || "-_. +@".contains(c));
        if name.is_empty() || !is_plain || name == samples::FOLDER {
            return Err(Error::Options(format!("{name:?} cannot name a source: use letters, digits, -, _ and .")));
        }
        if !names.insert(name.to_lowercase()) {
            return Err(Error::Options(format!("two sources are called {name:?}: name one of them with NAME=PATH")));
        }
    }
    let sizes = [
        ("shard", options.shard_bytes),
        ("piece", options.read.piece as u64),
        ("document", options.read.largest as u64),
    ];
    match sizes.into_iter().find(|(_, bytes)| *bytes < 1024) {
        Some((what, bytes)) => Err(Error::Options(format!("a {what} of {bytes} bytes is too small: at least 1024"))),
        None => Ok(()),
    }
}

/// Whoever says which documents stay.
struct Judges {
    chain: Chain,
    evaluation: Evaluation,
    copies: Copies,
}

/// What drops documents beside the filters.
const CONTAMINATED: &str = "decontaminate";
const EXACT: &str = "exact";
const NEAR: &str = "near";

impl Judges {
    fn new(options: &Options) -> Result<Self> {
        let scripts = options.scripts.iter().map(|name| filters::script(name)).collect::<Result<Vec<_>>>()?;
        let settings = filters::Settings { scripts };
        let chain = match &options.filters {
            Some(names) => Chain::named(names, &settings)?,
            None => Chain::new(|rule| rule.by_default, &settings),
        };
        if !options.scripts.is_empty() && !chain.rules().any(|rule| rule.name == "script") {
            return Err(Error::Options("scripts are given, but the filter \"script\" is not among the filters".into()));
        }
        Ok(Self { chain, evaluation: Evaluation::open(&options.decontaminate)?, copies: options.copies })
    }

    /// The names of all that may drop a document, the chain's filters first and in its order.
    fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.chain.rules().map(|rule| rule.name).collect();
        let others =
            [(!self.evaluation.is_empty(), CONTAMINATED), (self.copies.exact, EXACT), (self.copies.near, NEAR)];
        names.extend(others.into_iter().filter(|(is_used, _)| *is_used).map(|(_, name)| name));
        names
    }
}

/// The names of everything that can drop documents, for whoever wants to look at what it dropped.
pub fn droppers() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.name).chain([CONTAMINATED, EXACT, NEAR])
}

/// An account for each source, with what its listing tells.
fn accounts(sources: &[Source], listings: &[Listing], judges: &Judges) -> Vec<Account> {
    let pairs = sources.iter().zip(listings);
    pairs
        .map(|(source, listing)| {
            let mut account = Account::new(&source.name, &judges.names());
            account.not_found = listing.not_found.clone();
            account.files = listing.files.len() as u64;
            for (name, why) in &listing.skipped {
                account.skip(*why, name);
            }
            account
        })
        .collect()
}

fn settings(judges: &Judges, options: &Options) -> Settings {
    let files = options.decontaminate.iter().filter_map(|path| path.file_name());
    Settings {
        field: options.read.field.clone(),
        kind: options.read.kind.map(|kind| kind.name().to_owned()),
        largest_document: options.read.largest as u64,
        piece: options.read.piece as u64,
        filters: judges.chain.rules().map(|rule| rule.name.to_owned()).collect(),
        scripts: options.scripts.clone(),
        exact: options.copies.exact,
        near: options.copies.near,
        decontaminate: files.map(|name| name.to_string_lossy().into_owned()).collect(),
        evaluation_texts: judges.evaluation.texts,
        evaluation_texts_too_short: judges.evaluation.short,
        skip_damaged: options.skip_damaged,
        shard_bytes: options.shard_bytes,
    }
}

/// A file, and the number of the source that it belongs to.
type Task<'f> = (usize, &'f File);

/// Counts what is no document.
type Skipped = (Skip, String);

//! `lyceum data collect`.

use super::{explain, report};
use crate::failure::misuse;
use crate::output;
use crate::progress::Bars;
use clap::Args;
use data::collect::{self, Collection, Options};
use data::corpus::Step;
use data::dedup::Copies;
use data::filters::RULES;
use data::sources::{Cargo, From, Kind, ReadOptions, Source};
use miette::{IntoDiagnostic, Result, miette};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Gather documents, leave out what is not worth learning from, and say what went
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    lyceum data collect notes/ books.jsonl.zst --out corpus\n  \
    lyceum data collect --cargo --out crates\n  \
    lyceum data collect web=crawl.warc.gz --filters utf8,c4,gopher-quality --decontaminate gsm8k-test.jsonl --out web")]
pub struct Collect {
    /// Files and folders: text, Markdown, source code, JSONL, Parquet, WARC, also as .gz or .zst; each is a source, NAME=PATH
    /// names it
    #[arg(value_name = "[NAME=]PATH", required_unless_present = "cargo")]
    paths: Vec<String>,

    /// Folder for the collection
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Also the crates of a Cargo.lock (the one here if not given), as cargo has unpacked them on this machine: the
    /// sources `code` and `docs`
    #[arg(long, value_name = "LOCK", num_args = 0..=1, require_equals = true, default_missing_value = "Cargo.lock")]
    cargo: Option<PathBuf>,

    /// Take all documents for text, docs or code; by the names of their files if not given
    #[arg(long, value_name = "KIND")]
    profile: Option<Kind>,

    /// Filters by name, with commas between, or none; the usual ones if not given (lyceum data inspect --filters tells)
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    filters: Option<Vec<String>>,

    /// Leave off these of the usual filters
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "filters")]
    without: Vec<String>,

    /// Keep documents in these scripts only, by their Unicode names: Latin,Greek
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    scripts: Vec<String>,

    /// Copies to leave out: exact, near, or none
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "exact,near")]
    dedup: Vec<String>,

    /// Leave out documents that share 13 words in a row with this file of evaluation texts; may be given several times
    #[arg(long, value_name = "FILE")]
    decontaminate: Vec<PathBuf>,

    /// Field of JSONL records, or column of Parquet files, that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,

    /// Leave out damaged files and records and count them, instead of ending
    #[arg(long)]
    skip_damaged: bool,

    /// Replace the collection that is there
    #[arg(long)]
    replace: bool,

    /// Bytes of a shard before compression, in MB
    #[arg(long, value_name = "MB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65536))]
    shard_size: u64,

    /// Memory for finding copies, in MB; what does not fit goes through files
    #[arg(long, value_name = "MB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    memory: u64,

    /// Documents to keep, to look at, of those that each filter dropped
    #[arg(long, value_name = "N", default_value_t = 20)]
    samples: usize,

    /// Threads; all that the machine runs at once if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Collect {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let sources = self.sources()?;
        let options = self.options()?;
        let start = Instant::now();
        let bars = Bars::default();
        let watch = |stage, done, total| bars.set(Step::Collecting(stage), done, total);
        let collection = collect::collect(&sources, &self.out, &options, &watch).map_err(explain)?;
        drop(bars);
        if self.json {
            return self.print_json(&collection, start.elapsed().as_secs_f64());
        }
        output::facts(&report::rows(&collection))
    }

    fn sources(&self) -> Result<Vec<Source>> {
        let mut sources: Vec<_> = self.paths.iter().map(|path| source(path)).collect();
        if let Some(lock) = &self.cargo {
            if !lock.is_file() {
                return Err(miette!(help = "name one with --cargo=PATH", "--cargo finds no {}", lock.display()));
            }
            let cargo = Cargo::new(lock).map_err(explain)?;
            let part = |kind: Kind| Source { name: kind.name().into(), from: From::Cargo(cargo.clone(), kind) };
            sources.extend([part(Kind::Code), part(Kind::Docs)]);
        }
        Ok(sources)
    }

    fn options(&self) -> Result<Options> {
        Ok(Options {
            read: ReadOptions { field: self.text_field.clone(), kind: self.profile, ..ReadOptions::default() },
            filters: self.filters()?,
            scripts: self.scripts.clone(),
            copies: self.copies()?,
            decontaminate: self.decontaminate.clone(),
            skip_damaged: self.skip_damaged,
            replace: self.replace,
            shard_bytes: self.shard_size << 20,
            memory: usize::try_from(self.memory << 20).unwrap_or(usize::MAX),
            samples: self.samples,
            threads: self.threads.map(usize::from),
        })
    }

    fn filters(&self) -> Result<Option<Vec<String>>> {
        for name in &self.without {
            data::filters::rule(name).map_err(explain)?;
        }
        Ok(match &self.filters {
            Some(names) if is_none(names) => Some(Vec::new()),
            Some(names) => Some(names.clone()),
            None if self.without.is_empty() => None,
            None => {
                let usual = RULES.iter().filter(|rule| rule.by_default).map(|rule| rule.name.to_owned());
                Some(usual.filter(|name| !self.without.contains(name)).collect())
            }
        })
    }

    fn copies(&self) -> Result<Copies> {
        let mut copies = Copies { exact: false, near: false };
        if is_none(&self.dedup) {
            return Ok(copies);
        }
        for name in &self.dedup {
            match name.as_str() {
                "exact" => copies.exact = true,
                "near" => copies.near = true,
                other => return Err(misuse(format!("--dedup {other}: there are exact, near and none"))),
            }
        }
        Ok(copies)
    }

    fn print_json(&self, collection: &Collection, seconds: f64) -> Result<()> {
        let manifest = serde_json::to_value(collection.manifest()).into_diagnostic()?;
        let mut object = json!({ "collection": self.out, "seconds": seconds });
        if let (Some(object), serde_json::Value::Object(manifest)) = (object.as_object_mut(), manifest) {
            object.extend(manifest);
        }
        output::json(&object)
    }
}

fn is_none(names: &[String]) -> bool {
    names.len() == 1 && names[0] == "none"
}

/// `NAME=PATH` or a path. A file that has such a name is meant itself.
fn source(argument: &str) -> Source {
    match argument.split_once('=') {
        Some((name, path)) if !Path::new(argument).exists() => {
            Source { name: name.to_owned(), from: From::Path(path.into()) }
        }
        _ => Source::path(argument),
    }
}

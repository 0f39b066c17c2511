//! `lyceum data stats`: what there is to learn from, and what a run has seen of it.

use crate::failure::misuse;
use crate::output;
use clap::Args;
use data::{Ledger, ShardSet, SourceLedger};
use miette::{Context, IntoDiagnostic, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use spec::recipe::DataRecipe;
use std::path::{Path, PathBuf};

/// Count documents and tokens of shards, and what a run has seen of them
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum data stats recipes/demo.toml --run runs/demo")]
pub struct Stats {
    /// Folder of shards, folder of such folders, or recipe (.toml) that names them
    data: PathBuf,

    /// Folder of a run, whose ledger says what was seen
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,

    /// Read everything and compare the checksums
    #[arg(long)]
    verify: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The part of a recipe that is looked at here.
#[derive(Deserialize)]
struct Recipe {
    data: DataRecipe,
}

impl Stats {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let sets = open(&self.data)?;
        if self.verify {
            sets.iter().try_for_each(|set| set.verify().into_diagnostic())?;
        }
        let Some(run) = &self.run else {
            return print(&sets, self.json);
        };
        let ledger = read_ledger(run)?;
        if self.json {
            let ledger = serde_json::to_value(&ledger).into_diagnostic()?;
            return output::json(&json!({ "sources": facts(&sets), "ledger": ledger }));
        }
        print(&sets, false)?;
        output::line(&format!("\nSeen in {} samples:", ledger.samples))?;
        output::facts(&ledger.sources.iter().map(seen).collect::<Vec<_>>())
    }
}

/// Prints what shards hold.
pub fn print(sets: &[ShardSet], as_json: bool) -> Result<()> {
    if as_json {
        return output::json(&json!({ "sources": facts(sets) }));
    }
    output::facts(&sets.iter().map(row).collect::<Vec<_>>())
}

fn open(path: &Path) -> Result<Vec<ShardSet>> {
    let folders = if path.extension().is_some_and(|extension| extension == "toml") {
        let base = path.parent().unwrap_or(Path::new(""));
        recipe(path)?.sources.iter().map(|source| data::paths::join(base, &source.path)).collect()
    } else if path.join("index.json").is_file() {
        vec![path.to_path_buf()]
    } else {
        folders_in(path)?
    };
    folders.iter().map(|folder| ShardSet::open(folder).into_diagnostic()).collect()
}

fn recipe(path: &Path) -> Result<DataRecipe> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).into_diagnostic().wrap_err_with(name)?;
    let mut recipe: Recipe = toml::from_str(&text).into_diagnostic().wrap_err_with(name)?;
    recipe.data.find_shards();
    recipe.data.validate().into_diagnostic().wrap_err_with(name)?;
    Ok(recipe.data)
}

/// The folders of shards in a folder, by name.
fn folders_in(path: &Path) -> Result<Vec<PathBuf>> {
    let name = || path.display().to_string();
    let entries = std::fs::read_dir(path).into_diagnostic().wrap_err_with(name)?;
    let entries = entries.map(|entry| Ok(entry.into_diagnostic()?.path())).collect::<Result<Vec<_>>>()?;
    let mut folders: Vec<_> = entries.into_iter().filter(|entry| entry.join("index.json").is_file()).collect();
    folders.sort();
    if folders.is_empty() {
        return Err(misuse(format!("{} holds no shards: make them with `lyceum data prepare`", path.display())));
    }
    Ok(folders)
}

fn read_ledger(run: &Path) -> Result<Ledger> {
    let path = run.join("ledger.json");
    let json = std::fs::read(&path).into_diagnostic().wrap_err_with(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&json).into_diagnostic().wrap_err_with(|| format!("{} is no ledger", path.display()))
}

fn row(set: &ShardSet) -> (String, String) {
    let (train, held_out) = (set.train(), set.held_out());
    let per_token = train.text_bytes() as f64 / train.tokens().max(1) as f64;
    let text = format!(
        "{} tokens in {} documents, {} of text, {per_token:.2} bytes per token; held out {} tokens in {} documents",
        train.tokens(),
        train.documents(),
        output::bytes(train.text_bytes()),
        held_out.tokens(),
        held_out.documents(),
    );
    (set.source().into(), text)
}

fn facts(sets: &[ShardSet]) -> Vec<Value> {
    let part = |corpus: &data::shards::Corpus| {
        json!({
            "documents": corpus.documents(), "tokens": corpus.tokens(), "text_bytes": corpus.text_bytes(),
        })
    };
    let facts = |set: &ShardSet| {
        json!({
            "source": set.source(),
            "folder": set.folder(),
            "tokenizer": set.tokenizer(),
            "train": part(set.train()),
            "held_out": part(set.held_out()),
        })
    };
    sets.iter().map(facts).collect()
}

fn seen(source: &SourceLedger) -> (String, String) {
    let text = format!(
        "{} tokens in {} samples, {:.3} epochs; {} of {} tokens at least once",
        source.tokens, source.samples, source.epochs, source.unique_tokens, source.available_tokens
    );
    (source.name.clone(), text)
}

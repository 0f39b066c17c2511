//! What a run was and what became of it, from the files that it wrote: curves, the experts' loads, and where its time went.
//!
//! Reading needs no lock: a run may go on meanwhile, and a line that is not whole is left out and counted.

mod charts;
mod lines;
pub mod page;
mod stages;
pub mod steps;
pub mod thinned;
pub mod time;

pub use stages::{StagePage, write_stages};
pub use steps::Log;
pub use time::{Parts, Timing};

use crate::{TrainError, files};
use data::Ledger;
use spec::recipe::Recipe;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Everything that a run's folder tells.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it learned.
    pub log: Log,
    /// What its clock says.
    pub timing: Timing,
    /// Its recipe, as it was followed last.
    pub recipe: Option<Recipe>,
    /// The text of the same.
    pub recipe_text: String,
    /// What was seen of each source, as of the last checkpoint.
    pub ledger: Option<Ledger>,
    /// Lines that a kill has cut off.
    pub broken_lines: u64,
}

impl Report {
    /// Reads the folder of a run.
    ///
    /// # Errors
    /// A folder that holds no run, or what cannot be read.
    pub fn read(run: &Path) -> Result<Self, TrainError> {
        let path = run.join("recipe.toml");
        let recipe_text = match read_if_there(&path)? {
            Some(text) => text,
            None => return Err(TrainError::NoRun { run: run.to_owned() }),
        };
        let recipe = Recipe::parse(&recipe_text, &[]).map_err(|e| TrainError::damaged(&path, e.to_string()))?;
        let path = run.join("ledger.json");
        let ledger = read_if_there(&path)?.map(|text| serde_json::from_str(&text)).transpose();
        let ledger = ledger.map_err(|e| TrainError::damaged(&path, e.to_string()))?;
        let (mut log, mut timing) = (Log::default(), Timing::default());
        let broken_lines = lines::for_each(&run.join("log.jsonl"), &mut |entry| log.push(entry))?
            + lines::for_each(&run.join("timing.jsonl"), &mut |entry| timing.push(&entry))?;
        Ok(Self { log, timing, recipe: Some(recipe), recipe_text, ledger, broken_lines })
    }
}

/// Writes the page of a run into its folder, with what an hour of its machine costs, and says where.
///
/// # Errors
/// A folder that holds no run, or what cannot be read or written.
pub fn write(run: &Path, price: f64) -> Result<(Report, PathBuf), TrainError> {
    let report = Report::read(run)?;
    let path = run.join("report.html");
    files::replace(&path, page::render(&report, &name(run), price).as_bytes())?;
    Ok((report, path))
}

/// What a run is called: as its folder.
fn name(run: &Path) -> String {
    let whole = fs::canonicalize(run).unwrap_or_else(|_| run.to_owned());
    whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned()
}

fn read_if_there(path: &Path) -> Result<Option<String>, TrainError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(TrainError::io("read", path)),
    }
}

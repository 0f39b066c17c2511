//! Checkpoints: a run's folder of them, each a model that others can open, with what it takes to go on exactly.
//!
//! `checkpoints/step-N/` holds `config.json`, `model.safetensors` and the tokeniser's files; `optimiser/first` and `optimiser/second`, folders of the
//! same layout and the same names with the optimiser's moments; `state.json`; and `manifest.json` with a checksum of every file. It is
//! written beside, waited for, and renamed: a folder of this name is whole.

mod manifest;

pub(crate) use manifest::digest;

use crate::files::{sync_folder, write_synced};
use crate::statistics::Running;
use crate::{Optimiser, TrainError, failpoint};
use data::Ledger;
use model::files::{copy_companion_files, write_parameters};
use model::{Checkpoint, Decoder, LoadOptions, Parameters};
use serde::{Deserialize, Serialize};
use spec::ParameterTable;
use spec::recipe::Recipe;
use std::path::{Path, PathBuf};
use std::{fs, io};
use tensor::{Device, Format};

/// Everything but the tensors that decides how a run goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Steps done, skipped ones too.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Samples seen: where in the data the run stands.
    pub samples: u64,
    /// Updates of the weights.
    pub updates: u64,
    /// The step of the last of them; its numbers were trusted, those of its weights are not known yet.
    pub trusted: u64,
    /// Steps since then whose numbers could not be trusted.
    pub skipped: u64,
    /// What losses were like.
    pub loss: Running,
    /// What gradients' norms were like.
    pub gradient_norm: Running,
    /// Length of the log.
    pub log_bytes: u64,
    /// What was seen of each source.
    pub ledger: Ledger,
    /// The recipe as it was followed.
    pub recipe: Recipe,
    /// The checksum of the model that a stage went on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_from: Option<String>,
}

/// What a checkpoint is written from. The tensors must not change until it is.
pub struct Contents<'a> {
    /// The text of `config.json`.
    pub config: &'a str,
    /// The names of the parameters.
    pub table: &'a ParameterTable,
    /// Where the tokeniser's files are.
    pub tokenizer: &'a Path,
    /// The weights.
    pub decoder: &'a Decoder,
    /// The optimiser's state.
    pub optimiser: &'a Optimiser,
}

/// The checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Those below a run's folder; what an interrupted program has left unfinished is removed.
    ///
    /// # Errors
    /// A folder that cannot be made or read.
    pub fn open(run: &Path) -> Result<Self, TrainError> {
        let folder = run.join("checkpoints");
        fs::create_dir_all(&folder).map_err(TrainError::io("create", &folder))?;
        let checkpoints = Self { folder };
        for name in checkpoints.names()? {
            if name.starts_with('.') && (name.ends_with(".partial") || name.ends_with(".old")) {
                let path = checkpoints.folder.join(name);
                fs::remove_dir_all(&path).map_err(TrainError::io("remove", &path))?;
            }
        }
        Ok(checkpoints)
    }

    /// Those below a run's folder, to look at only.
    pub fn there(run: &Path) -> Self {
        Self { folder: run.join("checkpoints") }
    }

    /// Where the checkpoint of a step is.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step}"))
    }

    /// Writes a checkpoint. If that fails, the others are as they were.
    ///
    /// # Errors
    /// What the system or the files refuse; weights that are not finite.
    pub fn write(&self, contents: &Contents<'_>, state: &State) -> Result<(), TrainError> {
        let partial = self.folder.join(format!(".step-{}.partial", state.step));
        let done = remove(&partial).and_then(|()| contents.fill(&partial, state)).and_then(|()| {
            let path = self.path(state.step);
            failpoint::pass("rename").map_err(TrainError::io("write", &path))?;
            // Only a checkpoint that could not be made certain is there already.
            remove(&path)?;
            fs::rename(&partial, &path).map_err(TrainError::io("create", &path))?;
            failpoint::pass("renamed").map_err(TrainError::io("write", &path))?;
            sync_folder(&self.folder)
        });
        if done.is_err() {
            // What is left would take the room that the next attempt needs; a failure to remove it is not the news.
            let _ = remove(&partial);
        }
        done
    }

    /// The newest whole checkpoint. One that is not whole is set aside under another name, and `note` is told.
    ///
    /// # Errors
    /// Checkpoints of which none is whole; one that is whole, and of another version of this program.
    pub fn newest(&self, note: &mut dyn FnMut(&str)) -> Result<Option<(State, PathBuf)>, TrainError> {
        let steps = self.steps()?;
        for &step in steps.iter().rev() {
            let path = self.path(step);
            match manifest::verify(&path) {
                Ok(()) => return Ok(Some((read_state(&path)?, path))),
                Err(problem) => {
                    let aside = self.set_aside(step, "damaged")?;
                    let (path, aside) = (path.display(), aside.display());
                    note(&format!("{path} is damaged ({problem}): set aside as {aside}, going on from the one before"));
                }
            }
        }
        match steps.is_empty() && !self.has_damaged()? {
            true => Ok(None),
            false => Err(TrainError::NoWholeCheckpoint { folder: self.folder.clone() }),
        }
    }

    /// Sets aside the checkpoints of `step` and later ones, whose weights cannot be trusted; `note` is told.
    ///
    /// # Errors
    /// A folder that cannot be read or renamed.
    pub fn set_aside_from(&self, step: u64, note: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
        for step in self.steps()?.into_iter().filter(|&at| at >= step) {
            let aside = self.set_aside(step, "untrusted")?;
            let path = self.path(step);
            note(&format!(
                "{} holds the weights that these numbers came from: set aside as {}",
                path.display(),
                aside.display()
            ));
        }
        Ok(())
    }

    /// The last checkpoint there is, unread.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn last(&self) -> Result<Option<PathBuf>, TrainError> {
        Ok(self.steps()?.last().map(|&step| self.path(step)))
    }

    fn set_aside(&self, step: u64, why: &str) -> Result<PathBuf, TrainError> {
        let (path, aside) = (self.path(step), self.folder.join(format!("{why}-step-{step}")));
        remove(&aside)?;
        fs::rename(&path, &aside).map_err(TrainError::io("rename", &path))?;
        Ok(aside)
    }

    /// Removes all but the newest `last` and those of steps that are a multiple of `every`.
    ///
    /// # Errors
    /// A folder that cannot be removed.
    pub fn prune(&self, last: usize, every: Option<u64>) -> Result<(), TrainError> {
        let steps = self.steps()?;
        let newest = steps.len().saturating_sub(last);
        for step in steps[..newest].iter().filter(|step| every.is_none_or(|every| !step.is_multiple_of(every))) {
            let (path, old) = (self.path(*step), self.folder.join(format!(".step-{step}.old")));
            fs::rename(&path, &old).map_err(TrainError::io("remove", &path))?;
            remove(&old)?;
        }
        Ok(())
    }

    /// The steps that there are checkpoints of, oldest first.
    fn steps(&self) -> Result<Vec<u64>, TrainError> {
        let names = self.names()?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn has_damaged(&self) -> Result<bool, TrainError> {
        Ok(self.names()?.iter().any(|name| name.starts_with("damaged-step-")))
    }

    fn names(&self) -> Result<Vec<String>, TrainError> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        match fs::read_dir(&self.folder).and_then(|entries| entries.map(name).collect()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names.map_err(TrainError::io("read", &self.folder)),
        }
    }
}

impl Contents<'_> {
    fn fill(&self, folder: &Path, state: &State) -> Result<(), TrainError> {
        self.tensors(folder, self.decoder)?;
        copy_companion_files(self.tokenizer, folder)?;
        for (name, moments) in self.optimiser.state() {
            self.tensors(&folder.join("optimiser").join(name), moments)?;
        }
        let path = folder.join("state.json");
        let text = serde_json::to_string_pretty(state).map_err(|e| TrainError::damaged(&path, e.to_string()))?;
        write_synced(&path, format!("{text}\n").as_bytes())?;
        manifest::seal(folder)
    }

    /// A folder of the Hugging Face layout.
    fn tensors(&self, folder: &Path, source: &dyn Parameters) -> Result<(), TrainError> {
        fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
        write_synced(&folder.join("config.json"), self.config.as_bytes())?;
        write_parameters(source, self.table, folder)?;
        failpoint::pass("save").map_err(TrainError::io("write", folder))
    }
}

/// Reads the weights of a checkpoint, or of one of the optimiser's folders in it.
pub(crate) fn read_tensors(folder: &Path, device: &mut Device, context: usize) -> Result<Decoder, TrainError> {
    let checkpoint = Checkpoint::open(folder)?;
    let options = LoadOptions { weights: Some(Format::F32), context: Some(context), progress: None };
    Ok(Decoder::load(&checkpoint, device, &options)?)
}

/// Puts the optimiser back to where it was.
pub(crate) fn read_optimiser(
    folder: &Path,
    device: &mut Device,
    context: usize,
    state: &State,
    optimiser: &mut Optimiser,
) -> Result<(), TrainError> {
    for (name, moments) in optimiser.state_mut() {
        *moments = read_tensors(&folder.join("optimiser").join(name), device, context)?;
    }
    *optimiser.steps_mut() = state.updates;
    Ok(())
}

/// The state of a checkpoint that is whole.
pub(crate) fn read_state(folder: &Path) -> Result<State, TrainError> {
    let path = folder.join("state.json");
    let text = fs::read_to_string(&path).map_err(TrainError::io("read", &path))?;
    serde_json::from_str(&text).map_err(|source| TrainError::OtherVersion { path, source })
}

/// Removes a folder if it is there.
fn remove(folder: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TrainError::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

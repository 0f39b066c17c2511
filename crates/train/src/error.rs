//! Why a run could not begin or go on.

use data::MixtureError;
use model::LoadError;
use model::files::FileError;
use spec::HfError;
use spec::recipe::RecipeError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a run could not begin or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe asks for what cannot be.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The data cannot be used, or are not enough.
    #[error(transparent)]
    Data(#[from] MixtureError),
    /// The tokeniser cannot be used.
    #[error("tokenizer {}: {source}", path.display())]
    Tokenizer {
        /// Its folder or file.
        path: PathBuf,
        /// What is wrong.
        source: text::Error,
    },
    /// A model's files.
    #[error(transparent)]
    File(#[from] FileError),
    /// A model's weights.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A model that the layout of its family cannot hold.
    #[error(transparent)]
    Layout(#[from] HfError),
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A file of the run that is not what was written there.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// There are checkpoints, and none can be used.
    #[error(
        "{} holds checkpoints, but none that is whole: the run cannot go on. Move the folder away to start anew",
        folder.display()
    )]
    NoWholeCheckpoint {
        /// The folder of checkpoints.
        folder: PathBuf,
    },
    /// A whole checkpoint whose state this version of the program does not understand.
    #[error(
        "{} was written by another version of this program ({source}): go on with that version, or take the weights alone \
         into another run folder with model.from", path.display()
    )]
    OtherVersion {
        /// The state.
        path: PathBuf,
        /// What is not understood.
        source: serde_json::Error,
    },
    /// The run folder belongs to another recipe.
    #[error(
        "{} was begun with another {key}: {was}, now {is}. Give that again, or another run folder \
         (model.from = {:?} goes on with the weights alone)", checkpoint.display(), checkpoint.display().to_string()
    )]
    OtherRun {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What differs.
        key: String,
        /// What it was.
        was: String,
        /// What it is.
        is: String,
    },
    /// A folder that no run has written to.
    #[error("{} holds no run: give the folder that `lyceum train` writes to, with recipe.toml and log.jsonl in it", run.display())]
    NoRun {
        /// The folder.
        run: PathBuf,
    },
    /// Two programs, one run.
    #[error("{} is in use by another program that trains there", run.display())]
    InUse {
        /// The run folder.
        run: PathBuf,
    },
}

impl TrainError {
    /// Wraps an I/O error: `.map_err(TrainError::io("read", path))`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.into() }
    }
}

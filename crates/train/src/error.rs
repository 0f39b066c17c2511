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
    /// A stage that cannot be.
    #[error("stage {stage}: {source}")]
    InStage {
        /// Its name.
        stage: String,
        /// What is wrong.
        source: Box<TrainError>,
    },
    /// No stage was given.
    #[error("there is no stage to run")]
    NoStages,
    /// The run folder belongs to a recipe with other stages.
    #[error("{} holds a run of other stages: {was}, now {is}. Give those again, or another run folder", run.display())]
    OtherStages {
        /// The run folder.
        run: PathBuf,
        /// The stages it was begun with.
        was: String,
        /// Those of the recipe.
        is: String,
    },
    /// A stage that should learn more after another one has gone on from it.
    #[error(
        "{} ended after {seen} tokens, train.tokens is {tokens} now, and {} has gone on from its model: give the tokens as before, or remove {} \
         to do that stage again", run.display(), later.display(), later.display()
    )]
    StageIsOver {
        /// The stage's folder.
        run: PathBuf,
        /// That of the stage after it.
        later: PathBuf,
        /// Tokens it saw.
        seen: u64,
        /// Tokens it should see.
        tokens: u64,
    },
    /// A stage whose beginning is not what it was.
    #[error(
        "{} was begun from another model than {from} is now: remove the stage's folder to begin it anew, or put the model back",
        checkpoint.display()
    )]
    OtherOrigin {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The model to begin from.
        from: String,
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

//! Checkpoints on disk: Hugging Face folders (safetensors) and GGUF files, read and written.
//!
//! [`Checkpoint`] opens either and answers by [`spec::ParameterId`]; nobody behind it knows file names, tensor
//! names or layouts. Files are memory-mapped and read row by row, so that neither loading nor converting holds
//! a second copy of the weights.

mod checkpoint;
mod encode;
mod floats;
mod gguf;
mod mapped;
mod matrix;
mod placement;
mod safetensors;
mod tensors;

pub use checkpoint::{Checkpoint, TensorInfo, Tokens};
pub use gguf::{GgufWeights, Vocabulary, write_gguf};
pub use matrix::StoredMatrix;
pub use safetensors::{Weights, copy_companion_files, write_parameters, write_safetensors};

use spec::{HfError, InvalidConfig};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Nothing here that could be a model.
    #[error("{} is not a model: {why}", path.display())]
    NotAModel {
        /// What was opened.
        path: PathBuf,
        /// What is missing, and what to pass instead.
        why: String,
    },
    /// A `config.json` that cannot be honoured.
    #[error("{}: {source}", path.display())]
    Config {
        /// The folder.
        path: PathBuf,
        /// Which key, and why.
        source: HfError,
    },
    /// GGUF metadata that describes no possible decoder.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which size, and why.
        source: InvalidConfig,
    },
    /// Bytes that do not follow the format: cut off, damaged or never of this format.
    #[error("{} is damaged or cut off: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// GGUF metadata that is missing, of the wrong type or not supported.
    #[error("{}: metadata key \"{key}\" {problem}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The config asks for more than the files hold.
    #[error(
        "{}: the config describes {parameters} parameters, but the files hold only {bytes} bytes; is the \
         download complete?", path.display()
    )]
    TooSmall {
        /// Folder or file.
        path: PathBuf,
        /// How many the config counts.
        parameters: u64,
        /// How many bytes of tensors there are.
        bytes: u64,
    },
    /// A tensor that the config asks for is not there.
    #[error("{}: tensor \"{name}\" is missing", path.display())]
    Missing {
        /// Folder or file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor that the config has no place for.
    #[error(
        "{}: tensor \"{name}\" belongs to nothing that the config describes; the config and the weights are \
         of different models", path.display()
    )]
    Unexpected {
        /// Folder or file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor of another shape than the config asks for.
    #[error("{}: tensor \"{name}\" is {found:?}, the config asks for {expected:?}", path.display())]
    WrongShape {
        /// Folder or file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape, outermost dimension first.
        found: Vec<usize>,
        /// The config's.
        expected: Vec<usize>,
    },
    /// A tensor of a type that its place does not allow.
    #[error("{}: tensor \"{name}\" has type {found}; supported here are {allowed}", path.display())]
    WrongType {
        /// Folder or file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
        /// Those that would do.
        allowed: &'static str,
    },
    /// A weight that is not a number.
    #[error("tensor \"{name}\" holds {value} at {row}, {column}; the checkpoint is damaged")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Output.
        row: usize,
        /// Input.
        column: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// The model has no parameter of this id.
    #[error("the model has no parameter {0:?}")]
    NoSuchParameter(spec::ParameterId),
    /// The layout to write cannot say what the model is.
    #[error("{layout} cannot hold this model: {why}")]
    CannotHold {
        /// The layout.
        layout: String,
        /// What is in the way, and what to do.
        why: String,
    },
    /// A value that the chosen format cannot represent.
    #[error("tensor \"{name}\" holds {value}, which is beyond {format}; choose bf16 or f32")]
    OutOfRange {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
        /// The chosen format.
        format: &'static str,
    },
    /// Something is already there.
    #[error("{} exists already; choose another name or remove it", path.display())]
    Exists {
        /// Where to write.
        path: PathBuf,
    },
}

impl FileError {
    /// Wraps an I/O error: `.map_err(FileError::io(path, "read"))`.
    fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), problem: problem.into() }
    }
}

/// Checks that every value of row `row` of tensor `name` is finite. Whoever reads weights calls this on what it
/// has read.
pub fn check_finite(name: &str, row: usize, values: &[f32]) -> Result<(), FileError> {
    // Infinities and NaN have the largest exponent; as integers, they are larger than every finite value.
    let largest = values.iter().map(|v| v.to_bits() & 0x7fff_ffff).max();
    if largest.unwrap_or(0) < 0x7f80_0000 {
        return Ok(());
    }
    match values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        None => Ok(()),
        Some((column, &value)) => Err(FileError::NotFinite { name: name.to_owned(), row, column, value }),
    }
}

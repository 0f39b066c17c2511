//! What can go wrong while collecting.

use std::io;
use std::path::{Path, PathBuf};

/// An error that names the file, and what to do where there is something to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A file that is broken, or not what its name says.
    #[error("{place} is damaged: {what}")]
    Damaged {
        /// The file, and the place in it.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// A record without the text that was asked for.
    #[error("{place} has no text called {field:?}; it has {found}")]
    NoText {
        /// The file, and the record in it.
        place: String,
        /// The name that was looked for.
        field: String,
        /// The names that are there.
        found: String,
    },
    /// A kind of file that is not read.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Why it is not read.
        what: String,
    },
    /// Two inputs, or an input and the output, that cannot go together; or an option out of range.
    #[error("{0}")]
    Options(String),
    /// The output folder holds something already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The reader of this error stopped the work: never shown.
    #[error("stopped")]
    Stopped,
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An operation on a file that failed.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { action, path: path.to_owned(), cause }
    }

    /// Reading that failed: bad content is damage of the file, everything else the system's refusal.
    pub(crate) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => Self::damaged(path.display(), "it ends too early (truncated?)"),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                Self::damaged(path.display(), cause)
            }
            _ => Self::Io { action: "read", path: path.to_owned(), cause },
        }
    }

    /// Content that is not what it should be.
    pub(crate) fn damaged(place: impl ToString, what: impl ToString) -> Self {
        Self::Damaged { place: place.to_string(), what: what.to_string() }
    }

    /// Whether a bad file is to blame, so that the rest can go on without it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::NoText { .. })
    }
}

//! What can go wrong, each with the place and the way out.

use std::path::PathBuf;

/// A result whose error is this crate's.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a tokeniser or a chat template could not be loaded, used or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is there, but it is not what it should be.
    #[error("{}: {reason}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong inside.
        #[source]
        reason: Box<Error>,
    },
    /// Text that should be JSON of a certain form is not.
    #[error("{part} is not valid: {source}")]
    Json {
        /// The file or the section of it.
        part: &'static str,
        /// What the parser said, with the line and the column.
        source: serde_json::Error,
    },
    /// A tokeniser uses something that is not supported.
    #[error("{what} is not supported; {instead}")]
    Unsupported {
        /// The part and its value.
        what: String,
        /// What would be accepted.
        instead: String,
    },
    /// A vocabulary contradicts itself.
    #[error("the vocabulary is broken: {0}")]
    Vocabulary(String),
    /// The tokeniser has ids that the model has no embedding for.
    #[error(
        "the tokenizer has ids up to {highest} (`{token}`), but the model's vocab_size is {model}: \
         the tokenizer belongs to another model, or tokens were added without resizing the embedding"
    )]
    VocabularyTooLarge {
        /// The highest id.
        highest: u32,
        /// Its token.
        token: String,
        /// The rows of the model's embedding.
        model: usize,
    },
    /// An id that is no token.
    #[error("id {id} is not a token: this tokenizer's ids lie below {size}")]
    UnknownId {
        /// The id asked for.
        id: u32,
        /// One past the highest id.
        size: usize,
    },
    /// A role is given to an id that is no token.
    #[error("{role} is {id}, which is not a token: this tokenizer's ids lie below {size}")]
    UnknownRole {
        /// Which, as the files call it.
        role: &'static str,
        /// Its id.
        id: u32,
        /// One past the highest id.
        size: usize,
    },
    /// The tokenizers library refused a text.
    #[error("the text could not be tokenised: {0}")]
    Encode(String),
    /// This tokeniser cannot be written in the format asked for.
    #[error("this tokenizer cannot be written as {format}: {reason}")]
    NotExpressible {
        /// The format.
        format: &'static str,
        /// Why not.
        reason: String,
    },
    /// There is no chat template.
    #[error(
        "the model has no chat template: use plain completion, or put a chat_template.jinja beside its tokenizer.json"
    )]
    NoTemplate,
    /// There are chat templates, but none of this name.
    #[error("there is no chat template named `{name}`; there are: {known}")]
    NoSuchTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The chat template is not valid, or failed while it ran.
    #[error("chat template `{name}`{}: {message}", line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Template {
        /// The template's name.
        name: String,
        /// The line, if known.
        line: Option<usize>,
        /// What the engine said.
        message: String,
    },
    /// The chat template refused these messages by calling `raise_exception`.
    #[error("the chat template refuses these messages: {0}")]
    Refused(String),
    /// The messages have too many different characters for each to get a stand-in.
    #[error(
        "the messages have so many different characters that none is left to tell their authors apart; \
         remove private-use characters from them"
    )]
    NoSpareCharacter,
}

impl Error {
    /// This error, with the file in which it was found.
    pub(crate) fn in_file(self, path: impl Into<PathBuf>) -> Self {
        match self {
            Self::File { .. } | Self::InFile { .. } => self,
            reason => Self::InFile { path: path.into(), reason: Box::new(reason) },
        }
    }
}

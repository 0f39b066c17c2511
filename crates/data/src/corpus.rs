//! A corpus as a recipe describes it: collection, tokeniser and shards in one folder, made once.

use crate::collect::{self, Collection, Stage};
use crate::dedup::Copies;
use crate::encode::{self, Input, PrepareError};
use crate::paths;
use crate::sources::{Cargo, From, Kind, Source};
use crate::train_tokenizer::{self, TrainTokenizerError, train_tokenizer};
use spec::recipe::CorpusRecipe;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use text::Tokenizer;
use thiserror::Error;

/// What says that a corpus is complete, and how it was made.
const RECORD: &str = "corpus.json";
/// Text that a tokeniser learns from at most.
const TOKENIZER_BYTES: u64 = 1_000_000_000;

/// What the work is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Collecting documents.
    Collecting(Stage),
    /// Learning a tokeniser; counted in bytes.
    Learning,
    /// Encoding; counted in bytes.
    Encoding,
}

/// Why there is no corpus.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// Documents could not be collected.
    #[error(transparent)]
    Collect(#[from] collect::Error),
    /// No tokeniser was learned.
    #[error(transparent)]
    Train(#[from] TrainTokenizerError),
    /// Shards could not be made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The given tokeniser cannot be used.
    #[error("model.tokenizer {}: {source}", path.display())]
    Tokenizer {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: text::Error,
    },
    /// The corpus there was made from something else.
    #[error(
        "{} was made by another data.corpus ({}): name another data.corpus.folder, or remove that one to make it anew",
        folder.display(),
        was.trim()
    )]
    Other {
        /// Where it is.
        folder: PathBuf,
        /// How it was made.
        was: String,
    },
    /// A file of conversations that gives no name.
    #[error("data.corpus.chats: {0} names no source: write NAME=FILE")]
    NamelessChat(String),
    /// Something else is there.
    #[error("data.corpus.folder {} exists and is no corpus: name another folder", .0.display())]
    Foreign(PathBuf),
    /// Neither a tokeniser nor the size of one to learn.
    #[error(
        "data.corpus.vocab_size is missing: the corpus needs it to learn a tokenizer, or else model.tokenizer names one"
    )]
    NoTokenizer,
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
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CorpusError {
    move |cause| CorpusError::Io { action, path: path.to_owned(), cause }
}

/// Makes the corpus unless it is there: `folder/collection`, `folder/tokenizer` (where one is to be learned) and `folder/shards`, all at once
/// when everything is done. A tokeniser is learned from the texts, not from conversations. Paths are relative to `base`; `tokenizer` is the one to use where none is to be learned. True if it was made.
///
/// # Errors
/// What cannot be read, written or understood; what was half done is made anew the next time.
pub fn make(
    recipe: &CorpusRecipe,
    base: &Path,
    tokenizer: Option<&Path>,
    watch: &(dyn Fn(Step, u64, u64) + Sync),
) -> Result<bool, CorpusError> {
    let folder = paths::join(base, &recipe.folder);
    let record = serde_json::to_string_pretty(recipe).map_err(|e| failed("describe", &folder)(e.into()))? + "\n";
    if is_there(&folder, &record)? {
        return Ok(false);
    }
    let mut work = folder.clone().into_os_string();
    work.push(".making");
    let work = PathBuf::from(work);
    match fs::remove_dir_all(&work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &work)(error)),
        _ => fs::create_dir_all(&work).map_err(failed("create", &work))?,
    }
    let (sources, chats) = (sources(recipe, base)?, chats(recipe, base)?);
    let given = match (recipe.vocab_size, tokenizer) {
        (Some(_), _) => None,
        (None, Some(path)) => Some(opened(&paths::join(base, path))?),
        (None, None) => return Err(CorpusError::NoTokenizer),
    };
    let collecting = |stage, done, total| watch(Step::Collecting(stage), done, total);
    let mut options = collect::Options { filters: recipe.filters.clone(), ..collect::Options::default() };
    if recipe.filters.as_ref().is_some_and(Vec::is_empty) {
        options.copies = Copies { exact: false, near: false };
    }
    let mut collections = Vec::new();
    if recipe.has_texts() {
        collections.push(collect::collect(&sources, &work.join("collection"), &options, &collecting)?);
    }
    let tokenizer = match (given, recipe.vocab_size) {
        (Some(given), _) => given,
        (None, Some(size)) => learned(&collections, size, &work.join("tokenizer"), watch)?,
        (None, None) => return Err(CorpusError::NoTokenizer),
    };
    let options = encode::Options { held_out: recipe.held_out, ..encode::Options::default() };
    let encoding = |done, total| watch(Step::Encoding, done, total);
    let inputs: Vec<Input> = collections.into_iter().map(Input::Collection).chain(chats).collect();
    encode::prepare(&inputs, &tokenizer, &work.join("shards"), &options, &encoding)?;
    fs::write(work.join(RECORD), record).map_err(failed("write", &work))?;
    fs::rename(&work, &folder).map_err(failed("create", &folder))?;
    Ok(true)
}

fn is_there(folder: &Path, record: &str) -> Result<bool, CorpusError> {
    match fs::read_to_string(folder.join(RECORD)) {
        Ok(was) if was == record => Ok(true),
        Ok(was) => Err(CorpusError::Other {
            folder: folder.to_owned(),
            was: was.split_whitespace().collect::<Vec<_>>().join(" "),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder.exists() => {
            Err(CorpusError::Foreign(folder.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("read", &folder.join(RECORD))(error)),
    }
}

fn sources(recipe: &CorpusRecipe, base: &Path) -> Result<Vec<Source>, CorpusError> {
    let mut sources = Vec::new();
    for path in &recipe.paths {
        sources.push(match path.split_once('=') {
            Some((name, path)) => Source { name: name.to_owned(), from: From::Path(paths::join(base, path)) },
            None => Source::path(paths::join(base, path)),
        });
    }
    if let Some(lock) = &recipe.cargo {
        let cargo = Cargo::new(paths::join(base, lock))?;
        let part = |kind: Kind| Source { name: kind.name().into(), from: From::Cargo(cargo.clone(), kind) };
        sources.extend([part(Kind::Code), part(Kind::Docs)]);
    }
    Ok(sources)
}

/// The files of conversations; each can be opened.
fn chats(recipe: &CorpusRecipe, base: &Path) -> Result<Vec<Input>, CorpusError> {
    let input = |given: &String| {
        let (source, file) = encode::chat_source(given).ok_or_else(|| CorpusError::NamelessChat(given.clone()))?;
        let file = paths::join(base, file);
        fs::File::open(&file).map_err(failed("read", &file))?;
        Ok(Input::Chat { file, source })
    };
    recipe.chats.iter().map(input).collect()
}

fn learned(
    collections: &[Collection],
    vocab_size: usize,
    folder: &Path,
    watch: &(dyn Fn(Step, u64, u64) + Sync),
) -> Result<Tokenizer, CorpusError> {
    let learning = |done, total| watch(Step::Learning, done, total);
    let tokenizer = train_tokenizer(collections, vocab_size, TOKENIZER_BYTES, &learning)?;
    train_tokenizer::save(&tokenizer, folder)?;
    Ok(tokenizer)
}

fn opened(path: &Path) -> Result<Tokenizer, CorpusError> {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    Tokenizer::from_folder(folder).map_err(|source| CorpusError::Tokenizer { path: path.to_owned(), source })
}

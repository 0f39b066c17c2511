//! A tokeniser learned from collections.

use crate::collect::{Collection, Error};
use serde_json::json;
use spec::random::{hash, unit};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, io};
use text::Tokenizer;
use thiserror::Error as ThisError;
use twox_hash::XxHash3_64;

/// Why no tokeniser was made.
#[derive(Debug, ThisError)]
pub enum TrainTokenizerError {
    /// A collection cannot be read.
    #[error(transparent)]
    Collection(#[from] Error),
    /// The tokeniser cannot be trained.
    #[error(transparent)]
    Text(#[from] text::Error),
    /// The files cannot be written.
    #[error("cannot write to {}: {cause}", folder.display())]
    Write {
        /// Where to.
        folder: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// There is nothing to learn from.
    #[error("the collections hold no text")]
    Empty,
}

/// Writes a tokeniser's files into a folder, which is made, with the ids that end a generation.
///
/// # Errors
/// What cannot be written.
pub fn save(tokenizer: &Tokenizer, folder: &Path) -> Result<(), TrainTokenizerError> {
    let failed = |cause| TrainTokenizerError::Write { folder: folder.to_owned(), cause };
    fs::create_dir_all(folder).map_err(failed)?;
    tokenizer.save(folder)?;
    let generation = json!({ "bos_token_id": tokenizer.bos(), "eos_token_id": tokenizer.eos() });
    fs::write(folder.join("generation_config.json"), format!("{generation:#}\n")).map_err(failed)
}

/// What random numbers are for.
const CHOOSE: u64 = 0x746f_6b65_6e73;

/// Trains a tokeniser with `vocab_size` ids on the documents of all collections, on about `most_bytes` of them where
/// there are more. Which documents are taken depends on their text alone. `progress` is told bytes that are
/// read, and of how many.
pub fn train_tokenizer(
    collections: &[Collection],
    vocab_size: usize,
    most_bytes: u64,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Tokenizer, TrainTokenizerError> {
    let total: u64 = collections.iter().flat_map(|c| &c.manifest().sources).map(|source| source.kept.bytes).sum();
    if total == 0 {
        return Err(TrainTokenizerError::Empty);
    }
    let share = most_bytes as f64 / total as f64;
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let fail = |error| {
        if let Ok(mut failed) = failed.lock() {
            failed.get_or_insert(error);
        }
    };
    let sources = collections.iter().flat_map(|c| c.manifest().sources.iter().map(move |source| (c, &source.name)));
    let documents = sources.flat_map(|(collection, source)| {
        let documents = collection.documents(source);
        let (documents, error) = match documents {
            Ok(documents) => (Some(documents), None),
            Err(error) => (None, Some(Err(error))),
        };
        documents.into_iter().flatten().chain(error)
    });
    let mut done = 0;
    let texts = documents.map_while(|document| document.map_err(fail).ok()).map(|document| {
        done += document.text.len() as u64;
        progress(done, total);
        document.text
    });
    let chosen = texts.filter(|text| unit(hash(XxHash3_64::oneshot(text.as_bytes()), CHOOSE, 0, 0)) < share);
    let trained = text::train(chosen, vocab_size);
    match failed.into_inner() {
        Ok(Some(error)) => Err(error.into()),
        _ => Ok(trained?),
    }
}

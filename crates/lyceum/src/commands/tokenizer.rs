//! `lyceum tokenizer`: text to token ids and back; and making a tokeniser.

use crate::failure::misuse;
use crate::progress::Progress;
use crate::replace::Destination;
use crate::{models, output};
use clap::{Args, Subcommand};
use data::collect::Collection;
use data::train_tokenizer::{self, train_tokenizer};
use miette::{IntoDiagnostic, Result};
use model::Checkpoint;
use serde_json::json;
use std::path::{Path, PathBuf};
use text::Tokenizer;

/// Turn text into token ids and back, or train a tokenizer
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum tokenizer encode path/to/model \"Once upon a time\"")]
pub struct Tokens {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Train),
    Encode(Encode),
    Decode(Decode),
}

/// Learn a byte-level BPE tokenizer from collected documents
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum tokenizer train --data corpus --vocab-size 8192 --out tokenizer")]
struct Train {
    /// Collections to learn from, as `lyceum data collect` makes them
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    data: Vec<PathBuf>,

    /// Ids, those of the 256 bytes and of the special tokens included
    #[arg(long, value_name = "N")]
    vocab_size: usize,

    /// Folder to write: tokenizer.json, tokenizer_config.json and generation_config.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Text to learn from at most, in MB; of more, documents are chosen by their hash
    #[arg(long, value_name = "MB", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    most: u64,
}

/// Print the ids of a text
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum tokenizer encode path/to/model \"Once upon a time\" --json")]
struct Encode {
    /// A model folder, a tokenizer.json or a .gguf file
    model: PathBuf,

    /// The text
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    text: Option<String>,

    /// A file with the text; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Recognise special tokens in the text; otherwise they are plain characters
    #[arg(long)]
    markers: bool,

    /// Add the tokens that the model expects around a whole text
    #[arg(long, conflicts_with = "markers")]
    whole: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Print the text of ids
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum tokenizer decode path/to/model 17,42,99")]
struct Decode {
    /// A model folder, a tokenizer.json or a .gguf file
    model: PathBuf,

    /// The ids, with commas or spaces between
    #[arg(required = true, value_delimiter = ',')]
    ids: Vec<u32>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Tokens {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Train(train) => train.run(),
            Command::Encode(encode) => encode.run(),
            Command::Decode(decode) => decode.run(),
        }
    }
}

impl Train {
    fn run(self) -> Result<()> {
        let destination = Destination::new(&self.data[0], &self.out, false)?;
        let open = |folder: &PathBuf| Collection::open(folder).into_diagnostic();
        let collections = self.data.iter().map(open).collect::<Result<Vec<_>>>()?;
        let bar = Progress::bytes("Reading");
        let progress = |done, total| bar.set(done, total);
        let trained = train_tokenizer(&collections, self.vocab_size, self.most * 1_000_000, &progress);
        drop(bar);
        let tokenizer = trained.into_diagnostic()?;
        destination.fill(|folder| train_tokenizer::save(&tokenizer, folder).into_diagnostic())
    }
}

impl Encode {
    fn run(self) -> Result<()> {
        let text = match (self.text, &self.file) {
            (Some(text), _) => text,
            (None, Some(path)) => models::read_text(path)?,
            (None, None) => return Err(misuse("give a text, or a file with --file")),
        };
        let tokenizer = open(&self.model)?;
        let ids = match (self.markers, self.whole) {
            (true, _) => tokenizer.encode_with_markers(&text),
            (_, true) => tokenizer.encode_whole(&text),
            _ => tokenizer.encode(&text),
        };
        let ids = ids.into_diagnostic()?;
        if self.json {
            let tokens: Vec<_> = ids.iter().map(|&id| tokenizer.token(id)).collect();
            return output::json(&json!({ "ids": ids, "tokens": tokens }));
        }
        let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
        output::line(&ids.join(" "))
    }
}

impl Decode {
    fn run(self) -> Result<()> {
        let text = open(&self.model)?.decode(&self.ids).into_diagnostic()?;
        if self.json { output::json(&json!({ "text": text })) } else { output::line(&text) }
    }
}

/// The tokeniser of a model, which need not be complete, or a file of its own.
fn open(path: &Path) -> Result<Tokenizer> {
    if path.extension().is_some_and(|e| e == "gguf") {
        return models::need_tokenizer(&Checkpoint::open(path).into_diagnostic()?);
    }
    let tokenizer = if path.is_dir() { Tokenizer::from_folder(path) } else { Tokenizer::from_file(path) };
    tokenizer.into_diagnostic()
}

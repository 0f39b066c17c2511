//! `lyceum data prepare`: documents become shards of token ids.

use super::stats;
use crate::failure::misuse;
use crate::progress::Progress;
use clap::Args;
use data::collect::Collection;
use data::encode::{self, Input, Options};
use miette::{IntoDiagnostic, Result};
use std::path::PathBuf;
use text::Tokenizer;

/// Turn collected documents and chats into shards of token ids, a folder per source
#[derive(Args)]
#[command(
    after_help = "Example:\n  lyceum data prepare --data corpus --tokenizer tokenizer --out shards --held-out 0.5%"
)]
pub struct Prepare {
    /// Collections, as `lyceum data collect` makes them
    #[arg(long, value_name = "DIR", num_args = 1..)]
    data: Vec<PathBuf>,

    /// Conversations: a .jsonl or .jsonl.zst file with {"messages": [...]} on each line; a source of its name, or NAME=FILE
    #[arg(long, value_name = "FILE", num_args = 1..)]
    chat: Vec<String>,

    /// Folder with tokenizer.json and tokenizer_config.json
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,

    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Share of the documents to keep apart for measuring, such as 0.5% or 0.005
    #[arg(long, value_name = "SHARE", default_value = "0.5%", value_parser = share)]
    held_out: f64,

    /// Tokens of a file, in millions
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    shard_tokens: u64,

    /// Threads; all that the machine runs at once if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Prepare {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let tokenizer = Tokenizer::from_folder(&self.tokenizer).into_diagnostic()?;
        let inputs = self.inputs()?;
        let options = Options {
            held_out: self.held_out,
            shard_tokens: self.shard_tokens << 20,
            threads: self.threads.map(usize::from),
        };
        let bar = Progress::bytes("Encoding");
        let progress = |done, total| bar.set(done, total);
        let sets = encode::prepare(&inputs, &tokenizer, &self.out, &options, &progress);
        drop(bar);
        stats::print(&sets.into_diagnostic()?, self.json)
    }

    fn inputs(&self) -> Result<Vec<Input>> {
        if self.data.is_empty() && self.chat.is_empty() {
            return Err(misuse(
                "there is nothing to prepare: name collections with --data, or conversations with --chat",
            ));
        }
        let collection = |folder: &PathBuf| Ok(Input::Collection(Collection::open(folder).into_diagnostic()?));
        self.data.iter().map(collection).chain(self.chat.iter().map(|chat| chat_input(chat))).collect()
    }
}

/// `FILE`, or `NAME=FILE`.
fn chat_input(given: &str) -> Result<Input> {
    match encode::chat_source(given) {
        Some((source, file)) => Ok(Input::Chat { file: file.to_owned(), source }),
        None => Err(misuse(format!("--chat {given} names no source: write NAME=FILE"))),
    }
}

/// A share as a fraction or in percent.
fn share(text: &str) -> std::result::Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.trim().parse::<f64>().map_err(|error| error.to_string())? / unit;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("allowed is 0 to 1, or 0% to 100%".into()) }
}

//! `lyceum data`: from files to what a model learns from.

mod collect;
mod inspect;
mod prepare;
mod report;
mod stats;

use crate::failure::misuse;
use clap::{Args, Subcommand};
use data::collect::Error;
use miette::{IntoDiagnostic, Report, Result, miette};

/// Make and look at what a model learns from
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum data collect notes/ --cargo --out corpus\n  \
                        lyceum tokenizer train --data corpus --vocab-size 8192 --out tokenizer\n  \
                        lyceum data prepare --data corpus --tokenizer tokenizer --out shards\n  \
                        lyceum data stats shards")]
pub struct Data {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Collect(Box<collect::Collect>),
    Inspect(inspect::Inspect),
    Prepare(prepare::Prepare),
    Stats(stats::Stats),
}

impl Data {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Collect(collect) => collect.run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::Prepare(prepare) => prepare.run(),
            Command::Stats(stats) => stats.run(),
        }
    }
}

/// An error of the library, with the flag that helps.
fn explain(error: Error) -> Report {
    let help = match &error {
        Error::Options(what) => return misuse(what.clone()),
        Error::Damaged { .. } => "--skip-damaged leaves it out and counts it",
        Error::NoText { .. } => "--text-field names the field or column that holds the text",
        Error::Exists(_) => "choose another name, or --replace to replace it",
        _ => return Err::<(), _>(error).into_diagnostic().unwrap_err(),
    };
    miette!(help = help, "{error}")
}

//! `lyceum plan`: what a model will cost.

mod calibrate;
mod fleet;
mod serve;
mod subject;

use clap::{Args, Subcommand};
use miette::Result;

/// Say what a model will cost before anyone pays
#[derive(Args)]
#[command(
    after_help = "Example:\n  lyceum plan serve recipes/gpt4.toml --hardware h100:128 --tp 8 --pp 16 --weights fp8 --traffic poisson:20"
)]
pub struct Plan {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Calibrate(calibrate::Calibrate),
    Serve(Box<serve::Serve>),
}

impl Plan {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Calibrate(calibrate) => calibrate.run(),
            Command::Serve(serve) => serve.run(),
        }
    }
}

//! The program: it reads the command line, calls the crates that do the work, and prints what they return.

mod commands;
mod failure;
mod memory;
mod models;
mod options;
mod output;
mod progress;
mod stream;
mod vocabulary;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs, measures and converts language models of the GPT-4 shape on one machine.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(commands::bench::Bench),
    Chat(commands::chat::Chat),
    Generate(commands::generate::Generate),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(bench) => bench.run(),
        Command::Chat(chat) => chat.run(),
        Command::Generate(generate) => generate.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => failure::report(&report),
    }
}

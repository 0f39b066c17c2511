//! The program: it reads the command line, calls the crates that do the work, and prints what they return.

mod commands;
mod failure;
mod memory;
mod models;
mod options;
mod output;
mod progress;
mod replace;
mod stream;
mod telemetry;
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
    Convert(commands::convert::Convert),
    Data(commands::data::Data),
    Eval(commands::eval::Eval),
    Generate(commands::generate::Generate),
    Inspect(commands::inspect::Inspect),
    Plan(commands::plan::Plan),
    Serve(commands::serve::Serve),
    Tokenizer(commands::tokenizer::Tokens),
    Train(commands::train::Train),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(bench) => bench.run(),
        Command::Chat(chat) => chat.run(),
        Command::Convert(convert) => convert.run(),
        Command::Data(data) => data.run(),
        Command::Eval(eval) => eval.run(),
        Command::Generate(generate) => generate.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Plan(plan) => plan.run(),
        Command::Serve(serve) => serve.run(),
        Command::Tokenizer(tokenizer) => tokenizer.run(),
        Command::Train(train) => train.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => failure::report(&report),
    }
}

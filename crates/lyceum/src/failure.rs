//! How the program ends when it cannot do what was asked.

use crate::output;
use miette::{Diagnostic, IntoDiagnostic, Report, Result};
use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

/// Ends that are not failures of the work itself.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The command line asks for something that makes no sense: exit status 2, as for what `clap` refuses.
    #[error("{0}")]
    Misuse(String),
    /// Training could not go on from its own numbers: exit status 3.
    #[error("{0}")]
    Diverged(String),
    /// Whoever read standard output has gone: nothing is left to say.
    #[error("standard output is closed")]
    Closed,
}

impl Diagnostic for End {}

/// An error of misuse.
pub fn misuse(what: impl Into<String>) -> Report {
    End::Misuse(what.into()).into()
}

/// A result of writing to standard output.
pub fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(End::Closed.into()),
        other => other.into_diagnostic().map_err(|e| e.wrap_err("cannot write to standard output")),
    }
}

/// Says on standard error what went wrong, and gives the exit status.
pub fn report(report: &Report) -> ExitCode {
    let status = match report.downcast_ref::<End>() {
        Some(End::Closed) => return ExitCode::SUCCESS,
        Some(End::Misuse(_)) => 2,
        Some(End::Diverged(_)) => 3,
        None => 1,
    };
    let mut text = format!("error: {}\n", chain(report.as_ref()));
    if let Some(help) = report.help() {
        let _ = writeln!(text, "help: {help}");
    }
    if status == 2 {
        text.push_str("help: --help shows what there is, with an example\n");
    }
    output::note(text.trim_end());
    ExitCode::from(status)
}

/// The error and its causes on one line. Many errors tell their cause already; those are not told twice.
fn chain(error: &(dyn Diagnostic + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

//! `lyceum plan`: what will it cost?

mod calibrate;
mod figures;
mod fleet;
mod serve;
mod subject;
mod train;

use crate::failure::misuse;
use clap::{Args, Subcommand};
use miette::{IntoDiagnostic, Result, WrapErr};
use spec::recipe::{Recipe, RecipeError};
use std::path::Path;

/// Say what a recipe costs before anyone pays: memory, time and money
#[derive(Args)]
#[command(after_help = "Examples:\n  lyceum plan train recipes/gpt4.toml --hardware a100-40g:25000 --price 1.00\n  \
                        lyceum plan serve recipes/gpt4.toml --hardware h100:128 --tp 8 --pp 16 --weights fp8 --traffic poisson:20\n  \
                        lyceum plan figures\n  lyceum plan calibrate --out machine.toml")]
pub struct Plan {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Calibrate(calibrate::Calibrate),
    Figures(figures::Figures),
    Serve(Box<serve::Serve>),
    Train(train::Train),
}

impl Plan {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Calibrate(calibrate) => calibrate.run(),
            Command::Serve(serve) => serve.run(),
            Command::Figures(figures) => figures.run(),
            Command::Train(train) => train.run(),
        }
    }
}

/// The recipe of a file, with settings in place of what it says.
fn recipe(path: &Path, settings: &[String]) -> Result<Recipe> {
    let text = std::fs::read_to_string(path).into_diagnostic();
    let text = text.wrap_err_with(|| format!("cannot read {}", path.display()))?;
    match Recipe::parse(&text, settings) {
        Err(error @ RecipeError::Setting { .. }) => Err(misuse(error.to_string())),
        parsed => parsed.into_diagnostic().wrap_err_with(|| path.display().to_string()),
    }
}

/// Writes a chart into a folder, which is made if it is not there.
fn draw(folder: &Path, name: &str, svg: &str) -> Result<()> {
    std::fs::create_dir_all(folder).into_diagnostic().wrap_err_with(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(name);
    std::fs::write(&path, svg).into_diagnostic().wrap_err_with(|| format!("cannot write {}", path.display()))
}

/// A number with four digits and a decimal unit: 1.830 T, 277.0 G, 0.3559.
fn figure(value: f64) -> String {
    let scales = [(1e12, "T"), (1e9, "G"), (1e6, "M")];
    let size = value.abs();
    if size >= 1e16 {
        return format!("{value:.3e}");
    }
    match scales.into_iter().find(|(scale, _)| size >= *scale) {
        Some((scale, unit)) => format!("{} {unit}", digits(value / scale)),
        None => digits(value),
    }
}

fn digits(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if size >= 100.0 {
        format!("{value:.1}")
    } else if size >= 10.0 {
        format!("{value:.2}")
    } else if size >= 0.1 {
        format!("{value:.4}")
    } else {
        format!("{value:.6}")
    }
}

/// Columns as wide as their widest entry; the columns named in `right` end alike.
fn columns(rows: &[Vec<String>], right: &[usize]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|s| s.chars().count()).max();
    let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cell = |(column, text): (usize, &String)| match right.contains(&column) {
            true => format!("{text:>width$}", width = widths[column]),
            false => format!("{text:width$}", width = widths[column]),
        };
        let cells: Vec<_> = row.iter().enumerate().map(cell).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

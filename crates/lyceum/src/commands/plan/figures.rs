//! `lyceum plan figures`: every figure of the public report on GPT-4, recomputed.

use super::{columns, figure};
use crate::output;
use clap::Args;
use miette::{IntoDiagnostic, Result};
use plan::Catalogue;
use plan::figures::solve::{Solution, solve};
use plan::figures::{Facts, Inputs, RECIPE, Row, chart, table};
use serde_json::json;
use spec::recipe::Recipe;
use std::path::PathBuf;

/// Recompute every figure of the public report on GPT-4 from a recipe and the hardware catalogue
///
/// What a figure leaves out is solved for at the end: which batch, precision and share of the bandwidth make its prices true, what its utilisation and its
/// cost of training assume.
#[derive(Args)]
#[command(after_help = "Examples:\n  lyceum plan figures\n  lyceum plan figures --set model.top_k=4 --id P03,T01")]
pub struct Figures {
    /// The recipe that the claims are computed from; the report's own if not given
    recipe: Option<PathBuf>,

    /// Put another value in place of the recipe's: section.key=value
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Only these claims, without what is solved for
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    id: Vec<String>,

    /// Draw claims.svg and prices.svg into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "id")]
    svg: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Figures {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let recipe = match &self.recipe {
            Some(path) => super::recipe(path, &self.set)?,
            None => Recipe::parse(RECIPE, &self.set).into_diagnostic()?,
        };
        let catalogue = Catalogue::embedded().into_diagnostic()?;
        let inputs = Inputs::new(&recipe, &catalogue, Facts::embedded().into_diagnostic()?).into_diagnostic()?;
        let mut rows = table(&inputs).into_diagnostic()?;
        if let Some(unknown) = self.id.iter().find(|id| rows.iter().all(|row| row.id != **id)) {
            let known: Vec<_> = rows.iter().map(|row| row.id.as_str()).collect();
            return Err(crate::failure::misuse(format!(
                "no claim is called {unknown}; there are {}",
                known.join(", ")
            )));
        }
        if let Some(folder) = &self.svg {
            super::draw(folder, "claims.svg", &chart::claims(&rows))?;
            super::draw(folder, "prices.svg", &chart::prices(&inputs))?;
        }
        rows.retain(|row| self.id.is_empty() || self.id.contains(&row.id));
        let solutions = if self.id.is_empty() { solve(&inputs).into_diagnostic()? } else { Vec::new() };
        if self.json {
            return output::json(&json!({ "claims": rows, "solved": solutions }));
        }
        output::print(&text(&rows))?;
        if solutions.is_empty() { Ok(()) } else { output::print(&solved(&solutions)) }
    }
}

fn text(rows: &[Row]) -> String {
    let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    let title = ["id", "reported", "computed", "unit", "deviation", "verdict", "claim"].map(str::to_owned).to_vec();
    let line = |row: &Row| {
        let deviation = row.deviation.map_or_else(|| "-".to_owned(), |d| format!("{:+.1}%", 100.0 * d));
        vec![
            row.id.clone(),
            value(row.reported),
            value(row.computed),
            row.unit.clone(),
            deviation,
            row.verdict.clone(),
            row.text.clone(),
        ]
    };
    let table: Vec<_> = std::iter::once(title).chain(rows.iter().map(line)).collect();
    let table = columns(&table, &[1, 2, 4]);
    let mut lines = table.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (line, row) in lines.zip(rows) {
        let error = row.unit_error.as_ref().map_or_else(String::new, |what| format!("; unit error: {what}"));
        text += &format!("{line}\n          = {} [{}]{error}\n", row.formula, row.source.join("; "));
    }
    text
}

fn solved(solutions: &[Solution]) -> String {
    let mut text = "\nSolved backwards: what makes the figure true\n".to_owned();
    let mut from = 0;
    while from < solutions.len() {
        let target = &solutions[from].target;
        let count = solutions[from..].iter().take_while(|s| s.target == *target).count();
        let line = |s: &Solution| {
            let value = match (s.value, s.unknown.starts_with("share")) {
                (None, _) => "none".to_owned(),
                (Some(value), true) => format!("{:.1}%", 100.0 * value),
                (Some(value), false) => figure(value),
            };
            let possible = if s.possible { "" } else { "impossible" };
            vec!["  ".to_owned() + &s.assumed, s.unknown.to_owned(), value, possible.to_owned(), s.note.clone()]
        };
        let rows: Vec<_> = solutions[from..from + count].iter().map(line).collect();
        text += &format!("\n{target}\n{}", columns(&rows, &[2]));
        from += count;
    }
    text
}

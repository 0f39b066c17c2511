//! Standard output. A reader that goes away (`| head`) ends the program quietly instead of with a panic.

use crate::failure::written;
use miette::Result;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// Writes text as it is, at once.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes text and ends the line.
pub fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes what a model said. A terminal gets no control characters but line ends and tabs: they could move its cursor.
pub fn said(text: &str) -> Result<()> {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if !io::stdout().is_terminal() || text.chars().all(harmless) {
        return print(text);
    }
    print(&text.chars().map(|c| if harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect::<String>())
}

/// Says something on standard error, if anybody is there.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes one JSON value on a line of its own.
pub fn json(value: &Value) -> Result<()> {
    line(&value.to_string())
}

/// A table whose first column is what a line is about: `rows` of (title, text).
pub fn facts(rows: &[(String, String)]) -> Result<()> {
    let width = rows.iter().map(|(title, _)| title.chars().count()).max().unwrap_or(0);
    let lines = rows.iter().map(|(title, text)| format!("{title:width$}  {text}\n"));
    print(&lines.collect::<String>())
}

/// A count with a unit: 1.8 T, 280.0 B, 12.3 M, 456.
pub fn count(n: u64) -> String {
    let scales = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")];
    match scales.into_iter().find(|(scale, _)| n as f64 >= *scale) {
        Some((scale, unit)) => format!("{:.1} {unit}", n as f64 / scale),
        None => n.to_string(),
    }
}

/// Bytes with a decimal unit, as disks and bandwidths are given.
pub fn bytes(n: u64) -> String {
    let scales = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match scales.into_iter().find(|(scale, _)| n as f64 >= *scale) {
        Some((scale, unit)) => format!("{:.2} {unit}", n as f64 / scale),
        None => format!("{n} bytes"),
    }
}

//! The page of a run with stages: a table that leads to the page of each.

use super::page::{count, duration, escape, money, state};
use super::{Report, write};
use crate::{TrainError, files};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const STYLE: &str = include_str!("page.css");

/// What a stage was, and where its page is; nothing of one that has not begun.
pub type StagePage = (String, Option<(Report, PathBuf)>);

/// Writes the pages of a run with these stages, and one that leads to them; says where that is, and what the others tell.
///
/// # Errors
/// What cannot be read or written.
pub fn write_stages(run: &Path, names: &[String], price: f64) -> Result<(Vec<StagePage>, PathBuf), TrainError> {
    let page = |name: &String| {
        let folder = run.join(name);
        let page = folder.join("recipe.toml").exists().then(|| write(&folder, price)).transpose()?;
        Ok((name.clone(), page))
    };
    let pages: Vec<StagePage> = names.iter().map(page).collect::<Result<_, TrainError>>()?;
    let path = run.join("report.html");
    files::replace(&path, render(&super::name(run), &pages, price).as_bytes())?;
    Ok((pages, path))
}

fn render(name: &str, pages: &[StagePage], price: f64) -> String {
    let mut rows = String::new();
    let mut whole = 0.0;
    for (stage, page) in pages {
        let stage = escape(stage);
        let Some((report, _)) = page else {
            let _ = write!(rows, "<tr><th>{stage}<td><td><td><td><td class=about>Not begun");
            continue;
        };
        let parts = report.timing.parts();
        whole += parts.whole();
        let loss = report.log.steps.entries().last().and_then(|step| step.loss.mean());
        let _ = write!(
            rows,
            "<tr><th><a href=\"{stage}/report.html\">{stage}</a><td>{}<td>{}<td>{:.1}%<td>{}<td class=about>{}",
            count(report.log.tokens),
            loss.map_or_else(|| "–".into(), |loss| format!("{loss:.4}")),
            100.0 * parts.goodput(),
            duration(parts.whole()),
            escape(&state(report)),
        );
    }
    let cost =
        if price > 0.0 { format!(", {} at {price:.2} an hour", money(whole / 3600.0 * price)) } else { String::new() };
    let name = escape(name);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{name}</title>\
         <style>{STYLE}</style><main><h1>{name}</h1><p>A run in stages: {} of work in all{cost}.</p>\
         <div class=wide><table><tr class=head><th>stage<th>tokens<th>loss<th>goodput<th>time<th class=about>state{rows}</table></div></main></html>\n",
        duration(whole)
    )
}

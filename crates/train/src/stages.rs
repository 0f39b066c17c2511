//! A recipe with stages: a run for each, in a folder of its own below the run's, one after the other.
//!
//! `RUN/stages.json` lists them, `RUN/NAME/` is an ordinary run, and `RUN/model` is a copy of the model that the last one has exported. A stage begins from
//! the folder `model` of the one before, and its checkpoints keep the checksum of that: they never go on from anything else.

use crate::checkpoint::{Checkpoints, digest};
use crate::run::{is_finished, lock, put_model, train_from};
use crate::setup;
use crate::{Options, Outcome, TrainError, Watcher, files, train};
use spec::recipe::{Recipe, Stage};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The names of a run's stages, in order.
const LIST: &str = "stages.json";

/// Runs every stage that is not finished, in order, or the one run of a recipe that has no stages.
///
/// # Errors
/// What cannot be followed, read or written; all stages are checked before any time is spent.
pub fn train_stages(stages: &[Stage], options: &Options<'_>, watcher: &mut dyn Watcher) -> Result<Outcome, TrainError> {
    let named: Option<Vec<(&str, &Recipe)>> = stages.iter().map(|s| Some((s.name.as_deref()?, &s.recipe))).collect();
    let stages = match (named, stages) {
        (Some(named), [_, ..]) => named,
        (_, [stage]) => return train(&stage.recipe, options, watcher),
        _ => return Err(TrainError::NoStages),
    };
    check(&stages, options)?;
    let _held = lock(options.run)?;
    begin(&stages, options.run)?;
    let mut before: Option<PathBuf> = None;
    for (number, (name, recipe)) in (1..).zip(&stages) {
        let run = options.run.join(name);
        let recipe = going_on(recipe, before.as_deref())?;
        // The last one tells itself what it has become.
        if number < stages.len() && is_finished(&run, &recipe)? {
            before = Some(run.join("model"));
            continue;
        }
        watcher.note(&format!("stage {number} of {}: {name}", stages.len()));
        let begun_from = before.as_deref().map(digest).transpose()?;
        match train_from(&recipe, begun_from, &Options { run: &run, ..*options }, watcher)? {
            Outcome::Finished { step, model } if number == stages.len() => {
                let copy = |beside: &Path| copy_files(&model, beside);
                return Ok(Outcome::Finished { step, model: put_model(options.run, copy)? });
            }
            Outcome::Finished { model, .. } => before = Some(model),
            other => return Ok(other),
        }
    }
    Err(TrainError::NoStages)
}

/// The names of the stages that a run's folder lists; none if it holds no run with stages.
///
/// # Errors
/// A list that cannot be read.
pub fn listed(run: &Path) -> Result<Option<Vec<String>>, TrainError> {
    let path = run.join(LIST);
    match fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(|e| TrainError::damaged(&path, e.to_string()))?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TrainError::io("read", &path)(error)),
    }
}

/// Refuses what the stages that are still to come could not do. The one that comes next checks itself, in full.
fn check(stages: &[(&str, &Recipe)], options: &Options<'_>) -> Result<(), TrainError> {
    let mut before: Option<PathBuf> = None;
    let mut next = None;
    for (at, (name, recipe)) in stages.iter().enumerate() {
        let run = options.run.join(name);
        if let Some(model) = &next {
            setup::check(recipe, options.base, model)
                .map_err(|source| TrainError::InStage { stage: (*name).to_owned(), source: source.into() })?;
            continue;
        }
        let recipe = going_on(recipe, before.as_deref())?;
        if is_finished(&run, &recipe)? {
            before = Some(run.join("model"));
            continue;
        }
        if let Some((later, _)) = stages.get(at + 1) {
            check_tokens(&run, &recipe, &options.run.join(later))?;
        }
        next = Some(recipe);
    }
    Ok(())
}

/// A stage from which another one has gone on cannot learn more.
fn check_tokens(run: &Path, recipe: &Recipe, later: &Path) -> Result<(), TrainError> {
    let seen = match Checkpoints::there(run).last()? {
        Some(path) => crate::checkpoint::read_state(&path).map_or(u64::MAX, |state| state.tokens),
        None => return Ok(()),
    };
    match run.join("model").exists() && seen < recipe.train.tokens && Checkpoints::there(later).last()?.is_some() {
        true => Err(TrainError::StageIsOver {
            run: run.to_owned(),
            later: later.to_owned(),
            seen,
            tokens: recipe.train.tokens,
        }),
        false => Ok(()),
    }
}

/// Lists the stages, unless the folder holds another run.
fn begin(stages: &[(&str, &Recipe)], run: &Path) -> Result<(), TrainError> {
    let names: Vec<&str> = stages.iter().map(|(name, _)| *name).collect();
    if run.join("checkpoints").exists() {
        return Err(TrainError::OtherStages { run: run.to_owned(), was: "no stages".into(), is: names.join(", ") });
    }
    if let Some(was) = listed(run)?.filter(|was| was.iter().zip(&names).any(|(was, is)| was != is)) {
        return Err(TrainError::OtherStages { run: run.to_owned(), was: was.join(", "), is: names.join(", ") });
    }
    let path = run.join(LIST);
    let text = serde_json::to_string(&names).map_err(|e| TrainError::damaged(&path, e.to_string()))?;
    files::replace(&path, format!("{text}\n").as_bytes())
}

/// The recipe of a stage, from the model of the one before.
fn going_on(recipe: &Recipe, before: Option<&Path>) -> Result<Recipe, TrainError> {
    let Some(model) = before else { return Ok(recipe.clone()) };
    let whole = std::path::absolute(model).map_err(TrainError::io("find", model))?;
    let no_text = || TrainError::io("name in a recipe", model)(io::Error::other("it is no UTF-8"));
    Ok(recipe.continuing(whole.to_str().ok_or_else(no_text)?))
}

fn copy_files(from: &Path, to: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(to).map_err(TrainError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(TrainError::io("read", from))? {
        let path = entry.map_err(TrainError::io("read", from))?.path();
        fs::copy(&path, to.join(path.file_name().unwrap_or_default())).map_err(TrainError::io("copy", &path))?;
    }
    Ok(())
}

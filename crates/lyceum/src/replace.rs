//! Where a converted model goes: nothing is lost before the new one is complete, and nothing but a model is replaced.

use crate::failure::misuse;
use miette::{Context, IntoDiagnostic, Result, miette};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// A place that is free, or holds a model that may be replaced.
pub struct Destination<'p> {
    path: &'p Path,
    replaces: bool,
}

impl<'p> Destination<'p> {
    /// Checks the place before any work is done.
    pub fn new(source: &Path, path: &'p Path, force: bool) -> Result<Self> {
        if path.file_name().is_none() {
            return Err(misuse(format!("{} names no file or folder to write", path.display())));
        }
        // The source itself, or a folder that holds it.
        if let (Ok(source), Ok(place)) = (source.canonicalize(), path.canonicalize())
            && source.starts_with(&place)
        {
            return Err(misuse(format!("{} is where the source is: choose another place to write", path.display())));
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            return Err(miette!(help = "create it first", "there is no folder {}", folder.display()));
        }
        let is_free = !path.exists() || path.is_dir() && is_empty(path)?;
        if !is_free && !force {
            return Err(miette!(
                help = "choose another name, or --force to replace it",
                "{} exists already",
                path.display()
            ));
        }
        if !is_free {
            check_replaceable(path)?;
        }
        Ok(Self { path, replaces: !is_free })
    }

    /// Has `write` make the model, beside what it replaces, and then puts it into its place.
    pub fn fill(&self, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if !self.replaces {
            return write(self.path);
        }
        let beside = self.beside();
        remove(&beside)?;
        let done = write(&beside).and_then(|()| remove(self.path)).and_then(|()| {
            fs::rename(&beside, self.path)
                .into_diagnostic()
                .wrap_err_with(|| format!("cannot create {}", self.path.display()))
        });
        if done.is_err() {
            let _ = remove(&beside);
        }
        done
    }

    /// Hidden, and of the same kind.
    fn beside(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".new-{name}"))
    }
}

/// A folder is replaced only if it holds a model and nothing else.
fn check_replaceable(path: &Path) -> Result<()> {
    if !path.is_dir() {
        return match path.extension() == Some(OsStr::new("gguf")) {
            true => Ok(()),
            false => Err(miette!("{} is a file and no model: remove it yourself", path.display())),
        };
    }
    for entry in fs::read_dir(path).into_diagnostic()? {
        let name = entry.into_diagnostic()?.file_name();
        if !name.to_str().is_some_and(is_model_file) {
            let foreign = path.join(name);
            return Err(miette!(
                help = "move it elsewhere, or choose another place to write",
                "{} is no part of a model, so the folder is not replaced",
                foreign.display()
            ));
        }
    }
    Ok(())
}

/// The files of a model folder.
fn is_model_file(name: &str) -> bool {
    let exact = ["config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"];
    let starts = ["tokenizer", "chat_template", "generation_config"];
    exact.contains(&name)
        || name.ends_with(".safetensors")
        || name.ends_with(".safetensors.index.json")
        || starts.iter().any(|start| name.starts_with(start))
}

fn is_empty(folder: &Path) -> Result<bool> {
    let mut entries =
        fs::read_dir(folder).into_diagnostic().wrap_err_with(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.next().is_none())
}

/// Removes a model: a file, or the files of a folder and the folder.
fn remove(path: &Path) -> Result<()> {
    let gone = match path.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(metadata) if metadata.is_dir() => {
            check_replaceable(path)?;
            fs::remove_dir_all(path)
        }
        Ok(_) => fs::remove_file(path),
    };
    gone.into_diagnostic().wrap_err_with(|| format!("cannot remove {}", path.display()))
}

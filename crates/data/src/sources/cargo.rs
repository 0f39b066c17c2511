//! The crates that a program was built from.

use super::{Compression, File, Format, Kind, Listing, kind, walk};
use crate::collect::{Error, Result};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates of a Cargo.lock, as cargo has unpacked them on this machine.
#[derive(Debug, Clone)]
pub struct Cargo {
    /// The Cargo.lock.
    pub lock: PathBuf,
    /// Cargo's folder: `$CARGO_HOME`, or `.cargo` in the home folder.
    pub home: PathBuf,
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
}

impl Cargo {
    /// The crates of a Cargo.lock, in the folder of whoever runs this.
    pub fn new(lock: impl Into<PathBuf>) -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = || set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".cargo"));
        let home = set("CARGO_HOME").or_else(user);
        let home = home.ok_or_else(|| Error::Options("neither CARGO_HOME nor HOME is set".into()))?;
        Ok(Self { lock: lock.into(), home })
    }

    /// The files of all crates from registries, in the order of the lock file (by name and version).
    pub(super) fn list(&self, wanted: Kind) -> Result<Listing> {
        let mut listing = Listing::default();
        let registries = self.registries()?;
        for package in self.packages()? {
            let folder = format!("{}-{}", package.name, package.version);
            let found = registries.iter().map(|registry| registry.join(&folder)).find(|folder| folder.is_dir());
            let Some(path) = found else {
                listing.not_found.push(format!("{} {}", package.name, package.version));
                continue;
            };
            walk::walk(&path, &path, &mut |file, name, bytes| {
                if let Some(format) = format_of(file, wanted) {
                    let name = format!("{folder}/{name}");
                    let compression = Compression::None;
                    listing.files.push(File { path: file.to_owned(), name, format, compression, bytes });
                }
            })?;
        }
        Ok(listing)
    }

    fn packages(&self) -> Result<Vec<Package>> {
        let text = fs::read_to_string(&self.lock).map_err(Error::io("read", &self.lock))?;
        let lock: Lock = toml::from_str(&text).map_err(|error| Error::damaged(self.lock.display(), error.message()))?;
        let mut packages = lock.package;
        packages.retain(|package| {
            package.source.as_ref().is_some_and(|source| source.starts_with("registry+"))
                && !is_generated(&package.name)
        });
        packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Ok(packages)
    }

    /// Where cargo unpacks, one folder per registry.
    fn registries(&self) -> Result<Vec<PathBuf>> {
        let folder = self.home.join("registry").join("src");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &folder)(error)),
        };
        let mut folders = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        if let Ok(folders) = &mut folders {
            folders.sort();
        }
        folders.map_err(Error::io("read", &folder))
    }
}

/// Crates that are bindings made by machines.
fn is_generated(name: &str) -> bool {
    let whole = ["winapi", "linux-raw-sys", "web-sys"];
    let start = ["windows", "winapi-"];
    whole.contains(&name) || start.iter().any(|start| name.starts_with(start))
}

fn format_of(path: &Path, wanted: Kind) -> Option<Format> {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    match (wanted, is_rust) {
        (Kind::Docs, true) => Some(Format::RustDocs),
        (Kind::Docs, false) => kind::of(path).map(|(format, _)| format).filter(|f| *f == Format::Plain(Kind::Docs)),
        (_, true) => Some(Format::Plain(Kind::Code)),
        (_, false) => None,
    }
}

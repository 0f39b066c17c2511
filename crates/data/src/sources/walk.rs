//! The files below a path.

use super::{File, Listing, Skip, kind, portable};
use crate::collect::{Error, Result};
use std::fs;
use std::path::Path;

/// A file, or all files in a folder and the folders in it, sorted by name. What starts with a dot is left out.
pub(super) fn list(path: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
    if metadata.is_dir() {
        walk(path, path, &mut |file, name, bytes| match kind::of(file) {
            Some((format, compression)) => {
                listing.files.push(File { path: file.to_owned(), name, format, compression, bytes });
            }
            None => listing.skipped.push((name, Skip::UnknownKind)),
        })?
        .into_iter()
        .for_each(|link| listing.skipped.push((link, Skip::Link)));
    } else {
        let (format, compression) = kind::of_named(path);
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        listing.files.push(File { path: path.to_owned(), name, format, compression, bytes: metadata.len() });
    }
    Ok(listing)
}

/// Calls `each` with every file below `folder`, its path from `root` and its size, in order; returns the links.
pub(super) fn walk(root: &Path, folder: &Path, each: &mut dyn FnMut(&Path, String, u64)) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(Error::io("read", folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut links = Vec::new();
    for entry in entries {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let name = portable(path.strip_prefix(root).unwrap_or(&path));
        let metadata = entry.metadata().map_err(Error::io("read", &path))?;
        if metadata.is_dir() {
            links.extend(walk(root, &path, each)?);
        } else if metadata.is_file() {
            each(&path, name, metadata.len());
        } else if metadata.is_symlink() {
            links.push(name);
        }
    }
    Ok(links)
}

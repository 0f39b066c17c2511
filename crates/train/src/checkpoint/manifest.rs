//! Which files a checkpoint has, and their checksums.

use crate::TrainError;
use crate::files::write_synced;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::Path;
use twox_hash::xxhash3_128::Hasher;

const NAME: &str = "manifest.json";

/// Every file of a checkpoint but the manifest itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    /// XXH3, 128 bits, in hexadecimal.
    xxh3: String,
}

/// Writes down what is in a folder, and waits until the disk has all of it.
pub(super) fn seal(folder: &Path) -> Result<(), TrainError> {
    let mut files = BTreeMap::new();
    survey(folder, "", &mut |path, name| {
        // Written to, as some systems wait only for files that can be.
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(TrainError::io("read", path))?;
        let entry = checksum(&file).and_then(|entry| file.sync_all().map(|()| entry));
        files.insert(name, entry.map_err(TrainError::io("write", path))?);
        Ok(())
    })?;
    let path = folder.join(NAME);
    let text = serde_json::to_string_pretty(&Manifest { files });
    let text = text.map_err(|e| TrainError::damaged(&path, e.to_string()))?;
    write_synced(&path, format!("{text}\n").as_bytes())?;
    sync_folders(folder)
}

/// Reads every byte and compares; the problem, in words, if something does not fit.
pub(super) fn verify(folder: &Path) -> Result<(), String> {
    let text = fs::read_to_string(folder.join(NAME)).map_err(|e| format!("{NAME}: {e}"))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| format!("{NAME}: {e}"))?;
    let mut left = manifest.files;
    for (name, entry) in std::mem::take(&mut left) {
        let found = File::open(folder.join(&name)).and_then(|file| checksum(&file));
        match found {
            Ok(found) if found == entry => {}
            Ok(found) if found.bytes != entry.bytes => {
                return Err(format!("{name} has {} bytes, {} were written", found.bytes, entry.bytes));
            }
            Ok(_) => return Err(format!("the checksum of {name} does not fit its content")),
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Ok(())
}

/// A checksum of every file in a folder and its name, in hexadecimal.
pub(crate) fn digest(folder: &Path) -> Result<String, TrainError> {
    let mut files = BTreeMap::new();
    survey(folder, "", &mut |path, name| {
        let entry = File::open(path).and_then(|file| checksum(&file)).map_err(TrainError::io("read", path))?;
        files.insert(name, entry.xxh3);
        Ok(())
    })?;
    let mut hasher = Hasher::new();
    files.iter().for_each(|(name, sum)| hasher.write(format!("{name}\n{sum}\n").as_bytes()));
    Ok(format!("{:032x}", hasher.finish_128()))
}

fn checksum(mut file: &File) -> std::io::Result<Entry> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Entry { bytes, xxh3: format!("{:032x}", hasher.finish_128()) });
        }
        hasher.write(&buffer[..count]);
        bytes += count as u64;
    }
}

/// Calls `f` with every file below a folder and its name, `/` between the parts.
fn survey(
    folder: &Path,
    prefix: &str,
    f: &mut dyn FnMut(&Path, String) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    for entry in fs::read_dir(folder).map_err(TrainError::io("read", folder))? {
        let path = entry.map_err(TrainError::io("read", folder))?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        match path.is_dir() {
            true => survey(&path, &format!("{name}/"), f)?,
            false => f(&path, name)?,
        }
    }
    Ok(())
}

fn sync_folders(folder: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(folder).map_err(TrainError::io("read", folder))? {
        let path = entry.map_err(TrainError::io("read", folder))?.path();
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    crate::files::sync_folder(folder)
}

//! Files that are there whole or not at all.

use crate::TrainError;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Writes a file beside and puts it in its place.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.partial"));
    write_synced(&beside, bytes)?;
    fs::rename(&beside, path).map_err(TrainError::io("write", path))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Writes a file and waits until the disk has it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(TrainError::io("write", path))
}

/// Waits until the disk knows what is in a folder.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), TrainError> {
    // Elsewhere folders cannot be opened.
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(TrainError::io("write", folder))?;
    }
    Ok(())
}

//! Reading the files of a run that may have been killed while it wrote.

use crate::TrainError;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

/// Hands over every line that is whole, in order; returns how many were not. A file that is not there has no lines.
pub(super) fn for_each<T: DeserializeOwned>(path: &Path, f: &mut dyn FnMut(T)) -> Result<u64, TrainError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        opened => opened.map_err(TrainError::io("read", path))?,
    };
    let mut lines = BufReader::new(file);
    let (mut line, mut broken) = (Vec::new(), 0);
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(TrainError::io("read", path))? == 0 {
            return Ok(broken);
        }
        match serde_json::from_slice(&line) {
            Ok(entry) => f(entry),
            Err(_) => broken += u64::from(line.iter().any(|byte| !byte.is_ascii_whitespace())),
        }
    }
}

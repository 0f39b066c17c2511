//! What the tests of files share.
#![allow(dead_code)]

pub mod tiny;

use model::ParameterRows;
use model::files::{Checkpoint, FileError};
use spec::Parameter;
use std::path::{Path, PathBuf};
use tensor::MatrixSource;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

pub fn fixture_model(name: &str) -> PathBuf {
    fixtures().join("models").join(name)
}

/// Every fixture's folder.
pub fn fixture_models() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures().join("models")).unwrap();
    let mut models: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("config.json").exists()).collect();
    models.sort();
    assert!(!models.is_empty());
    models
}

/// All values of a parameter, row after row.
pub fn values(checkpoint: &Checkpoint, parameter: &Parameter) -> Vec<f32> {
    if parameter.shape.len() == 1 {
        return checkpoint.vector(parameter.id).unwrap();
    }
    let matrix = checkpoint.matrix(parameter.id).unwrap();
    let mut values = vec![0.0; matrix.rows() * matrix.cols()];
    for (row, out) in values.chunks_mut(matrix.cols()).enumerate() {
        matrix.read_f32(row, out);
    }
    values
}

/// Reads everything there is, as a loader would, and keeps the first error.
pub fn read_all(path: &Path) -> Result<(), FileError> {
    let checkpoint = Checkpoint::open(path)?;
    for parameter in checkpoint.table.iter() {
        match parameter.shape[..] {
            [_] => drop(checkpoint.vector(parameter.id)?),
            _ => {
                let matrix = checkpoint.matrix(parameter.id)?;
                let mut out = vec![0.0; matrix.cols()];
                for row in 0..matrix.rows() {
                    matrix.read_f32(row, &mut out);
                    model::files::check_finite(matrix.name(), row, &out)?;
                }
            }
        }
    }
    Ok(())
}

#[track_caller]
pub fn assert_same(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.table.parameters.len(), b.table.parameters.len());
    for parameter in a.table.iter() {
        assert!(values(a, parameter) == values(b, parameter), "{} differs", parameter.name);
    }
}

use model::files::Checkpoint;
use std::path::Path;
use tensor::MatrixSource;

/// Opens a checkpoint and reads one row of everything: a value or an error, never a panic.
pub fn read(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else {
        return;
    };
    for parameter in checkpoint.table.iter() {
        if parameter.shape.len() == 1 {
            let _ = checkpoint.vector(parameter.id);
        } else if let Ok(matrix) = checkpoint.matrix(parameter.id) {
            let mut row = vec![0.0; matrix.cols()];
            matrix.read_f32(matrix.rows() - 1, &mut row);
        }
    }
}

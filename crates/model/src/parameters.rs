//! Whatever gives a decoder's parameters: files, a decoder in memory, a random start.

use crate::files::FileError;
use spec::Parameter;
use tensor::MatrixSource;

/// Parameters, asked for by the rows of a [`spec::ParameterTable`].
pub trait Parameters: Sync {
    /// A matrix, to be read row by row. Its values are not checked.
    ///
    /// # Errors
    /// A parameter that is not there, or of another shape.
    fn matrix<'a>(&'a self, parameter: &'a Parameter) -> Result<Box<dyn ParameterRows + 'a>, FileError>;

    /// A vector (norm, bias, sinks).
    ///
    /// # Errors
    /// The same.
    fn vector(&self, parameter: &Parameter) -> Result<Vec<f32>, FileError>;
}

/// The rows of a matrix that has a name.
pub trait ParameterRows: MatrixSource {
    /// What messages call it.
    fn name(&self) -> &str;

    /// Whether [`MatrixSource::format`] holds the values without loss.
    fn is_exact(&self) -> bool {
        true
    }

    /// Lets go of what reading has brought into memory and can be brought again.
    fn release(&self) {}
}

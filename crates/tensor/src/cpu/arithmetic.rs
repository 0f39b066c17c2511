//! How much was a device asked to compute? Counted where operations are called, from the shapes that they are called with.

use super::Device;
use super::attention::Chunk;
use super::matrix::Matrix;

/// Floating-point operations (a multiply and an add are two) since the device was made. Norms, activations, softmax and the optimiser are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    /// Products with matrices: forward, and gradients of inputs and of weights.
    pub products: u64,
    /// Queries with the keys that they see, and what they see of the values; the gradients of both.
    pub attention: u64,
}

/// Of attention's gradient: scores again, and the gradients of probabilities, values, queries and keys. Forward there are two products.
pub(crate) const BACKWARD_PRODUCTS: u64 = 5;

impl Arithmetic {
    pub(crate) fn product(&mut self, rows: usize, matrix: &Matrix) {
        self.products += 2 * rows as u64 * matrix.rows() as u64 * matrix.cols() as u64;
    }

    /// `products` products over every (query, key) pair that `chunks` see, of heads that are `width` wide together.
    pub(crate) fn attend(&mut self, products: u64, chunks: &[Chunk<'_>], window: Option<usize>, width: usize) {
        let seen = |chunk: &Chunk<'_>, i: usize| window.unwrap_or(usize::MAX).min(chunk.position + i + 1) as u64;
        let pairs: u64 = chunks.iter().flat_map(|chunk| (0..chunk.len).map(move |i| seen(chunk, i))).sum();
        self.attention += 2 * products * pairs * width as u64;
    }
}

impl Device {
    /// What was asked of it so far.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }
}

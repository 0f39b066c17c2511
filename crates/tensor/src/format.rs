//! Weight formats and where weights come from.

/// How the elements of a weight matrix are held while it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// OCP 8-bit float, 4 exponent and 3 mantissa bits, one f32 scale per 128 inputs.
    Fp8,
    /// Two's complement bytes, one f16 scale per 32 inputs (GGUF's Q8_0).
    Int8,
    /// 0..=15 standing for -8..=7, one f16 scale per 32 inputs (GGUF's Q4_0).
    Int4,
    /// OCP microscaling: e2m1 codes, one power-of-two scale per 32 inputs.
    Mxfp4,
}

impl Format {
    /// Inputs that share a scale; 1 where there is none.
    pub fn group(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => 1,
            Format::Fp8 => 128,
            Format::Int8 | Format::Int4 | Format::Mxfp4 => 32,
        }
    }
}

/// A matrix `[rows, cols]` = `[outputs, inputs]` that can be read row by row, from a file or from memory.
/// Reads happen from several threads at once.
pub trait MatrixSource: Sync {
    /// Outputs.
    fn rows(&self) -> usize;
    /// Inputs.
    fn cols(&self) -> usize;
    /// The format that holds this source's values without loss (or, for encodings that no [`Format`]
    /// holds, the one to compute in).
    fn format(&self) -> Format;
    /// Writes row `row`, dequantised, to `out` (`cols` long).
    fn read_f32(&self, row: usize, out: &mut [f32]);
    /// For a source whose values are exactly codes of `self.format()`: writes one code a byte (`cols` long;
    /// int8 as its bits, int4 as 0..=15, mxfp4 and fp8 as their bits) and one scale a group
    /// (`cols.div_ceil(group)` long) and returns true. Otherwise returns false and writes nothing.
    fn read_codes(&self, _row: usize, _codes: &mut [u8], _scales: &mut [f32]) -> bool {
        false
    }
}

//! Where a parameter's values lie in the files, and the checks that they do.

use super::FileError;
use super::mapped::Bytes;
use super::matrix::{Data, StoredMatrix};
use super::tensors::{Encoding, TensorStore};
use spec::{HfConfig, Parameter, Quantisation, View, WeightFormat};

/// Which output of a stored tensor holds an output of the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowOrder {
    pub(super) start: usize,
    pub(super) step: usize,
    /// Rows of a head of this width are stored so that the two halves take turns (GGUF's `llama`, whose RoPE
    /// rotates neighbours where transformers rotates halves).
    pub(super) interleaved: Option<usize>,
}

impl RowOrder {
    pub(super) const PLAIN: Self = Self { start: 0, step: 1, interleaved: None };

    pub(super) fn stored(self, row: usize) -> usize {
        let row = match self.interleaved {
            None => row,
            Some(head_dim) => {
                let (head, inside) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + 2 * (inside % half) + inside / half
            }
        };
        self.start + self.step * row
    }

    /// The inverse of [`RowOrder::stored`], for parameters that have a tensor to themselves.
    pub(super) fn logical(self, stored: usize) -> usize {
        match self.interleaved {
            None => stored,
            Some(head_dim) => {
                let (head, inside) = (stored / head_dim, stored % head_dim);
                head * head_dim + inside % 2 * (head_dim / 2) + inside / 2
            }
        }
    }
}

/// How values are coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// One tensor of floats or of self-contained blocks.
    Inline,
    /// Codes, and scales in this other tensor.
    Scaled {
        scales: String,
        format: WeightFormat,
        /// gpt-oss's MXFP4, which gives the codes of a group a dimension of their own.
        grouped: bool,
    },
}

/// A parameter's place.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    pub(super) name: String,
    pub(super) coding: Coding,
    /// Which expert of how many, where a tensor stacks them.
    pub(super) expert: Option<(usize, usize)>,
    pub(super) order: RowOrder,
    /// `[inputs, outputs]`.
    pub(super) transposed: bool,
}

const FLOATS: &str = "F32, F16 and BF16";
const BLOCKS: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K and MXFP4";

impl Placement {
    /// In a Hugging Face folder.
    pub(super) fn hugging_face(parameter: &Parameter, config: &HfConfig) -> Self {
        let (expert, order, transposed) = match parameter.view {
            View::Whole => (None, RowOrder::PLAIN, false),
            View::Stacked { expert, experts, transposed, start, step } => {
                let order = RowOrder { start, step, interleaved: None };
                (Some((expert, experts)), order, transposed)
            }
        };
        let plain = Self { name: parameter.name.clone(), coding: Coding::Inline, expert, order, transposed };
        let is_matrix = parameter.shape.len() == 2;
        match config.quantisation {
            Some(Quantisation::GptOssMxfp4) if expert.is_some() && is_matrix => Self {
                name: format!("{}_blocks", parameter.name),
                coding: Coding::Scaled {
                    scales: format!("{}_scales", parameter.name),
                    format: WeightFormat::Mxfp4,
                    grouped: true,
                },
                transposed: false,
                ..plain
            },
            Some(Quantisation::Lyceum(format)) if parameter.id.role.is_quantisable() => Self {
                coding: Coding::Scaled { scales: scale_name(&parameter.name), format, grouped: false },
                transposed: false,
                ..plain
            },
            _ => plain,
        }
    }

    /// Names of all tensors that it reads.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let scales = match &self.coding {
            Coding::Inline => None,
            Coding::Scaled { scales, .. } => Some(scales.as_str()),
        };
        std::iter::once(self.name.as_str()).chain(scales)
    }

    /// The shape of a stored tensor for a parameter of `shape`, with `inner` in place of its inputs.
    fn stored_shape(&self, rows: usize, inner: &[usize]) -> Vec<usize> {
        let rows = rows * self.order.step;
        let mut shape: Vec<usize> = self.expert.iter().map(|(_, experts)| *experts).collect();
        if self.transposed {
            shape.extend(inner);
            shape.push(rows);
        } else {
            shape.push(rows);
            shape.extend(inner);
        }
        shape
    }

    fn own<'a>(&self, bytes: Bytes<'a>) -> Bytes<'a> {
        match self.expert {
            None => bytes,
            Some((expert, experts)) => bytes.part(expert, experts),
        }
    }

    /// Checks the vector of `length` values against the files.
    pub(super) fn check_vector(&self, store: &TensorStore, length: usize) -> Result<(), FileError> {
        let shape = self.stored_shape(length, &[]);
        store.expect(&self.name, &shape, FLOATS, Encoding::is_float).map(drop)
    }

    /// The vector of `length` values, read.
    pub(super) fn vector(&self, store: &TensorStore, length: usize) -> Result<Vec<f32>, FileError> {
        let shape = self.stored_shape(length, &[]);
        let (tensor, encoding) = store.expect(&self.name, &shape, FLOATS, Encoding::is_float)?;
        let matrix = StoredMatrix {
            name: self.name.clone(),
            rows: length,
            cols: 1,
            order: self.order,
            data: Data::Rows { bytes: self.own(store.bytes(tensor)), encoding },
        };
        let mut values = vec![0.0; length];
        for (row, value) in values.iter_mut().enumerate() {
            matrix.read(row, std::slice::from_mut(value));
        }
        Ok(values)
    }

    /// The matrix of `rows` outputs and `cols` inputs, checked against the files.
    pub(super) fn matrix<'a>(
        &self,
        store: &'a TensorStore,
        rows: usize,
        cols: usize,
    ) -> Result<StoredMatrix<'a>, FileError> {
        let data = match &self.coding {
            Coding::Inline => self.inline(store, rows, cols)?,
            Coding::Scaled { scales, format, grouped } => self.scaled(store, rows, cols, scales, *format, *grouped)?,
        };
        Ok(StoredMatrix { name: self.name.clone(), rows, cols, order: self.order, data })
    }

    fn inline<'a>(&self, store: &'a TensorStore, rows: usize, cols: usize) -> Result<Data<'a>, FileError> {
        let shape = self.stored_shape(rows, &[cols]);
        if self.transposed {
            let (tensor, encoding) = store.expect(&self.name, &shape, FLOATS, Encoding::is_float)?;
            return Ok(Data::Columns {
                bytes: self.own(store.bytes(tensor)),
                encoding,
                outputs: rows * self.order.step,
            });
        }
        let whole_blocks = |e: Encoding| !e.is_bare_code() && e.bytes(cols).is_some();
        let (tensor, encoding) = store.expect(&self.name, &shape, BLOCKS, whole_blocks)?;
        Ok(Data::Rows { bytes: self.own(store.bytes(tensor)), encoding })
    }

    fn scaled<'a>(
        &self,
        store: &'a TensorStore,
        rows: usize,
        cols: usize,
        scales: &str,
        format: WeightFormat,
        grouped: bool,
    ) -> Result<Data<'a>, FileError> {
        let groups = cols.div_ceil(format.group_size());
        let layout = CodeLayout::of(format);
        let shape = if grouped {
            self.stored_shape(rows, &[cols / 32, 16])
        } else {
            self.stored_shape(rows, &[layout.row_bytes(cols)])
        };
        let (codes, _) = store.expect(&self.name, &shape, layout.code_type, |e| e == layout.code)?;
        let shape = self.stored_shape(rows, &[groups]);
        let (scales, _) = store.expect(scales, &shape, layout.scale_type, |e| e == layout.scale)?;
        Ok(Data::Codes { codes: self.own(store.bytes(codes)), scales: self.own(store.bytes(scales)), format })
    }
}

/// The tensor of scales beside the codes of `name`, in our quantised files.
pub(super) fn scale_name(name: &str) -> String {
    format!("{name}_scale")
}

/// How codes and scales of a format are typed in safetensors.
pub(super) struct CodeLayout {
    pub(super) code: Encoding,
    code_type: &'static str,
    pub(super) scale: Encoding,
    scale_type: &'static str,
    codes_per_byte: usize,
}

impl CodeLayout {
    pub(super) fn of(format: WeightFormat) -> Self {
        let (code, code_type, codes_per_byte) = match format {
            WeightFormat::Int8 => (Encoding::I8, "I8", 1),
            WeightFormat::Fp8 => (Encoding::F8E4M3, "F8_E4M3", 1),
            WeightFormat::Int4 | WeightFormat::Mxfp4 => (Encoding::U8, "U8", 2),
        };
        let (scale, scale_type) = match format {
            WeightFormat::Int8 | WeightFormat::Int4 => (Encoding::F16, "F16"),
            WeightFormat::Fp8 => (Encoding::F32, "F32"),
            WeightFormat::Mxfp4 => (Encoding::U8, "U8"),
        };
        Self { code, code_type, scale, scale_type, codes_per_byte }
    }

    pub(super) fn row_bytes(&self, cols: usize) -> usize {
        cols.div_ceil(self.codes_per_byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_is_undone() {
        let order = RowOrder { interleaved: Some(6), ..RowOrder::PLAIN };
        let stored: Vec<_> = (0..12).map(|row| order.stored(row)).collect();
        assert_eq!(stored, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert!((0..12).all(|row| order.logical(order.stored(row)) == row));
    }
}

//! The tensors of a checkpoint's files, whatever their format: type, shape and place.

use super::FileError;
use super::checkpoint::TensorInfo;
use super::mapped::{Bytes, MappedFile};
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

/// How bytes stand for values. Blocks are groups of consecutive inputs with their scales among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    F32,
    F16,
    Bf16,
    I8,
    U8,
    F8E4M3,
    Q8_0,
    Q4_0,
    Q4K,
    Q5K,
    Q6K,
    /// GGUF's MXFP4: one scale byte, then 16 bytes of codes.
    Mxfp4,
}

impl Encoding {
    /// Values in a block and its bytes.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::I8 | Self::U8 | Self::F8E4M3 => (1, 1),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Mxfp4 => (32, 17),
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Codes whose scales lie in another tensor.
    pub(super) fn is_bare_code(self) -> bool {
        matches!(self, Self::I8 | Self::U8 | Self::F8E4M3)
    }

    /// Bytes of `count` values; `None` if they are not whole blocks or too many.
    pub(super) fn bytes(self, count: usize) -> Option<usize> {
        let (values, bytes) = self.block();
        count.is_multiple_of(values).then(|| (count / values).checked_mul(bytes)).flatten()
    }
}

/// One tensor.
pub(super) struct StoredTensor {
    /// `None`: a type that nothing here reads, kept to be named in messages.
    pub(super) encoding: Option<Encoding>,
    /// The format's own word for its type.
    pub(super) type_name: String,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) file: usize,
    /// Within the file, checked against its length.
    pub(super) range: Range<usize>,
}

/// Every tensor of a checkpoint, by name.
pub(super) struct TensorStore {
    /// What was opened, for messages.
    pub(super) path: PathBuf,
    pub(super) files: Vec<MappedFile>,
    tensors: HashMap<String, StoredTensor>,
}

impl TensorStore {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, files: Vec::new(), tensors: HashMap::new() }
    }

    pub(super) fn insert(&mut self, name: String, tensor: StoredTensor) -> Result<(), FileError> {
        match self.tensors.insert(name.clone(), tensor) {
            None => Ok(()),
            Some(_) => {
                let problem = format!("tensor \"{name}\" is there twice");
                Err(FileError::malformed(&self.path, problem))
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, tensor)| TensorInfo {
            name,
            type_name: &tensor.type_name,
            shape: &tensor.shape,
            bytes: tensor.range.len() as u64,
        })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn bytes(&self, tensor: &StoredTensor) -> Bytes<'_> {
        Bytes::new(&self.files[tensor.file], tensor.range.clone())
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.range.len() as u64).sum()
    }

    /// The tensor of this name, if it has this shape and an allowed type.
    pub(super) fn expect(
        &self,
        name: &str,
        shape: &[usize],
        allowed: &'static str,
        is_allowed: impl Fn(Encoding) -> bool,
    ) -> Result<(&StoredTensor, Encoding), FileError> {
        let tensor =
            self.get(name).ok_or_else(|| FileError::Missing { path: self.path.clone(), name: name.to_owned() })?;
        if tensor.shape != shape {
            return Err(FileError::WrongShape {
                path: self.path.clone(),
                name: name.to_owned(),
                found: tensor.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        match tensor.encoding {
            Some(encoding) if is_allowed(encoding) => Ok((tensor, encoding)),
            _ => Err(FileError::WrongType {
                path: self.path.clone(),
                name: name.to_owned(),
                found: tensor.type_name.clone(),
                allowed,
            }),
        }
    }
}

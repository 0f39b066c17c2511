//! What can a device compute? Formats, packed weights, and every operation of the decoder.

pub mod buffer;
pub mod cpu;
pub mod format;
pub mod machine;
pub mod pool;

pub use buffer::Tensor;
pub use cpu::Device;
pub use cpu::arithmetic::Arithmetic;
pub use cpu::attention::{AttentionSpec, Chunk};
pub use cpu::backward::{experts::ExpertSaves, loss::IGNORE, router::RouterLosses, router::softmax};
pub use cpu::experts::{Dispatch, Expert, Gating};
pub use cpu::kv::{KV_BLOCK, KvCache, KvFormat};
pub use cpu::matrix::{Interleaved, Matrix, PANEL, PackError, Stacked, packed_bytes};
pub use cpu::muon::{Muon, MuonTensor};
pub use cpu::ops::{Choice, QkTransform, RopeTable, RouterKind, Routing};
pub use cpu::optimise::{AdamW, AdamWTensor};
pub use format::{DenseSource, Format, MatrixSource};

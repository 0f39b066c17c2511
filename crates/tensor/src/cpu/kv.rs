//! The K/V cache: blocks of 32 positions, laid out as panels for the microkernel.
//!
//! A block of one layer and one K/V head holds K as two panels whose lanes are 16 positions and whose inputs are the head's dimensions, then V
//! as panels whose lanes are 16 dimensions and whose inputs are the 32 positions. Scores and the weighted sum of values are then products of
//! the same microkernel that multiplies weights. int8 keeps one f32 scale per position for K and one for V behind them.

// Writers touch single elements of blocks that belong to them.
#![allow(unsafe_code)]

use super::matrix::PANEL;
use crate::buffer::Buffer;
use half::bf16;

/// Positions of a block.
pub const KV_BLOCK: usize = 32;

/// How cached keys and values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// IEEE single; what oracles are compared with.
    F32,
    /// bfloat16.
    Bf16,
    /// Bytes with one scale per token and head, `max|x| / 127`.
    Int8,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [KvFormat; 3] = [KvFormat::F32, KvFormat::Bf16, KvFormat::Int8];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::Bf16 => "bf16",
            KvFormat::Int8 => "int8",
        }
    }

    /// Bytes of one element.
    pub fn element_bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::Bf16 => 2,
            KvFormat::Int8 => 1,
        }
    }

    /// Bytes of scales per vector: one for K and one for V of each token and head.
    pub fn scale_bytes(self) -> usize {
        if self == KvFormat::Int8 { 4 } else { 0 }
    }
}

impl std::str::FromStr for KvFormat {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        KvFormat::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| {
            format!("`{name}` is not a K/V cache format; there are {}", KvFormat::ALL.map(KvFormat::name).join(", "))
        })
    }
}

/// The cached keys and values of all layers of a decoder, in blocks that sequences refer to by number.
pub struct KvCache {
    pub(crate) format: KvFormat,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    layers: usize,
    blocks: usize,
    data: Buffer<u8>,
}

impl KvCache {
    /// A cache of `blocks` blocks for each of `layers` layers, zeroed (the operating system gives memory as it is touched).
    pub fn new(format: KvFormat, layers: usize, blocks: usize, kv_heads: usize, head_dim: usize) -> Self {
        let bytes = Self::bytes_of(format, layers, blocks, kv_heads, head_dim);
        Self { format, kv_heads, head_dim, layers, blocks, data: Buffer::zeros(bytes) }
    }

    /// Bytes of such a cache.
    pub fn bytes_of(format: KvFormat, layers: usize, blocks: usize, kv_heads: usize, head_dim: usize) -> usize {
        layers * blocks * kv_heads * block_bytes(format, head_dim)
    }

    /// How elements are held.
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// Blocks per layer.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    fn start(&self, layer: usize, block: usize, head: usize) -> usize {
        assert!(layer < self.layers && block < self.blocks && head < self.kv_heads);
        ((layer * self.blocks + block) * self.kv_heads + head) * block_bytes(self.format, self.head_dim)
    }

    pub(crate) fn block(&self, layer: usize, block: usize, head: usize) -> BlockView<'_> {
        let dims = padded_dims(self.head_dim);
        let bytes = &self.data[self.start(layer, block, head)..][..block_bytes(self.format, self.head_dim)];
        let half = KV_BLOCK * dims * self.format.element_bytes();
        let (k, rest) = bytes.split_at(half);
        let (v, scales) = rest.split_at(half);
        BlockView { k, v, scales }
    }

    /// A view through which several workers write, each to blocks of its own.
    pub(crate) fn writer(&mut self) -> KvWriter<'_> {
        KvWriter { start: self.data.as_mut_ptr(), cache: self }
    }
}

/// Dimensions of a head, padded to whole panels of V.
pub(crate) fn padded_dims(head_dim: usize) -> usize {
    head_dim.next_multiple_of(PANEL)
}

fn block_bytes(format: KvFormat, head_dim: usize) -> usize {
    2 * KV_BLOCK * (padded_dims(head_dim) * format.element_bytes() + format.scale_bytes())
}

/// One block of one layer and head.
pub(crate) struct BlockView<'a> {
    pub k: &'a [u8],
    pub v: &'a [u8],
    /// int8: 32 f32 for K, 32 for V; else empty.
    pub scales: &'a [u8],
}

/// Byte offset of input `k`, lane `lane` in a panel of `format`.
fn element(format: KvFormat, k: usize, lane: usize) -> usize {
    match format {
        KvFormat::F32 => k * 64 + lane * 4,
        KvFormat::Bf16 => k / 2 * 64 + lane * 4 + k % 2 * 2,
        KvFormat::Int8 => k / 4 * 64 + lane * 4 + k % 4,
    }
}

/// Write access to a cache from several workers.
pub(crate) struct KvWriter<'a> {
    start: *mut u8,
    cache: &'a KvCache,
}

// SAFETY: `write` and `clear` demand that no two workers touch the same block.
unsafe impl Sync for KvWriter<'_> {}

impl KvWriter<'_> {
    /// Zeroes a block, so that what an earlier sequence left cannot reach this one.
    ///
    /// # Safety
    /// No other worker reads or writes this block.
    pub(crate) unsafe fn clear(&self, layer: usize, block: usize) {
        let bytes = block_bytes(self.cache.format, self.cache.head_dim) * self.cache.kv_heads;
        // SAFETY: `start` checks the bounds; unique by the caller's promise.
        unsafe { self.start.add(self.cache.start(layer, block, 0)).write_bytes(0, bytes) };
    }

    /// Stores the key and value (`head_dim` long) of position `offset` of a block.
    ///
    /// # Safety
    /// No other worker reads or writes this block.
    pub(crate) unsafe fn write(&self, layer: usize, block: usize, head: usize, offset: usize, k: &[f32], v: &[f32]) {
        let (format, dims) = (self.cache.format, padded_dims(self.cache.head_dim));
        assert!(offset < KV_BLOCK && k.len() == self.cache.head_dim && v.len() == self.cache.head_dim);
        let panel = |inputs: usize| PANEL * inputs * format.element_bytes();
        let half = KV_BLOCK * dims * format.element_bytes();
        // SAFETY: every offset stays within the block, whose bounds `start` checks; unique by the caller's promise.
        unsafe {
            let block = self.start.add(self.cache.start(layer, block, head));
            let keys = block.add(offset / PANEL * panel(dims));
            let k_scale = store(format, k, |d| keys.add(element(format, d, offset % PANEL)));
            let v_scale = store(format, v, |d| {
                block.add(half + d / PANEL * panel(KV_BLOCK) + element(format, offset, d % PANEL))
            });
            if format == KvFormat::Int8 {
                let scales = block.add(2 * half).cast::<f32>();
                scales.add(offset).write_unaligned(k_scale);
                scales.add(KV_BLOCK + offset).write_unaligned(v_scale);
            }
        }
    }
}

/// Writes `x[d]` to `at(d)` and returns the scale, which is NaN if one of `x` is.
///
/// # Safety
/// `at(d)` is writable for an element, for every `d`.
unsafe fn store(format: KvFormat, x: &[f32], at: impl Fn(usize) -> *mut u8) -> f32 {
    let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let scale = if x.iter().any(|v| v.is_nan()) { f32::NAN } else { largest / 127.0 };
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (d, &v) in x.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            match format {
                KvFormat::F32 => at(d).cast::<f32>().write_unaligned(v),
                KvFormat::Bf16 => at(d).cast::<u16>().write_unaligned(bf16::from_f32(v).to_bits()),
                KvFormat::Int8 => at(d).cast::<i8>().write((v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8),
            }
        }
    }
    scale
}

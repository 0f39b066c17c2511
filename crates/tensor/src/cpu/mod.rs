//! The processor as a device.

pub mod arithmetic;
pub mod attention;
pub mod backward;
pub mod experts;
pub mod isa;
pub mod kv;
pub mod matmul;
pub mod matrix;
pub mod muon;
pub mod ops;
pub mod optimise;
mod pack;
mod tile;

use crate::buffer::{Buffer, Tensor};
use crate::pool::Pool;
use isa::Level;
use std::sync::Mutex;
use tile::ActivationBlock;

/// Working memory of one worker.
pub(crate) struct Scratch {
    floats: Buffer<f32>,
}

impl Scratch {
    /// At least `len` floats of whatever value.
    pub(crate) fn floats(&mut self, len: usize) -> &mut [f32] {
        if self.floats.len() < len {
            self.floats = Buffer::zeros(len.next_power_of_two());
        }
        &mut self.floats[..len]
    }
}

/// One rank's processor: its threads and their working memory. Operations are its methods; each is a whole operation of
/// the decoder, and none depends on another's timing.
pub struct Device {
    pub(crate) level: Level,
    pub(crate) pool: Pool,
    pub(crate) scratch: Vec<Mutex<Scratch>>,
    /// Quantised inputs of the current product.
    pub(crate) activations: Vec<ActivationBlock>,
    /// What the current feed-forward holds between its projections, as f32 or quantised.
    pub(crate) hidden: Tensor,
    pub(crate) hidden_blocks: Vec<ActivationBlock>,
    /// What weight gradients rearrange.
    pub(crate) weight_scratch: backward::matmul::WeightScratch,
    /// A transposed matrix kept to be overwritten.
    pub(crate) spare: Option<matrix::Matrix>,
    pub(crate) arithmetic: arithmetic::Arithmetic,
}

impl Device {
    /// A device of `threads` workers at the best instruction set found.
    pub fn new(threads: usize) -> Self {
        Self::with_level(threads, Level::detect())
    }

    /// A device that uses the portable code: the oracle of the vector kernels.
    pub fn portable(threads: usize) -> Self {
        Self::with_level(threads, Level::Portable)
    }

    fn with_level(threads: usize, level: Level) -> Self {
        let pool = Pool::new(threads);
        let scratch = (0..pool.threads()).map(|_| Mutex::new(Scratch { floats: Buffer::zeros(1 << 14) })).collect();
        Self {
            level,
            pool,
            scratch,
            activations: Vec::new(),
            hidden: Tensor::zeros(0, 0),
            hidden_blocks: Vec::new(),
            weight_scratch: Default::default(),
            spare: None,
            arithmetic: Default::default(),
        }
    }

    /// Workers.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set in use.
    pub fn level(&self) -> Level {
        self.level
    }
}

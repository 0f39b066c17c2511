//! What does one rank hold? The parameter table, divided over stages, experts and the ranks that share matrices.

use crate::config::DecoderConfig;
use crate::parameters::{Parameter, ParameterTable, Role, Stage, TensorAxis};
use std::ops::Range;

/// One of `of` equal shares of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which share, from 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl Slot {
    /// The whole axis.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// How many of `len` this share holds; the first shares hold one more where it does not come out even.
    fn of(self, len: usize) -> usize {
        len / self.of + usize::from(self.index < len % self.of)
    }

    /// Whether element `index` of `len` is in this share.
    fn holds(self, index: usize, len: usize) -> bool {
        let (each, extra) = (len / self.of, len % self.of);
        let start = self.index * each + self.index.min(extra);
        (start..start + self.of(len)).contains(&index)
    }
}

/// A rank's place, as far as it decides what the rank holds. Ranks that differ in their data alone hold the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Ranges of layers: one, or as many as chunks of an interleaved pipeline meet on this stage.
    pub layers: Vec<Range<usize>>,
    /// Whether it looks up embeddings.
    pub first: bool,
    /// Whether it computes logits.
    pub last: bool,
    /// Its share of every matrix.
    pub tensor: Slot,
    /// Its share of the experts of each layer.
    pub expert: Slot,
}

impl Part {
    /// Everything on one rank.
    pub fn whole(config: &DecoderConfig) -> Self {
        let layers = std::iter::once(0..config.layers.len()).collect();
        Self { layers, first: true, last: true, tensor: Slot::WHOLE, expert: Slot::WHOLE }
    }
}

/// Elements that one rank holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Held {
    /// Of parameters that every token meets: the same on all ranks that differ in data or experts alone.
    pub shared: u64,
    /// Of experts: the same only on ranks that hold the same experts.
    pub experts: u64,
}

impl Held {
    /// Both together.
    pub fn total(self) -> u64 {
        self.shared + self.experts
    }
}

impl Parameter {
    /// Elements of this parameter on a rank; 0 where it has no part in it. A K/V head that has fewer heads than ranks is held whole by each of
    /// those that need it. A tied embedding lies on the last stage too.
    pub fn held(&self, config: &DecoderConfig, part: &Part) -> u64 {
        let staged = match self.stage() {
            Stage::First => part.first || (part.last && config.tie_embeddings),
            Stage::Layer(layer) => part.layers.iter().any(|range| range.contains(&layer)),
            Stage::Last => part.last,
        };
        let routed = self.id.expert.is_none_or(|expert| {
            let experts = self.id.layer.map_or(1, |layer| config.experts(layer));
            part.expert.holds(expert, experts)
        });
        if !(staged && routed) {
            return 0;
        }
        let rest = |axis: usize| self.elements() / self.shape[axis].max(1);
        let held = match self.tensor_axis {
            None => self.elements(),
            Some(TensorAxis::Column) => self.columns(config, part.tensor) * rest(0),
            Some(TensorAxis::Row) => part.tensor.of(self.shape[1]) * rest(1),
        };
        held as u64
    }

    /// How many ranks of a tensor-parallel group of `tensor` hold the same elements of it.
    pub fn copies(&self, config: &DecoderConfig, tensor: usize) -> usize {
        match self.tensor_axis {
            None => tensor,
            Some(_) if self.is_key_value() => tensor / tensor.min(config.kv_heads),
            Some(_) => 1,
        }
    }

    fn columns(&self, config: &DecoderConfig, tensor: Slot) -> usize {
        if !self.is_key_value() {
            return tensor.of(self.shape[0]);
        }
        match config.kv_heads {
            heads if heads >= tensor.of => tensor.of(heads) * config.head_dim,
            _ => config.head_dim,
        }
    }

    fn is_key_value(&self) -> bool {
        matches!(self.id.role, Role::KProj | Role::VProj | Role::KBias | Role::VBias)
    }
}

impl ParameterTable {
    /// What a rank holds.
    pub fn held(&self, config: &DecoderConfig, part: &Part) -> Held {
        let mut held = Held::default();
        for parameter in self.iter() {
            let sum = if parameter.is_expert() { &mut held.experts } else { &mut held.shared };
            *sum += parameter.held(config, part);
        }
        held
    }

    /// Bytes with `matrix` bytes for each element of the matrices that quantised files quantise and `rest` for each of all others.
    pub fn bytes(&self, matrix: f64, rest: f64) -> f64 {
        let each = |p: &Parameter| p.elements() as f64 * if p.id.role.is_quantisable() { matrix } else { rest };
        self.iter().map(each).sum()
    }
}

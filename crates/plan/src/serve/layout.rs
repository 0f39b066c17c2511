//! Who holds which part of a served model, and whether it fits.

use super::shape::{LayerShape, Shape};
use crate::hardware::{Accelerator, Precision};
use serde::Deserialize;
use thiserror::Error;

/// How the cache is divided over tensor ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvSplit {
    /// By K/V heads; ranks beyond these hold copies (Multi-Query Attention: all of them the same).
    #[default]
    Heads,
    /// By sequences, at the price of exchanging queries and outputs (Pope 2022).
    Batch,
}

/// How devices share one copy of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Ranks that share every matrix.
    pub tensor: usize,
    /// Stages.
    pub pipeline: usize,
    /// Groups that hold different experts; sequences (attention and cache) are divided over them.
    pub expert: usize,
    /// Layers of the first stage, where it has fewer than the others; even if not given.
    pub first_layers: Option<usize>,
    /// How the cache is divided.
    pub kv: KvSplit,
    /// Two halves of a step take turns: one computes while the other's rows travel. Each reads its own weights.
    pub overlap: bool,
    /// Tensor ranks form a plane that divides matrices both ways, inputs and outputs (two-dimensional weight-stationary, Pope 2022).
    pub plane: bool,
}

/// What numbers are stored and multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Weights in memory.
    pub weights: Precision,
    /// Products of weights and activations.
    pub arithmetic: Precision,
    /// Keys and values.
    pub cache: Precision,
}

impl Formats {
    /// The usual ones for weights of this format: 8-bit weights are multiplied in 8 bits, 4-bit ones in 16; the cache has 16 bits.
    pub fn of(weights: Precision) -> Self {
        let arithmetic = match weights {
            Precision::Int4 => Precision::Bf16,
            other => other,
        };
        Self { weights, arithmetic, cache: Precision::Bf16 }
    }
}

/// A model beside another on the same devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guest {
    /// Bytes of its weights on a device.
    pub weight_bytes: f64,
    /// Bytes of its cache on a device, for each token.
    pub kv_bytes: f64,
}

/// A layout that cannot be.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum LayoutError {
    /// A degree that is none, or does not divide what it should.
    #[error("{field} is {value}; {allowed}")]
    Degree {
        /// Which.
        field: &'static str,
        /// What it is.
        value: usize,
        /// What is allowed.
        allowed: String,
    },
    /// Weights that do not fit beside what else is needed.
    #[error(
        "the model does not fit: the fullest device needs {needed:.1} GB for weights in {weights} and {reserve:.1} GB for the rest, and has {memory:.1} GB \
         ({missing:.1} GB too little); {nearest}"
    )]
    Memory {
        /// GB of weights.
        needed: f64,
        /// GB kept for activations and for the runtime.
        reserve: f64,
        /// GB there are.
        memory: f64,
        /// GB that lack.
        missing: f64,
        /// Their format.
        weights: Precision,
        /// What would fit.
        nearest: String,
    },
    /// Weights fit, but there is no room for the cache of one request.
    #[error(
        "a request of {tokens} tokens does not fit: the devices have room for the keys and values of {room} tokens; use more devices, smaller formats \
         (--weights fp8, --kv-cache fp8) or --kv-split batch"
    )]
    Cache {
        /// Tokens of a request.
        tokens: u32,
        /// Tokens that fit.
        room: u64,
    },
}

/// Share of a device's memory that weights and cache may have.
pub const MEMORY_SHARE: f64 = 0.92;

impl Layout {
    /// Everything on one device.
    pub const ONE: Self = Self {
        tensor: 1,
        pipeline: 1,
        expert: 1,
        first_layers: None,
        kv: KvSplit::Heads,
        overlap: false,
        plane: false,
    };

    /// Devices of one copy.
    pub fn devices(&self) -> usize {
        self.tensor * self.pipeline * self.expert
    }

    /// Layers of each stage, first to last.
    ///
    /// # Errors
    /// More stages than layers, or a first stage that leaves none for the others.
    pub fn stage_layers(&self, layers: usize) -> Result<Vec<usize>, LayoutError> {
        let degree = |field, value, allowed: String| LayoutError::Degree { field, value, allowed };
        if self.pipeline == 0 || self.pipeline > layers {
            return Err(degree(
                "pipeline",
                self.pipeline,
                format!("the model has {layers} layers: allowed is 1 to {layers}"),
            ));
        }
        let first = match self.first_layers {
            _ if self.pipeline == 1 => layers,
            Some(first) => first,
            // What does not divide goes to the others: the first stage also embeds, schedules and drafts.
            None => layers / self.pipeline,
        };
        let rest = layers.saturating_sub(first);
        let others = self.pipeline - 1;
        if first == 0 || rest < others || first + rest != layers {
            let allowed = format!("each of {} stages needs a layer of {layers}", self.pipeline);
            return Err(degree("first_layers", first, allowed));
        }
        let each = |index: usize| rest / others + usize::from(index < rest % others);
        Ok(std::iter::once(first).chain((0..others).map(each)).collect())
    }

    /// Checks that degrees divide what they should.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self, shape: &Shape) -> Result<(), LayoutError> {
        let degree = |field, value, allowed: String| Err(LayoutError::Degree { field, value, allowed });
        if self.tensor == 0 || !shape.heads.is_multiple_of(self.tensor) {
            let divisors = divisors(shape.heads);
            return degree("tensor", self.tensor, format!("it must divide the {} heads: {divisors}", shape.heads));
        }
        let experts = shape.layers.iter().map(|layer| layer.experts).max().unwrap_or(0);
        if self.expert == 0 || (self.expert > 1 && (experts == 0 || !experts.is_multiple_of(self.expert))) {
            let allowed = match experts {
                0 => "the model has no experts: allowed is 1".to_owned(),
                _ => format!("it must divide the {experts} experts: {}", divisors(experts)),
            };
            return degree("expert", self.expert, allowed);
        }
        self.stage_layers(shape.layers.len()).map(|_| ())
    }

    /// Ranks over which the cache of a layer is divided.
    pub fn kv_split(&self, layer: &LayerShape) -> f64 {
        let tensor = match self.kv {
            KvSplit::Heads => self.tensor.min(layer.kv_heads),
            KvSplit::Batch => self.tensor,
        };
        (tensor * self.expert) as f64
    }

    /// Bytes of weights on a device of each stage.
    ///
    /// # Errors
    /// As [`Layout::validate`].
    pub fn weight_bytes(&self, shape: &Shape, weights: Precision) -> Result<Vec<f64>, LayoutError> {
        let (tensor, expert) = (self.tensor as f64, self.expert as f64);
        let stages = self.stage_layers(shape.layers.len())?;
        let last = stages.len() - 1;
        let mut layers = shape.layers.iter();
        // Embedding and head stand at the two ends; where they are one matrix both ends need it.
        let end = if last == 0 { shape.outside } else { shape.head };
        let bytes = stages.iter().enumerate().map(|(stage, &count)| {
            let each = |layer: &LayerShape| layer.shared + layer.experts as f64 * layer.expert / expert;
            let mut elements: f64 = layers.by_ref().take(count).map(each).sum();
            elements += if stage == 0 || stage == last { end } else { 0.0 };
            elements / tensor * weights.bytes()
        });
        Ok(bytes.collect())
    }

    /// Tokens whose keys and values fit beside the weights, if sequences are `length` tokens long when they are counted (layers with a window
    /// keep less of a long one). A draft model stands on the first stage.
    ///
    /// # Errors
    /// As [`Layout::validate`], and weights that do not fit.
    pub fn cache_tokens(
        &self,
        shape: &Shape,
        formats: Formats,
        device: &Accelerator,
        length: u32,
        draft: Option<Guest>,
    ) -> Result<u64, LayoutError> {
        let mut weights = self.weight_bytes(shape, formats.weights)?;
        weights[0] += draft.map_or(0.0, |draft| draft.weight_bytes);
        let room = self.room(&weights, formats.weights, shape, device)?;
        let mut layers = shape.layers.iter();
        let stages = self.stage_layers(shape.layers.len())?;
        let tokens = stages.iter().zip(room).enumerate().map(|(stage, (&count, room))| {
            let own: f64 = layers.by_ref().take(count).map(|layer| self.kv_bytes(layer, formats, length)).sum();
            let guest = draft.filter(|_| stage == 0).map_or(0.0, |draft| draft.kv_bytes);
            room / (own + guest)
        });
        Ok(tokens.fold(f64::INFINITY, f64::min) as u64)
    }

    /// What the model asks of each device of the first stage as another one's draft.
    ///
    /// # Errors
    /// As [`Layout::validate`].
    pub fn as_guest(&self, shape: &Shape, formats: Formats, length: u32) -> Result<Guest, LayoutError> {
        let weight_bytes = self.weight_bytes(shape, formats.weights)?[0];
        let kv_bytes = shape.layers.iter().map(|layer| self.kv_bytes(layer, formats, length)).sum();
        Ok(Guest { weight_bytes, kv_bytes })
    }

    /// Bytes that a token of a sequence of `length` keeps in a layer's cache, on the fullest rank.
    fn kv_bytes(&self, layer: &LayerShape, formats: Formats, length: u32) -> f64 {
        let kept = layer.window.map_or(1.0, |window| f64::from(window.min(length)) / f64::from(length.max(1)));
        layer.kv * formats.cache.bytes() * kept / self.kv_split(layer)
    }

    /// Bytes left on a device of each stage.
    fn room(
        &self,
        weights: &[f64],
        format: Precision,
        shape: &Shape,
        device: &Accelerator,
    ) -> Result<Vec<f64>, LayoutError> {
        let memory = device.memory.value;
        let room: Vec<f64> = weights.iter().map(|bytes| memory * MEMORY_SHARE - bytes).collect();
        if room.iter().all(|&room| room > 0.0) {
            return Ok(room);
        }
        let needed = weights.iter().copied().fold(0.0, f64::max);
        let reserve = memory * (1.0 - MEMORY_SHARE);
        Err(LayoutError::Memory {
            needed: needed / 1e9,
            reserve: reserve / 1e9,
            memory: memory / 1e9,
            missing: (needed + reserve - memory) / 1e9,
            weights: format,
            nearest: self.nearest(shape, format, device),
        })
    }

    /// What would fit: more stages of the same ranks, or smaller weights on the same devices.
    fn nearest(&self, shape: &Shape, format: Precision, device: &Accelerator) -> String {
        let fits = |layout: &Self, format| {
            let most = layout.weight_bytes(shape, format).ok()?.into_iter().fold(0.0, f64::max);
            (most < device.memory.value * MEMORY_SHARE).then_some(())
        };
        let stages = (self.pipeline + 1..=shape.layers.len())
            .find(|&pipeline| fits(&Self { pipeline, first_layers: None, ..*self }, format).is_some());
        let smaller = [Precision::Fp8, Precision::Int4]
            .into_iter()
            .find(|smaller| smaller.bytes() < format.bytes() && fits(self, *smaller).is_some());
        let stages = stages.map(|pipeline| {
            let devices = pipeline * self.tensor * self.expert;
            format!("{pipeline} stages ({devices} devices, --pp {pipeline})")
        });
        let smaller = smaller.map(|format| format!("weights in {format} (--weights {format})"));
        match (stages, smaller) {
            (Some(a), Some(b)) => format!("{a} would do, or {b}"),
            (Some(one), None) | (None, Some(one)) => format!("{one} would do"),
            (None, None) => "no number of stages would do: raise --tp too".into(),
        }
    }
}

fn divisors(n: usize) -> String {
    let all = (1..=n.min(4096)).filter(|d| n.is_multiple_of(*d)).map(|d| d.to_string());
    all.collect::<Vec<_>>().join(", ")
}

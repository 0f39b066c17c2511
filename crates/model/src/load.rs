//! From a checkpoint's parameters to a decoder packed for a device.

use crate::attention::Attention;
use crate::decoder::{Decoder, Layer};
use crate::ffn::{FeedForward, Router};
use crate::files::{Checkpoint, FileError, check_finite};
use crate::parameters::{ParameterRows, Parameters};
use comm::Parallel;
use spec::{
    Activation, DecoderConfig, DenseFfn, ExpertFfn, Ffn, Parameter, ParameterId, ParameterTable, Position, Role,
};
use tensor::{Device, Expert, Format, Gating, Interleaved, Matrix, MatrixSource, RopeTable, RouterKind, Stacked};

/// How to load.
#[derive(Clone, Copy, Default)]
pub struct LoadOptions<'a> {
    /// Format of the weight matrices; `None`: as stored. Router and norms are f32 always; the embedding keeps its own precision
    /// unless it is the head too or f32 is asked for.
    pub weights: Option<Format>,
    /// Positions to serve; `None`: all the model was made for.
    pub context: Option<usize>,
    /// Called with (matrices packed, matrices in all).
    pub progress: Option<&'a dyn Fn(usize, usize)>,
}

/// Why a checkpoint could not become a decoder.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files.
    #[error(transparent)]
    File(#[from] FileError),
    /// A context of no positions, or of more than memory can address.
    #[error("cannot serve a context of {context} positions: it must be between 1 and {most}")]
    Context {
        /// What was asked.
        context: usize,
        /// The most that is served.
        most: usize,
    },
}

/// Positions beyond which tables of positions are refused.
const MOST_CONTEXT: usize = 1 << 24;

impl Decoder {
    /// Reads and packs every parameter, one matrix after the other, each in parallel.
    ///
    /// # Errors
    /// A parameter that is missing, misshapen or not finite, by name; a context that cannot be served.
    pub fn load(checkpoint: &Checkpoint, device: &mut Device, options: &LoadOptions<'_>) -> Result<Self, LoadError> {
        Self::from_parameters(checkpoint, &checkpoint.table, checkpoint.decoder(), device, options)
    }

    /// The same from any source. `table` must be that of `config`.
    ///
    /// # Errors
    /// The same.
    pub fn from_parameters(
        source: &dyn Parameters,
        table: &ParameterTable,
        config: &DecoderConfig,
        device: &mut Device,
        options: &LoadOptions<'_>,
    ) -> Result<Self, LoadError> {
        let config = config.clone();
        let context = options.context.unwrap_or(config.max_context);
        if !(1..=MOST_CONTEXT).contains(&context) {
            return Err(LoadError::Context { context, most: MOST_CONTEXT });
        }
        let rope = match &config.position {
            Position::Rope(rope) => {
                let (frequencies, factor) = rope.frequencies(config.head_dim, context);
                Some(RopeTable::new(&frequencies, factor, context))
            }
            Position::Alibi => None,
        };
        let total = config.layers.iter().map(|l| 2 + matrices(&l.ffn)).sum::<usize>() + 2;
        let mut loader = Loader { source, table, device, options, config: &config, packed: 0, total };
        let embedding = loader.embedding()?;
        let layers = (0..config.layers.len()).map(|i| loader.layer(i)).collect::<Result<_, _>>()?;
        let final_norm = loader.vector(ParameterId::global(Role::FinalNorm))?;
        let head = match config.tie_embeddings {
            true => None,
            false => Some(loader.matrix(ParameterId::global(Role::Head), options.weights)?),
        };
        Ok(Self { context, embedding, layers, final_norm, head, rope, parallel: Parallel::single(), config })
    }
}

/// Matrices that a feed-forward half packs.
fn matrices(ffn: &Ffn) -> usize {
    match ffn {
        Ffn::Dense(_) => 2,
        Ffn::Experts(e) => 1 + 2 * e.experts,
    }
}

struct Loader<'a, 'd> {
    source: &'a dyn Parameters,
    table: &'a ParameterTable,
    device: &'d mut Device,
    options: &'a LoadOptions<'a>,
    config: &'a DecoderConfig,
    packed: usize,
    total: usize,
}

impl<'a> Loader<'a, '_> {
    fn vector(&self, id: ParameterId) -> Result<Vec<f32>, LoadError> {
        Ok(self.source.vector(self.parameter(id)?)?)
    }

    fn optional_vector(&self, present: bool, id: ParameterId) -> Result<Option<Vec<f32>>, LoadError> {
        present.then(|| self.vector(id)).transpose()
    }

    fn parameter(&self, id: ParameterId) -> Result<&'a Parameter, FileError> {
        self.table.get(id).ok_or(FileError::NoSuchParameter(id))
    }

    /// Packs what `join` makes of the parameters' matrices, and lets go of what it has read.
    fn pack(
        &mut self,
        ids: &[ParameterId],
        format: Option<Format>,
        join: impl Fn(&[&dyn MatrixSource], &mut dyn FnMut(&dyn MatrixSource)),
    ) -> Result<Matrix, LoadError> {
        let matrices: Vec<Box<dyn ParameterRows>> =
            ids.iter().map(|&id| self.source.matrix(self.parameter(id)?)).collect::<Result<_, _>>()?;
        let sources: Vec<&dyn MatrixSource> = matrices.iter().map(|m| &**m as &dyn MatrixSource).collect();
        let mut packed = None;
        join(&sources, &mut |source| {
            let format = format.unwrap_or_else(|| source.format());
            packed = Some(Matrix::pack(self.device, source, format).map_err(|_| not_held(&matrices, format)));
        });
        matrices.iter().for_each(|matrix| matrix.release());
        self.packed += 1;
        if let Some(progress) = self.options.progress {
            progress(self.packed, self.total);
        }
        match packed {
            Some(packed) => Ok(packed?),
            None => unreachable!("every join packs once"),
        }
    }

    fn matrix(&mut self, id: ParameterId, format: Option<Format>) -> Result<Matrix, LoadError> {
        self.pack(&[id], format, |sources, pack| pack(sources[0]))
    }

    /// In its own precision, unless it is the head too or f32 is asked for. No format here holds K-quants as they are; those follow the other
    /// matrices where these are floats, and are int8 otherwise.
    fn embedding(&mut self) -> Result<Matrix, LoadError> {
        let id = ParameterId::global(Role::Embedding);
        let exact = self.source.matrix(self.parameter(id)?)?.is_exact();
        let float = |format: &Format| matches!(format, Format::F32 | Format::F16 | Format::Bf16);
        let follows = |format: &Format| self.config.tie_embeddings || *format == Format::F32 || !exact && float(format);
        self.matrix(id, self.options.weights.filter(follows))
    }

    fn layer(&mut self, layer: usize) -> Result<Layer, LoadError> {
        Ok(Layer {
            attention_norm: self.vector(ParameterId::layer(Role::AttentionNorm, layer))?,
            attention: self.attention(layer)?,
            ffn_norm: self.vector(ParameterId::layer(Role::FfnNorm, layer))?,
            ffn: match &self.config.layers[layer].ffn {
                Ffn::Dense(dense) => self.dense(layer, dense)?,
                Ffn::Experts(experts) => self.experts(layer, experts)?,
            },
        })
    }

    fn attention(&mut self, layer: usize) -> Result<Attention, LoadError> {
        let config = self.config;
        let id = |role| ParameterId::layer(role, layer);
        let qkv =
            self.pack(&[Role::QProj, Role::KProj, Role::VProj].map(id), self.options.weights, |sources, pack| {
                pack(&Stacked(sources));
            })?;
        let qkv_bias = match config.qkv_bias {
            false => None,
            true => {
                let parts = [Role::QBias, Role::KBias, Role::VBias].map(|role| self.vector(id(role)));
                Some(parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
            }
        };
        Ok(Attention {
            qkv,
            qkv_bias,
            output: self.matrix(id(Role::OProj), self.options.weights)?,
            output_bias: self.optional_vector(config.output_bias, id(Role::OBias))?,
            qk_norms: match config.qk_norm {
                true => Some((self.vector(id(Role::QNorm))?, self.vector(id(Role::KNorm))?)),
                false => None,
            },
            sinks: self.optional_vector(config.attention_sinks, id(Role::Sinks))?,
            window: config.layers[layer].attention.window,
            scale: (config.head_dim as f32).powf(-0.5),
            alibi_slopes: matches!(config.position, Position::Alibi).then(|| spec::rope::alibi_slopes(config.heads)),
        })
    }

    fn dense(&mut self, layer: usize, dense: &DenseFfn) -> Result<FeedForward, LoadError> {
        let network = self.network(layer, None, dense)?;
        Ok(FeedForward { router: None, experts: vec![network], shared: None, gating: gating(dense.activation) })
    }

    fn experts(&mut self, layer: usize, ffn: &ExpertFfn) -> Result<FeedForward, LoadError> {
        let id = |role| ParameterId::layer(role, layer);
        let router = Router {
            weight: self.matrix(id(Role::Router), Some(Format::F32))?,
            bias: self.optional_vector(ffn.router_bias, id(Role::RouterBias))?,
            choice_bias: self.optional_vector(ffn.choice_bias, id(Role::ChoiceBias))?,
            kind: match ffn.router {
                spec::Router::SoftmaxTopK { renormalise } => RouterKind::SoftmaxTopK { renormalise },
                spec::Router::TopKSoftmax => RouterKind::TopKSoftmax,
            },
            top_k: ffn.top_k,
        };
        let experts = (0..ffn.experts).map(|e| self.network(layer, Some(e), &ffn.expert)).collect::<Result<_, _>>()?;
        let shared = ffn.shared.as_ref().map(|shared| self.network(layer, None, shared)).transpose()?;
        Ok(FeedForward { router: Some(router), experts, shared, gating: gating(ffn.expert.activation) })
    }

    fn network(&mut self, layer: usize, expert: Option<usize>, ffn: &DenseFfn) -> Result<Expert, LoadError> {
        let id = |role| ParameterId { role, layer: Some(layer), expert };
        let gate_up = self.pack(&[id(Role::Gate), id(Role::Up)], self.options.weights, |sources, pack| {
            pack(&Interleaved { first: sources[0], second: sources[1] });
        })?;
        let gate_up_bias = match ffn.bias {
            false => None,
            true => Some(interleave(&self.vector(id(Role::GateBias))?, &self.vector(id(Role::UpBias))?)),
        };
        Ok(Expert {
            gate_up,
            gate_up_bias,
            down: self.matrix(id(Role::Down), self.options.weights)?,
            down_bias: self.optional_vector(ffn.bias, id(Role::DownBias))?,
        })
    }
}

/// Which weight could not be packed: the first that is no finite number, else the largest, which is too large for the format.
fn not_held(matrices: &[Box<dyn ParameterRows + '_>], format: Format) -> FileError {
    let mut largest = ("", 0f32);
    let mut values = Vec::new();
    for matrix in matrices {
        values.resize(matrix.cols(), 0.0);
        for row in 0..matrix.rows() {
            matrix.read_f32(row, &mut values);
            if let Err(error) = check_finite(matrix.name(), row, &values) {
                return error;
            }
            let candidates = values.iter().map(|&value| (matrix.name(), value));
            largest = candidates.fold(largest, |a, b| if b.1.abs() > a.1.abs() { b } else { a });
        }
    }
    FileError::OutOfRange { name: largest.0.to_owned(), value: largest.1, format: format.name() }
}

/// Biases in the order of [`Interleaved`]'s rows.
fn interleave(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let panel = tensor::PANEL;
    let mut out = vec![0.0; 2 * gate.len().next_multiple_of(panel)];
    for (i, (g, u)) in gate.iter().zip(up).enumerate() {
        let at = i / panel * 2 * panel + i % panel;
        out[at] = *g;
        out[at + panel] = *u;
    }
    out
}

fn gating(activation: Activation) -> Gating {
    match activation {
        Activation::SwiGlu => Gating::SwiGlu,
        Activation::ClampedSwiGlu { alpha, limit } => Gating::ClampedSwiGlu { alpha, limit },
    }
}

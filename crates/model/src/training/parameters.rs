//! A decoder's tensors as a list: what the optimiser updates, and how named parameters lie in them.
//!
//! The same list describes weights, gradients and optimiser state, which all have the decoder's shape.

use crate::attention::Attention;
use crate::decoder::{Decoder, Layer};
use crate::ffn::{FeedForward, Router};
use crate::files::FileError;
use crate::parameters::{ParameterRows, Parameters};
use comm::Parallel;
use spec::{Parameter, ParameterId, Role};
use tensor::{Expert, Format, Matrix, MatrixSource, PANEL};

/// One tensor as a decoder holds it, and the parameters in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Parameters by the rows they occupy.
    pub pieces: Vec<Piece>,
    /// `[outputs, inputs]` of a matrix, `[n]` of a vector, padding of interleaved pieces included.
    pub shape: Vec<usize>,
}

impl Held {
    /// Whether it is a matrix, held in panels.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }

    /// Whether gradients change it.
    pub fn is_trainable(&self) -> bool {
        self.pieces.iter().all(|piece| piece.id.role.is_trainable())
    }
}

/// One parameter's rows in a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Which parameter.
    pub id: ParameterId,
    /// Its rows (elements, of a vector).
    pub rows: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// From this row on.
    From(usize),
    /// Sixteen rows of every thirty-two, from this one on.
    Alternating(usize),
}

impl Piece {
    /// The tensor's row that holds row `row` of the parameter.
    pub fn held_row(&self, row: usize) -> usize {
        match self.place {
            Place::From(first) => first + row,
            Place::Alternating(first) => row / PANEL * 2 * PANEL + first + row % PANEL,
        }
    }
}

/// One tensor of a decoder.
#[derive(Clone, Copy)]
pub enum TensorRef<'a> {
    /// In panels.
    Matrix(&'a Matrix),
    /// As it is.
    Vector(&'a [f32]),
}

/// One tensor of a decoder, to be changed.
pub enum TensorMut<'a> {
    /// In panels.
    Matrix(&'a mut Matrix),
    /// As it is.
    Vector(&'a mut [f32]),
}

impl<'a> TensorMut<'a> {
    /// [`TensorMut::values_mut`] for as long as the decoder is borrowed.
    pub fn into_values(self) -> &'a mut [f32] {
        match self {
            TensorMut::Matrix(matrix) => matrix.values_mut(),
            TensorMut::Vector(vector) => vector,
        }
    }

    /// All elements; those of a matrix in the order of panels, padding (always zero) included.
    pub fn values_mut(&mut self) -> &mut [f32] {
        match self {
            TensorMut::Matrix(matrix) => matrix.values_mut(),
            TensorMut::Vector(vector) => vector,
        }
    }

    /// Reads row `row` of a matrix, or element `row` of a vector.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        match self {
            TensorMut::Matrix(matrix) => matrix.read_row(row, out),
            TensorMut::Vector(vector) => out[0] = vector[row],
        }
    }

    /// Replaces row `row` of a matrix, or element `row` of a vector.
    pub fn write_row(&mut self, row: usize, values: &[f32]) {
        match self {
            TensorMut::Matrix(matrix) => matrix.write_row(row, values),
            TensorMut::Vector(vector) => vector[row] = values[0],
        }
    }
}

fn whole(id: ParameterId, rows: usize) -> Vec<Piece> {
    vec![Piece { id, rows, place: Place::From(0) }]
}

/// Queries, keys and values (or their biases), one after the other.
fn stacked(layer: usize, roles: [Role; 3], rows: [usize; 3]) -> Vec<Piece> {
    let mut first = 0;
    let piece = |(role, rows)| {
        let piece = Piece { id: ParameterId::layer(role, layer), rows, place: Place::From(first) };
        first += rows;
        piece
    };
    roles.into_iter().zip(rows).map(piece).collect()
}

/// Gate and up (or their biases), taking turns.
fn alternating(gate: ParameterId, up: ParameterId, rows: usize) -> Vec<Piece> {
    let piece = |id, first| Piece { id, rows, place: Place::Alternating(first) };
    vec![piece(gate, 0), piece(up, PANEL)]
}

/// The walk over a decoder's tensors, once for shared and once for unique access.
macro_rules! walk {
    ($walk:ident, $tensor:ident, $doc:literal, $visit:ident $(, $mut:tt)?) => {
        struct $walk<'a>(Vec<(Held, $tensor<'a>)>);

        impl<'a> $walk<'a> {
            fn matrix(&mut self, matrix: &'a $($mut)? Matrix, pieces: Vec<Piece>) {
                let shape = vec![matrix.rows(), matrix.cols()];
                self.0.push((Held { pieces, shape }, $tensor::Matrix(matrix)));
            }

            fn vector(&mut self, vector: &'a $($mut)? [f32], pieces: Vec<Piece>) {
                let shape = vec![vector.len()];
                self.0.push((Held { pieces, shape }, $tensor::Vector(vector)));
            }

            fn whole_matrix(&mut self, id: ParameterId, matrix: &'a $($mut)? Matrix) {
                let pieces = whole(id, matrix.rows());
                self.matrix(matrix, pieces);
            }

            fn whole_vector(&mut self, id: ParameterId, vector: &'a $($mut)? [f32]) {
                let pieces = whole(id, vector.len());
                self.vector(vector, pieces);
            }

            fn attention(&mut self, layer: usize, attention: &'a $($mut)? Attention, rows: [usize; 3]) {
                let id = |role| ParameterId::layer(role, layer);
                self.matrix(& $($mut)? attention.qkv, stacked(layer, [Role::QProj, Role::KProj, Role::VProj], rows));
                if let Some(bias) = & $($mut)? attention.qkv_bias {
                    self.vector(bias, stacked(layer, [Role::QBias, Role::KBias, Role::VBias], rows));
                }
                self.whole_matrix(id(Role::OProj), & $($mut)? attention.output);
                if let Some(bias) = & $($mut)? attention.output_bias {
                    self.whole_vector(id(Role::OBias), bias);
                }
                if let Some((q, k)) = & $($mut)? attention.qk_norms {
                    self.whole_vector(id(Role::QNorm), q);
                    self.whole_vector(id(Role::KNorm), k);
                }
                if let Some(sinks) = & $($mut)? attention.sinks {
                    self.whole_vector(id(Role::Sinks), sinks);
                }
            }

            fn expert(&mut self, layer: usize, number: Option<usize>, expert: &'a $($mut)? Expert) {
                let id = |role| ParameterId { role, layer: Some(layer), expert: number };
                let rows = expert.down.cols();
                self.matrix(& $($mut)? expert.gate_up, alternating(id(Role::Gate), id(Role::Up), rows));
                if let Some(bias) = & $($mut)? expert.gate_up_bias {
                    self.vector(bias, alternating(id(Role::GateBias), id(Role::UpBias), rows));
                }
                self.whole_matrix(id(Role::Down), & $($mut)? expert.down);
                if let Some(bias) = & $($mut)? expert.down_bias {
                    self.whole_vector(id(Role::DownBias), bias);
                }
            }

            fn ffn(&mut self, layer: usize, ffn: &'a $($mut)? FeedForward) {
                let routed = ffn.router.is_some();
                if let Some(router) = & $($mut)? ffn.router {
                    self.whole_matrix(ParameterId::layer(Role::Router, layer), & $($mut)? router.weight);
                    if let Some(bias) = & $($mut)? router.bias {
                        self.whole_vector(ParameterId::layer(Role::RouterBias, layer), bias);
                    }
                    if let Some(bias) = & $($mut)? router.choice_bias {
                        self.whole_vector(ParameterId::layer(Role::ChoiceBias, layer), bias);
                    }
                }
                for (e, expert) in (& $($mut)? ffn.experts).into_iter().enumerate() {
                    self.expert(layer, routed.then_some(e), expert);
                }
                if let Some(shared) = & $($mut)? ffn.shared {
                    self.expert(layer, None, shared);
                }
            }
        }

        impl Decoder {
            #[doc = $doc]
            pub fn $visit(& $($mut)? self) -> Vec<(Held, $tensor<'_>)> {
                let (q, kv) = (self.config.q_size(), self.config.kv_size());
                let mut walk = $walk(Vec::new());
                walk.whole_matrix(ParameterId::global(Role::Embedding), & $($mut)? self.embedding);
                for (i, layer) in (& $($mut)? self.layers).into_iter().enumerate() {
                    walk.whole_vector(ParameterId::layer(Role::AttentionNorm, i), & $($mut)? layer.attention_norm);
                    walk.attention(i, & $($mut)? layer.attention, [q, kv, kv]);
                    walk.whole_vector(ParameterId::layer(Role::FfnNorm, i), & $($mut)? layer.ffn_norm);
                    walk.ffn(i, & $($mut)? layer.ffn);
                }
                walk.whole_vector(ParameterId::global(Role::FinalNorm), & $($mut)? self.final_norm);
                if let Some(head) = & $($mut)? self.head {
                    walk.whole_matrix(ParameterId::global(Role::Head), head);
                }
                walk.0
            }
        }
    };
}

walk!(Walk, TensorRef, "Every tensor with the parameters in it, in the order of layers.", tensors);
walk!(WalkMut, TensorMut, "[`Decoder::tensors`], to be changed.", tensors_mut, mut);

impl Decoder {
    /// A decoder of the same shape whose tensors are f32 zeros: gradients, or optimiser state.
    pub fn zeros_like(&self) -> Self {
        let matrix = |m: &Matrix| Matrix::zeros(m.rows(), m.cols());
        let vector = |v: &Vec<f32>| vec![0.0; v.len()];
        let expert = |e: &Expert| Expert {
            gate_up: matrix(&e.gate_up),
            gate_up_bias: e.gate_up_bias.as_ref().map(vector),
            down: matrix(&e.down),
            down_bias: e.down_bias.as_ref().map(vector),
        };
        let attention = |a: &Attention| Attention {
            qkv: matrix(&a.qkv),
            qkv_bias: a.qkv_bias.as_ref().map(vector),
            output: matrix(&a.output),
            output_bias: a.output_bias.as_ref().map(vector),
            qk_norms: a.qk_norms.as_ref().map(|(q, k)| (vector(q), vector(k))),
            sinks: a.sinks.as_ref().map(vector),
            window: a.window,
            scale: a.scale,
            alibi_slopes: a.alibi_slopes.clone(),
        };
        let router = |r: &Router| Router {
            weight: matrix(&r.weight),
            bias: r.bias.as_ref().map(vector),
            choice_bias: r.choice_bias.as_ref().map(vector),
            kind: r.kind,
            top_k: r.top_k,
        };
        let layer = |l: &Layer| Layer {
            attention_norm: vector(&l.attention_norm),
            attention: attention(&l.attention),
            ffn_norm: vector(&l.ffn_norm),
            ffn: FeedForward {
                router: l.ffn.router.as_ref().map(router),
                experts: l.ffn.experts.iter().map(expert).collect(),
                shared: l.ffn.shared.as_ref().map(expert),
                gating: l.ffn.gating,
            },
        };
        Self {
            config: self.config.clone(),
            context: self.context,
            embedding: matrix(&self.embedding),
            layers: self.layers.iter().map(layer).collect(),
            final_norm: vector(&self.final_norm),
            head: self.head.as_ref().map(matrix),
            rope: None,
            parallel: Parallel::single(),
        }
    }

    /// The values of a parameter, rows one after the other; `None` if the decoder has no such parameter.
    pub fn read_parameter(&self, id: ParameterId) -> Option<Vec<f32>> {
        let rows = self.held_rows(id, "")?;
        let mut out = vec![0.0; rows.rows() * rows.cols()];
        for (row, out) in out.chunks_exact_mut(rows.cols()).enumerate() {
            rows.read_f32(row, out);
        }
        Some(out)
    }

    /// Replaces the values of a parameter; false if the decoder has no such parameter or it has another size.
    pub fn write_parameter(&mut self, id: ParameterId, values: &[f32]) -> bool {
        let mut tensors = self.tensors_mut();
        let found = tensors.iter_mut().find_map(|(held, tensor)| {
            let piece = held.pieces.iter().find(|p| p.id == id).copied()?;
            Some((held.shape.get(1).copied().unwrap_or(1), piece, tensor))
        });
        let Some((cols, piece, tensor)) = found.filter(|(cols, piece, _)| values.len() == piece.rows * cols) else {
            return false;
        };
        for (row, values) in values.chunks_exact(cols).enumerate() {
            tensor.write_row(piece.held_row(row), values);
        }
        true
    }

    fn held_rows<'a>(&'a self, id: ParameterId, name: &'a str) -> Option<HeldRows<'a>> {
        self.tensors().into_iter().find_map(|(held, tensor)| {
            let piece = held.pieces.iter().find(|p| p.id == id).copied()?;
            Some(HeldRows { name, piece, cols: held.shape.get(1).copied().unwrap_or(1), tensor })
        })
    }
}

/// A decoder in memory gives its parameters too: so it is saved.
impl Parameters for Decoder {
    fn matrix<'a>(&'a self, parameter: &'a Parameter) -> Result<Box<dyn ParameterRows + 'a>, FileError> {
        let rows = self.held_rows(parameter.id, &parameter.name);
        Ok(Box::new(rows.ok_or(FileError::NoSuchParameter(parameter.id))?))
    }

    fn vector(&self, parameter: &Parameter) -> Result<Vec<f32>, FileError> {
        self.read_parameter(parameter.id).ok_or(FileError::NoSuchParameter(parameter.id))
    }
}

/// A parameter as rows of the tensor that holds it.
struct HeldRows<'a> {
    name: &'a str,
    piece: Piece,
    cols: usize,
    tensor: TensorRef<'a>,
}

impl MatrixSource for HeldRows<'_> {
    fn rows(&self) -> usize {
        self.piece.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn format(&self) -> Format {
        Format::F32
    }

    fn read_f32(&self, row: usize, out: &mut [f32]) {
        let row = self.piece.held_row(row);
        match self.tensor {
            TensorRef::Matrix(matrix) => matrix.read_row(row, out),
            TensorRef::Vector(vector) => out[0] = vector[row],
        }
    }
}

impl ParameterRows for HeldRows<'_> {
    fn name(&self) -> &str {
        self.name
    }
}

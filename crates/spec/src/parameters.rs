//! The parameter table: every parameter of a decoder, by name and by role.

use crate::config::{DecoderConfig, DenseFfn, ExpertFfn, Family, Ffn, Layer};
use std::collections::HashMap;

/// What a parameter does in its layer. Weights are stored `[outputs, inputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `[vocab, hidden]`.
    Embedding,
    /// RMSNorm before attention, `[hidden]`.
    AttentionNorm,
    /// `[heads * head_dim, hidden]`.
    QProj,
    /// `[kv_heads * head_dim, hidden]`.
    KProj,
    /// `[kv_heads * head_dim, hidden]`.
    VProj,
    /// `[hidden, heads * head_dim]`.
    OProj,
    /// Bias of [`Role::QProj`].
    QBias,
    /// Bias of [`Role::KProj`].
    KBias,
    /// Bias of [`Role::VProj`].
    VBias,
    /// Bias of [`Role::OProj`].
    OBias,
    /// RMSNorm of each query head, `[head_dim]`.
    QNorm,
    /// RMSNorm of each key head, `[head_dim]`.
    KNorm,
    /// One logit per query head, `[heads]`.
    Sinks,
    /// RMSNorm before the feed-forward half, `[hidden]`.
    FfnNorm,
    /// `[experts, hidden]`.
    Router,
    /// `[experts]`.
    RouterBias,
    /// `[experts]`, added to probabilities for the choice alone. No gradient reaches it.
    ChoiceBias,
    /// `[ffn, hidden]`, of an expert if the id names one, else of the dense (or shared) network.
    Gate,
    /// `[ffn, hidden]`.
    Up,
    /// `[hidden, ffn]`.
    Down,
    /// Bias of [`Role::Gate`].
    GateBias,
    /// Bias of [`Role::Up`].
    UpBias,
    /// Bias of [`Role::Down`].
    DownBias,
    /// RMSNorm after the last layer, `[hidden]`.
    FinalNorm,
    /// `[vocab, hidden]`; absent when tied.
    Head,
}

impl Role {
    /// Whether the parameter is a matrix of a linear layer that quantised files hold quantised. Embedding,
    /// router, norms and biases never are.
    pub fn is_quantisable(self) -> bool {
        use Role::*;
        matches!(self, QProj | KProj | VProj | OProj | Gate | Up | Down | Head)
    }

    /// Whether gradients change it.
    pub fn is_trainable(self) -> bool {
        self != Self::ChoiceBias
    }

    fn is_norm(self) -> bool {
        use Role::*;
        matches!(self, AttentionNorm | QNorm | KNorm | FfnNorm | FinalNorm)
    }

    /// The dimension that tensor parallelism divides: heads, widths of the feed-forward half and the
    /// vocabulary are divided; whatever spans the residual stream or one head is held whole.
    fn tensor_axis(self) -> Option<TensorAxis> {
        use Role::*;
        match self {
            Embedding | Head | QProj | KProj | VProj | Gate | Up => Some(TensorAxis::Column),
            QBias | KBias | VBias | GateBias | UpBias | Sinks => Some(TensorAxis::Column),
            OProj | Down => Some(TensorAxis::Row),
            OBias | DownBias | Router | RouterBias | ChoiceBias => None,
            AttentionNorm | QNorm | KNorm | FfnNorm | FinalNorm => None,
        }
    }
}

/// Which parameter: role, layer, expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId {
    /// What it does.
    pub role: Role,
    /// Its layer; `None` for embedding, final norm and head.
    pub layer: Option<usize>,
    /// Its expert; `None` outside experts.
    pub expert: Option<usize>,
}

impl ParameterId {
    /// A parameter outside the layers.
    pub fn global(role: Role) -> Self {
        Self { role, layer: None, expert: None }
    }

    /// A parameter of a layer that belongs to no expert.
    pub fn layer(role: Role, layer: usize) -> Self {
        Self { role, layer: Some(layer), expert: None }
    }

    /// A parameter of one expert.
    pub fn expert(role: Role, layer: usize, expert: usize) -> Self {
        Self { role, layer: Some(layer), expert: Some(expert) }
    }
}

/// Where a parameter's values lie in the tensor that bears its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The tensor is the parameter.
    Whole,
    /// The tensor stacks all experts of a layer: `[experts, ...]`, and interleaves `step` parameters.
    Stacked {
        /// Which of them.
        expert: usize,
        /// Of how many.
        experts: usize,
        /// A matrix lies `[inputs, outputs]`. Quantised files never transpose: a group of inputs shares a scale.
        transposed: bool,
        /// Output `r` of the parameter is output `start + step * r` of the tensor.
        start: usize,
        /// Parameters that take turns along the outputs.
        step: usize,
    },
}

/// How a new parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal, mean zero.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// One everywhere.
    Ones,
    /// Zero everywhere.
    Zeros,
}

/// The standard deviation that every supported family starts from (`initializer_range` of transformers).
pub const INITIAL_STD: f32 = 0.02;

/// The dimension that tensor parallelism divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorAxis {
    /// Outputs: each rank computes some of them (and holds those elements of a bias).
    Column,
    /// Inputs: each rank computes a part of every sum.
    Row,
}

/// Where along the pipeline a parameter is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the layers: the embedding (and, when tied, after them too).
    First,
    /// In this layer.
    Layer(usize),
    /// After the layers: final norm and head.
    Last,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Which it is.
    pub id: ParameterId,
    /// Logical shape: `[outputs, inputs]` or `[n]`.
    pub shape: Vec<usize>,
    /// The tensor that holds it in a Hugging Face checkpoint, as transformers saves it.
    pub name: String,
    /// Where in that tensor.
    pub view: View,
    /// How it starts.
    pub init: Init,
    /// What tensor parallelism divides; `None`: each rank holds it whole.
    pub tensor_axis: Option<TensorAxis>,
    /// Whether weight decay applies: to matrices, not to norms, biases and sinks.
    pub decay: bool,
    /// Whether gradients change it.
    pub trainable: bool,
}

impl Parameter {
    /// How many numbers it is.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether expert parallelism places it with its expert.
    pub fn is_expert(&self) -> bool {
        self.id.expert.is_some()
    }

    /// Its position in the pipeline.
    pub fn stage(&self) -> Stage {
        match (self.id.layer, self.id.role) {
            (Some(layer), _) => Stage::Layer(layer),
            (None, Role::Embedding) => Stage::First,
            (None, _) => Stage::Last,
        }
    }

    /// Shape of the tensor that bears [`Parameter::name`] in an unquantised file.
    pub fn stored_shape(&self) -> Vec<usize> {
        match (self.view, self.shape.as_slice()) {
            (View::Stacked { experts, transposed: true, step, .. }, [rows, cols]) => {
                vec![experts, *cols, rows * step]
            }
            (View::Stacked { experts, step, .. }, [rows, rest @ ..]) => {
                let mut shape = vec![experts, rows * step];
                shape.extend(rest);
                shape
            }
            (_, shape) => shape.to_vec(),
        }
    }
}

/// Every parameter of a decoder, in the order of its layers.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterTable {
    /// The rows.
    pub parameters: Vec<Parameter>,
    index: HashMap<ParameterId, usize>,
}

impl ParameterTable {
    /// The table of a decoder. The config should have passed [`DecoderConfig::validate`], which bounds its size.
    pub fn new(config: &DecoderConfig) -> Self {
        let mut builder = Builder { config, parameters: Vec::new() };
        builder.global(Role::Embedding, &[config.vocab_size, config.hidden_size], "model.embed_tokens.weight");
        for (index, layer) in config.layers.iter().enumerate() {
            builder.attention(index);
            builder.ffn(index, layer);
        }
        builder.global(Role::FinalNorm, &[config.hidden_size], "model.norm.weight");
        if !config.tie_embeddings {
            builder.global(Role::Head, &[config.vocab_size, config.hidden_size], "lm_head.weight");
        }
        let parameters = builder.parameters;
        let index = parameters.iter().enumerate().map(|(i, p)| (p.id, i)).collect();
        Self { parameters, index }
    }

    /// The parameter of this id, if the decoder has it.
    pub fn get(&self, id: ParameterId) -> Option<&Parameter> {
        self.index.get(&id).map(|&i| &self.parameters[i])
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter()
    }
}

/// The dense layouts' names of gate, up and down.
const DENSE_NAMES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
/// Mixtral's names of the same.
const MIXTRAL_NAMES: [&str; 3] = ["w1", "w3", "w2"];

struct Builder<'a> {
    config: &'a DecoderConfig,
    parameters: Vec<Parameter>,
}

impl Builder<'_> {
    fn push(&mut self, id: ParameterId, shape: &[usize], name: String, view: View) {
        let init = match shape {
            _ if id.role.is_norm() => Init::Ones,
            [_] if id.role != Role::Sinks => Init::Zeros,
            // What is added to the residual stream, twice a layer, adds up to the same whatever the depth (GPT-2).
            _ if matches!(id.role, Role::OProj | Role::Down) => {
                let additions = 2.0 * self.config.layers.len() as f32;
                Init::Normal { std: INITIAL_STD / additions.sqrt() }
            }
            _ => Init::Normal { std: INITIAL_STD },
        };
        self.parameters.push(Parameter {
            id,
            shape: shape.to_vec(),
            name,
            view,
            init,
            tensor_axis: id.role.tensor_axis(),
            decay: shape.len() == 2,
            trainable: id.role.is_trainable(),
        });
    }

    fn global(&mut self, role: Role, shape: &[usize], name: &str) {
        self.push(ParameterId::global(role), shape, name.into(), View::Whole);
    }

    /// A parameter of layer `layer` whose name continues `model.layers.{layer}.`.
    fn layer(&mut self, role: Role, layer: usize, shape: &[usize], name: &str) {
        let name = format!("model.layers.{layer}.{name}");
        self.push(ParameterId::layer(role, layer), shape, name, View::Whole);
    }

    fn attention(&mut self, layer: usize) {
        let c = self.config;
        let (hidden, q, kv) = (c.hidden_size, c.q_size(), c.kv_size());
        self.layer(Role::AttentionNorm, layer, &[hidden], "input_layernorm.weight");
        let projections = [
            (Role::QProj, Role::QBias, q, hidden, c.qkv_bias, "q_proj"),
            (Role::KProj, Role::KBias, kv, hidden, c.qkv_bias, "k_proj"),
            (Role::VProj, Role::VBias, kv, hidden, c.qkv_bias, "v_proj"),
            (Role::OProj, Role::OBias, hidden, q, c.output_bias, "o_proj"),
        ];
        for (weight, bias, rows, cols, has_bias, name) in projections {
            self.layer(weight, layer, &[rows, cols], &format!("self_attn.{name}.weight"));
            if has_bias {
                self.layer(bias, layer, &[rows], &format!("self_attn.{name}.bias"));
            }
        }
        if c.qk_norm {
            self.layer(Role::QNorm, layer, &[c.head_dim], "self_attn.q_norm.weight");
            self.layer(Role::KNorm, layer, &[c.head_dim], "self_attn.k_norm.weight");
        }
        if c.attention_sinks {
            self.layer(Role::Sinks, layer, &[c.heads], "self_attn.sinks");
        }
    }

    fn ffn(&mut self, index: usize, layer: &Layer) {
        self.layer(Role::FfnNorm, index, &[self.config.hidden_size], "post_attention_layernorm.weight");
        match &layer.ffn {
            Ffn::Dense(dense) => self.network(index, None, dense, "mlp.", DENSE_NAMES),
            Ffn::Experts(experts) => self.experts(index, experts),
        }
    }

    fn experts(&mut self, layer: usize, ffn: &ExpertFfn) {
        let hidden = self.config.hidden_size;
        let router = match self.config.family {
            Family::Mixtral => "block_sparse_moe.gate",
            Family::GptOss => "mlp.router",
            _ => "mlp.gate",
        };
        self.layer(Role::Router, layer, &[ffn.experts, hidden], &format!("{router}.weight"));
        if ffn.router_bias {
            self.layer(Role::RouterBias, layer, &[ffn.experts], &format!("{router}.bias"));
        }
        if ffn.choice_bias {
            self.layer(Role::ChoiceBias, layer, &[ffn.experts], &format!("{router}.e_score_correction_bias"));
        }
        for expert in 0..ffn.experts {
            match self.config.family {
                Family::GptOss => self.stacked_expert(layer, expert, ffn),
                Family::Mixtral => {
                    let prefix = format!("block_sparse_moe.experts.{expert}.");
                    self.network(layer, Some(expert), &ffn.expert, &prefix, MIXTRAL_NAMES);
                }
                _ => {
                    let prefix = format!("mlp.experts.{expert}.");
                    self.network(layer, Some(expert), &ffn.expert, &prefix, DENSE_NAMES);
                }
            }
        }
        if let Some(shared) = &ffn.shared {
            self.network(layer, None, shared, "mlp.shared_expert.", DENSE_NAMES);
        }
    }

    /// Gate, up and down of one network, each a tensor of its own.
    fn network(&mut self, layer: usize, expert: Option<usize>, ffn: &DenseFfn, prefix: &str, names: [&str; 3]) {
        let (hidden, wide) = (self.config.hidden_size, ffn.ffn_size);
        let matrices = [
            (Role::Gate, Role::GateBias, wide, hidden),
            (Role::Up, Role::UpBias, wide, hidden),
            (Role::Down, Role::DownBias, hidden, wide),
        ];
        for ((weight, bias, rows, cols), name) in matrices.into_iter().zip(names) {
            let id = |role| ParameterId { role, layer: Some(layer), expert };
            let name = format!("model.layers.{layer}.{prefix}{name}");
            self.push(id(weight), &[rows, cols], format!("{name}.weight"), View::Whole);
            if ffn.bias {
                self.push(id(bias), &[rows], format!("{name}.bias"), View::Whole);
            }
        }
    }

    /// gpt-oss: one tensor per layer for all experts, `[experts, inputs, outputs]`, gate and up taking turns.
    fn stacked_expert(&mut self, layer: usize, expert: usize, ffn: &ExpertFfn) {
        let (hidden, wide) = (self.config.hidden_size, ffn.expert.ffn_size);
        let matrices = [
            (Role::Gate, Role::GateBias, wide, hidden, "gate_up_proj", 0, 2),
            (Role::Up, Role::UpBias, wide, hidden, "gate_up_proj", 1, 2),
            (Role::Down, Role::DownBias, hidden, wide, "down_proj", 0, 1),
        ];
        for (weight, bias, rows, cols, name, start, step) in matrices {
            let name = format!("model.layers.{layer}.mlp.experts.{name}");
            let view = |transposed| View::Stacked { expert, experts: ffn.experts, transposed, start, step };
            let id = |role| ParameterId::expert(role, layer, expert);
            self.push(id(weight), &[rows, cols], name.clone(), view(true));
            if ffn.expert.bias {
                self.push(id(bias), &[rows], format!("{name}_bias"), view(false));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::*;

    fn dense(bias: bool) -> DenseFfn {
        DenseFfn { ffn_size: 6, bias, activation: Activation::SwiGlu }
    }

    fn config(family: Family) -> DecoderConfig {
        let moe = ExpertFfn {
            experts: 3,
            top_k: 2,
            router: Router::TopKSoftmax,
            router_bias: family == Family::GptOss,
            choice_bias: family != Family::GptOss,
            expert: dense(family == Family::GptOss),
            shared: None,
        };
        let layer = |ffn| Layer { attention: AttentionLayer { window: None }, ffn };
        DecoderConfig {
            family,
            vocab_size: 11,
            hidden_size: 8,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            layers: vec![layer(Ffn::Dense(dense(false))), layer(Ffn::Experts(moe))],
            norm_eps: 1e-5,
            qk_norm: true,
            qkv_bias: false,
            output_bias: false,
            attention_sinks: false,
            position: Position::Alibi,
            max_context: 64,
            tie_embeddings: false,
        }
    }

    #[test]
    fn gpt_oss_experts_share_interleaved_tensors() {
        let table = ParameterTable::new(&config(Family::GptOss));
        let up = table.get(ParameterId::expert(Role::Up, 1, 2)).unwrap();
        assert_eq!(up.name, "model.layers.1.mlp.experts.gate_up_proj");
        assert_eq!(up.shape, [6, 8]);
        assert_eq!(up.stored_shape(), [3, 8, 12]);
        let bias = table.get(ParameterId::expert(Role::UpBias, 1, 2)).unwrap();
        assert_eq!(bias.name, "model.layers.1.mlp.experts.gate_up_proj_bias");
        assert_eq!(bias.stored_shape(), [3, 12]);
        let down = table.get(ParameterId::expert(Role::Down, 1, 0)).unwrap();
        assert_eq!(down.stored_shape(), [3, 6, 8]);
    }

    #[test]
    fn ids_are_unique_and_found() {
        for family in [Family::Mixtral, Family::Qwen3Moe, Family::GptOss] {
            let table = ParameterTable::new(&config(family));
            assert_eq!(table.index.len(), table.parameters.len());
            for parameter in table.iter() {
                assert_eq!(table.get(parameter.id), Some(parameter));
            }
        }
    }

    #[test]
    fn mixtral_names_its_experts_w1_w3_w2() {
        let table = ParameterTable::new(&config(Family::Mixtral));
        let name = |role| table.get(ParameterId::expert(role, 1, 0)).unwrap().name.clone();
        let prefix = "model.layers.1.block_sparse_moe.experts.0";
        assert_eq!(name(Role::Gate), format!("{prefix}.w1.weight"));
        assert_eq!(name(Role::Up), format!("{prefix}.w3.weight"));
        assert_eq!(name(Role::Down), format!("{prefix}.w2.weight"));
    }
}

//! The shape of a decoder, as plain data.

/// Whose parameter names and `config.json` keys a checkpoint uses. It never decides arithmetic:
/// everything that changes a number is a field of [`DecoderConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `MixtralForCausalLM`.
    Mixtral,
    /// `Qwen3MoeForCausalLM`.
    Qwen3Moe,
    /// `Qwen3ForCausalLM`.
    Qwen3,
    /// `LlamaForCausalLM`.
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
    /// `GptOssForCausalLM`.
    GptOss,
}

/// A decoder-only transformer with pre-norm RMSNorm, grouped-query attention and dense or expert
/// feed-forward layers.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The layout of names in files.
    pub family: Family,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// K/V heads; 1 is Multi-Query Attention (Shazeer 2019), fewer than `heads` is grouped-query.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// One entry per layer, first to last.
    pub layers: Vec<Layer>,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// RMSNorm over each head of Q and K, before RoPE (Qwen3).
    pub qk_norm: bool,
    /// Biases on the Q, K and V projections.
    pub qkv_bias: bool,
    /// Bias on the output projection of attention.
    pub output_bias: bool,
    /// One learned logit per query head that takes part in the softmax and attends to nothing (gpt-oss).
    pub attention_sinks: bool,
    /// How positions enter attention.
    pub position: Position,
    /// `max_position_embeddings`: positions the model was made for, context extension included.
    pub max_context: usize,
    /// The head is the embedding, transposed.
    pub tie_embeddings: bool,
}

impl DecoderConfig {
    /// Whether routers have a bias that decides the choice of experts alone.
    pub fn has_choice_bias(&self) -> bool {
        self.layers.iter().any(|layer| matches!(&layer.ffn, Ffn::Experts(experts) if experts.choice_bias))
    }

    /// Routed experts of a layer; 0 where it is dense.
    pub fn experts(&self, layer: usize) -> usize {
        match self.layers.get(layer).map(|layer| &layer.ffn) {
            Some(Ffn::Experts(experts)) => experts.experts,
            _ => 0,
        }
    }

    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// One decoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Its attention.
    pub attention: AttentionLayer,
    /// Its feed-forward half.
    pub ffn: Ffn,
}

/// What differs between the attentions of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionLayer {
    /// A query at position p sees positions p - window + 1 ..= p; `None` sees all before it.
    pub window: Option<usize>,
}

/// The feed-forward half of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Ffn {
    /// One gated network.
    Dense(DenseFfn),
    /// A router and its experts.
    Experts(ExpertFfn),
}

/// `down(activation(gate(x), up(x)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseFfn {
    /// Width between the projections.
    pub ffn_size: usize,
    /// Biases on the three projections.
    pub bias: bool,
    /// How gate and up combine.
    pub activation: Activation,
}

/// A sparse mixture of gated networks.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertFfn {
    /// How many experts the layer holds.
    pub experts: usize,
    /// How many of them each token visits.
    pub top_k: usize,
    /// How the router's logits become expert weights.
    pub router: Router,
    /// A bias on the router's logits.
    pub router_bias: bool,
    /// A bias on the router's probabilities that decides which experts are chosen and nothing else: the weights of the chosen are as without it
    /// (loss-free balancing, Wang 2024; DeepSeek-V3).
    pub choice_bias: bool,
    /// The shape of every expert.
    pub expert: DenseFfn,
    /// A network that every token visits, beside the routed experts.
    pub shared: Option<DenseFfn>,
}

/// How router logits become the weights of the chosen experts. Always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    /// Softmax over all experts, the k largest, divided by their sum if `renormalise` (Mixtral, Qwen3-MoE).
    SoftmaxTopK {
        /// Whether the k weights are scaled to add up to one.
        renormalise: bool,
    },
    /// The k largest logits, softmax over those (gpt-oss).
    TopKSoftmax,
}

/// How the gate and up projections combine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `silu(gate) * up` (Shazeer 2020).
    SwiGlu,
    /// `g * sigmoid(alpha * g) * (u + 1)` with `g = min(gate, limit)`, `u = clamp(up, -limit, limit)` (gpt-oss).
    ClampedSwiGlu {
        /// Slope inside the sigmoid.
        alpha: f32,
        /// Bound on gate (above) and up (both sides).
        limit: f32,
    },
}

/// How positions enter attention.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// Rotary embedding over all of `head_dim`, halves rotated against each other (Su 2021; the
    /// `rotate_half` layout of transformers).
    Rope(Rope),
    /// A penalty linear in distance on each head's scores (Press 2022), slopes as in the paper.
    Alibi,
}

/// Rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// How they are stretched beyond the trained context.
    pub scaling: RopeScaling,
}

/// Context extension, with the parameters of transformers' `modeling_rope_utils`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by `factor` (Chen 2023).
    Linear {
        /// Served over trained context.
        factor: f32,
    },
    /// NTK-aware base that depends on the served context.
    Dynamic {
        /// `factor` of the config.
        factor: f32,
        /// Context that the base was trained for.
        original_context: usize,
    },
    /// YaRN (Peng 2023).
    Yarn {
        /// Served over trained context.
        factor: f32,
        /// Context that the base was trained for.
        original_context: usize,
        /// Rotations below which a dimension is interpolated.
        beta_slow: f32,
        /// Rotations above which a dimension is left alone.
        beta_fast: f32,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
        /// Scale on cos and sin, already resolved (`attention_factor`, `mscale`, `mscale_all_dim`).
        attention_factor: f32,
    },
    /// Llama 3.1's piecewise interpolation.
    Llama3 {
        /// Division of the low frequencies.
        factor: f32,
        /// Rotations under which a frequency is divided in full.
        low_freq_factor: f32,
        /// Rotations above which it is left alone.
        high_freq_factor: f32,
        /// Context that the base was trained for.
        original_context: usize,
    },
    /// LongRoPE (Ding 2024): one divisor per frequency, one list up to the original context, one beyond.
    LongRope {
        /// Divisors where the served context is within the original one.
        short_factor: Vec<f32>,
        /// Divisors where it is longer.
        long_factor: Vec<f32>,
        /// Context that separates the lists.
        original_context: usize,
        /// Scale on cos and sin, already resolved.
        attention_factor: f32,
    },
}

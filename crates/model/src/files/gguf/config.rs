//! From GGUF metadata to a decoder.

use super::Architecture;
use super::parse::{Gguf, Kind, Value, elements};
use super::vocabulary::Vocabulary;
use crate::files::FileError;
use spec::validate::limits;
use spec::{
    Activation, AttentionLayer, DecoderConfig, DenseFfn, ExpertFfn, Family, Ffn, HfConfig, Layer, Position, Rope,
    RopeScaling, Router,
};
use std::collections::HashSet;

/// Keys of an architecture that say nothing about the arithmetic.
const HARMLESS: &[&str] = &["rope.scaling.finetuned", "tensor_data_layout", "expert_shared_count", "n_ctx_train"];

/// Reads typed values under a prefix and remembers which.
pub(super) struct Reader<'a> {
    gguf: &'a Gguf,
    prefix: String,
    used: HashSet<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(gguf: &'a Gguf, prefix: &str) -> Self {
        Self { gguf, prefix: prefix.to_owned(), used: HashSet::new() }
    }

    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> FileError {
        FileError::Metadata {
            path: self.gguf.store.path.clone(),
            key: format!("{}{key}", self.prefix),
            problem: problem.into(),
        }
    }

    fn value(&mut self, key: &str) -> Option<&'a Value> {
        let full = format!("{}{key}", self.prefix);
        let value = self.gguf.metadata.get(&full);
        self.used.insert(full);
        value
    }

    /// A number that fits into `T`. An array is taken for its element if all are the same: some files repeat a
    /// value for each layer.
    fn integer<T: TryFrom<i128> + PartialEq>(&mut self, key: &str) -> Result<Option<T>, FileError> {
        let single = |value: &Value| match value {
            Value::Integer(n) => T::try_from(*n).ok(),
            _ => None,
        };
        let number = match self.value(key) {
            None => return Ok(None),
            Some(&Value::Array { kind, count, start }) => {
                let mut all = elements(&self.gguf.store, kind, count, start).map(|v| single(&v));
                let first = all.next().flatten();
                if first.is_some() && !all.all(|other| other == first) {
                    return Err(self.error(key, "differs between layers, which is not supported"));
                }
                first
            }
            Some(value) => single(value),
        };
        number.map(Some).ok_or_else(|| self.error(key, "is not a whole number in range"))
    }

    fn size(&mut self, key: &str) -> Result<Option<usize>, FileError> {
        self.integer(key)
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, FileError> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }

    pub(super) fn id(&mut self, key: &str) -> Result<Option<u32>, FileError> {
        self.integer(key)
    }

    fn number(&mut self, key: &str) -> Result<Option<f32>, FileError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Float(n)) => Ok(Some(*n as f32)),
            Some(_) => Err(self.error(key, "is not a float")),
        }
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, FileError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.error(key, "is neither true nor false")),
        }
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, FileError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.error(key, "is not a string")),
        }
    }

    /// The elements of an array, each taken by `take`; none where the key is absent.
    fn array<T>(&mut self, key: &str, expected: &str, take: impl Fn(Value) -> Option<T>) -> Result<Vec<T>, FileError> {
        let (kind, count, start) = match self.value(key) {
            None => return Ok(Vec::new()),
            Some(&Value::Array { kind, count, start }) => (kind, count, start),
            Some(_) => (Kind::Array, 1, 0),
        };
        let taken: Option<Vec<T>> = elements(&self.gguf.store, kind, count, start).map(take).collect();
        taken
            .filter(|list| list.len() == count)
            .ok_or_else(|| self.error(key, format!("is not an array of {expected}")))
    }

    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>, FileError> {
        self.array(key, "strings", |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    pub(super) fn floats(&mut self, key: &str) -> Result<Vec<f32>, FileError> {
        self.array(key, "floats", |value| match value {
            Value::Float(n) => Some(n as f32),
            _ => None,
        })
    }

    pub(super) fn integers(&mut self, key: &str) -> Result<Vec<i32>, FileError> {
        self.array(key, "integers", |value| match value {
            Value::Integer(n) => n.try_into().ok(),
            _ => None,
        })
    }

    /// Refuses keys under the prefix that nobody asked for.
    fn finish(&self) -> Result<(), FileError> {
        for key in self.gguf.metadata.keys() {
            let Some(rest) = key.strip_prefix(&self.prefix) else {
                continue;
            };
            if !self.used.contains(key) && !HARMLESS.contains(&rest) {
                return Err(self.error(rest, "is not supported; it may change what the model computes"));
            }
        }
        Ok(())
    }
}

/// The decoder and the vocabulary of a file.
pub(in crate::files) fn decoder(gguf: &Gguf) -> Result<(HfConfig, Vocabulary), FileError> {
    let mut general = Reader::new(gguf, "general.");
    let name = general.text("architecture")?;
    let name = general.required("architecture", name)?;
    let architecture = Architecture::ALL.into_iter().find(|a| a.name() == name);
    let architecture = architecture.ok_or_else(|| {
        let known = Architecture::ALL.map(Architecture::name).join(", ");
        general.error("architecture", format!("is \"{name}\"; supported are {known}"))
    })?;
    let mut split = Reader::new(gguf, "split.");
    if split.size("count")?.is_some_and(|count| count > 1) {
        let problem = "says that the model is split; join the parts first (llama-gguf-split --merge)";
        return Err(split.error("count", problem));
    }
    let vocabulary = Vocabulary::read(gguf)?;
    let mut builder = Builder { gguf, reader: Reader::new(gguf, &format!("{name}.")), architecture };
    let decoder = builder.decoder(&vocabulary)?;
    builder.reader.finish()?;
    decoder.validate().map_err(|source| FileError::Invalid { path: gguf.store.path.clone(), source })?;
    let mut config = HfConfig::new(decoder);
    config.bos = vocabulary.bos;
    config.eos = vocabulary.eos.into_iter().chain(vocabulary.eot).chain(vocabulary.eom).collect();
    config.eos.dedup();
    config.pad = vocabulary.pad;
    Ok((config, vocabulary))
}

struct Builder<'a> {
    gguf: &'a Gguf,
    reader: Reader<'a>,
    architecture: Architecture,
}

impl Builder<'_> {
    fn has(&self, tensor: &str) -> bool {
        self.gguf.store.get(tensor).is_some()
    }

    fn required(&mut self, key: &str) -> Result<usize, FileError> {
        let size = self.reader.size(key)?;
        self.reader.required(key, size)
    }

    fn decoder(&mut self, vocabulary: &Vocabulary) -> Result<DecoderConfig, FileError> {
        let hidden_size = self.required("embedding_length")?;
        let heads = self.required("attention.head_count")?;
        let kv_heads = self.reader.size("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = self.head_dim(hidden_size, heads)?;
        let norm_eps = self.reader.number("attention.layer_norm_rms_epsilon")?;
        let norm_eps = self.reader.required("attention.layer_norm_rms_epsilon", norm_eps)?;
        let max_context = self.required("context_length")?;
        let stated = self.reader.size("vocab_size")?;
        let embedding = self.gguf.store.get("token_embd.weight");
        let vocab_size = stated.or(embedding.and_then(|t| t.shape.first().copied())).unwrap_or(vocabulary.tokens.len());
        self.neutral()?;
        let layers = self.layers()?;
        Ok(DecoderConfig {
            family: self.family(&layers),
            vocab_size,
            hidden_size,
            heads,
            kv_heads,
            head_dim,
            norm_eps,
            qk_norm: self.has("blk.0.attn_q_norm.weight"),
            qkv_bias: self.has("blk.0.attn_q.bias"),
            output_bias: self.has("blk.0.attn_output.bias"),
            attention_sinks: self.architecture == Architecture::GptOss,
            position: Position::Rope(self.rope(head_dim, max_context)?),
            max_context,
            tie_embeddings: !self.has("output.weight"),
            layers,
        })
    }

    fn family(&self, layers: &[Layer]) -> Family {
        match self.architecture {
            Architecture::Qwen3 => Family::Qwen3,
            Architecture::Qwen3Moe => Family::Qwen3Moe,
            Architecture::GptOss => Family::GptOss,
            Architecture::Llama => match layers.first() {
                Some(layer) if matches!(layer.ffn, Ffn::Experts(_)) => Family::Mixtral,
                Some(layer) if layer.attention.window.is_some() => Family::Mistral,
                _ => Family::Llama,
            },
        }
    }

    fn head_dim(&mut self, hidden_size: usize, heads: usize) -> Result<usize, FileError> {
        let derived = hidden_size.checked_div(heads).unwrap_or(0);
        let key = self.reader.size("attention.key_length")?;
        let head_dim = key.unwrap_or(derived);
        for other in ["attention.value_length", "rope.dimension_count"] {
            if let Some(size) = self.reader.size(other)?
                && size != head_dim
            {
                let problem = format!("is {size}; only the width of a head ({head_dim}) is supported");
                return Err(self.reader.error(other, problem));
            }
        }
        Ok(head_dim)
    }

    /// Keys whose usual value changes nothing, and any other would.
    fn neutral(&mut self) -> Result<(), FileError> {
        for key in ["expert_weights_scale", "attention.scale", "logit_scale"] {
            if self.reader.number(key)?.is_some_and(|n| n != 0.0 && n != 1.0) {
                return Err(self.reader.error(key, "is not supported"));
            }
        }
        if self.reader.flag("attention.causal")? == Some(false) {
            return Err(self.reader.error("attention.causal", "is false, which is not supported"));
        }
        let usual = match self.architecture {
            Architecture::GptOss => [0, 3],
            _ => [0, 1],
        };
        match self.reader.size("expert_gating_func")? {
            Some(kind) if !usual.contains(&kind) => {
                let problem = format!("is {kind}, which is not supported");
                Err(self.reader.error("expert_gating_func", problem))
            }
            _ => Ok(()),
        }
    }

    fn layers(&mut self) -> Result<Vec<Layer>, FileError> {
        let count = self.required("block_count")?;
        if !(1..=limits::LAYERS).contains(&count) {
            let problem = format!("is {count}, allowed is 1 to {}", limits::LAYERS);
            return Err(self.reader.error("block_count", problem));
        }
        let window = self.reader.size("attention.sliding_window")?;
        let window = window.filter(|&w| w > 0);
        let ffn = self.ffn()?;
        let layer = |i: usize| Layer {
            attention: AttentionLayer {
                window: match self.architecture {
                    Architecture::GptOss => window.filter(|_| i.is_multiple_of(2)),
                    _ => window,
                },
            },
            ffn: ffn.clone(),
        };
        Ok((0..count).map(layer).collect())
    }

    fn ffn(&mut self) -> Result<Ffn, FileError> {
        let is_oss = self.architecture == Architecture::GptOss;
        let activation =
            if is_oss { Activation::ClampedSwiGlu { alpha: 1.702, limit: 7.0 } } else { Activation::SwiGlu };
        let wide = self.reader.size("feed_forward_length")?;
        let expert_wide = self.reader.size("expert_feed_forward_length")?;
        let experts = self.reader.size("expert_count")?.unwrap_or(0);
        let top_k = self.reader.size("expert_used_count")?;
        let normalised = self.reader.flag("expert_weights_norm")?;
        if experts == 0 {
            let ffn_size = self.reader.required("feed_forward_length", wide)?;
            return Ok(Ffn::Dense(DenseFfn { ffn_size, bias: self.has("blk.0.ffn_gate.bias"), activation }));
        }
        let ffn_size = expert_wide.or(wide);
        let router = match self.architecture {
            Architecture::GptOss => Router::TopKSoftmax,
            _ => Router::SoftmaxTopK { renormalise: normalised.unwrap_or(true) },
        };
        Ok(Ffn::Experts(ExpertFfn {
            experts,
            top_k: self.reader.required("expert_used_count", top_k)?,
            router,
            router_bias: self.has("blk.0.ffn_gate_inp.bias"),
            choice_bias: false,
            expert: DenseFfn {
                ffn_size: self.reader.required("feed_forward_length", ffn_size)?,
                bias: self.has("blk.0.ffn_gate_exps.bias"),
                activation,
            },
            shared: None,
        }))
    }

    fn rope(&mut self, head_dim: usize, max_context: usize) -> Result<Rope, FileError> {
        let theta = self.reader.number("rope.freq_base")?.unwrap_or(10000.0);
        let factor = self.reader.number("rope.scaling.factor")?.filter(|&f| f != 0.0);
        let original = self.reader.size("rope.scaling.original_context_length")?;
        let attention = self.reader.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let beta_fast = self.reader.number("rope.scaling.yarn_beta_fast")?;
        let beta_slow = self.reader.number("rope.scaling.yarn_beta_slow")?;
        let kind = self.reader.text("rope.scaling.type")?;
        let kind = kind.as_deref().unwrap_or("linear");
        let divisors = |name| super::read_divisors(&self.gguf.store, name, head_dim);
        let listed = divisors("rope_freqs.weight")?;
        let original_context = original.unwrap_or(max_context);
        let scaling = match (kind, factor, listed) {
            ("none" | "linear", None | Some(1.0), None) => RopeScaling::None,
            ("linear", Some(factor), None) => RopeScaling::Linear { factor },
            ("yarn", Some(factor), None) => RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast: beta_fast.unwrap_or(32.0),
                beta_slow: beta_slow.unwrap_or(1.0),
                truncate: self.architecture != Architecture::GptOss,
                attention_factor: attention * yarn_attention(factor),
            },
            // Llama 3's interpolation comes as one divisor per frequency, whatever the context.
            ("none" | "linear", None | Some(1.0), Some(list)) => RopeScaling::LongRope {
                short_factor: list.clone(),
                long_factor: list,
                original_context: max_context,
                attention_factor: 1.0,
            },
            ("longrope", _, None) => RopeScaling::LongRope {
                short_factor: self.needed(divisors("rope_factors_short.weight")?)?,
                long_factor: self.needed(divisors("rope_factors_long.weight")?)?,
                original_context,
                attention_factor: attention,
            },
            _ => {
                let problem = format!("{kind:?} with factor {factor:?} is not supported");
                return Err(self.reader.error("rope.scaling.type", problem));
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn needed(&self, list: Option<Vec<f32>>) -> Result<Vec<f32>, FileError> {
        let problem = "is longrope, but rope_factors_short or rope_factors_long is missing";
        list.ok_or_else(|| self.reader.error("rope.scaling.type", problem))
    }
}

/// What llama.cpp's YaRN multiplies cosine and sine by, on its own.
pub(super) fn yarn_attention(factor: f32) -> f32 {
    (1.0 + 0.1 * f64::from(factor).ln()) as f32
}

//! From `config.json` to [`HfConfig`].

use super::keys::{Keys, brief};
use super::rope::{self, Surroundings};
use super::{HfConfig, HfError, Quantisation, WeightFormat};
use crate::config::{
    Activation, AttentionLayer, DecoderConfig, DenseFfn, ExpertFfn, Family, Ffn, Layer, Position, RopeScaling, Router,
};
use crate::validate::{InvalidConfig, limits};
use serde_json::{Map, Value};

/// What transformers takes where a key is absent.
struct Defaults {
    vocab_size: usize,
    hidden_size: usize,
    ffn_size: usize,
    layers: usize,
    heads: usize,
    kv_heads: Option<usize>,
    /// `None`: hidden size over heads.
    head_dim: Option<usize>,
    context: usize,
    norm_eps: f64,
    theta: f64,
    window: Option<usize>,
    experts: usize,
    top_k: usize,
    attention_bias: bool,
}

impl Defaults {
    fn of(family: Family) -> Self {
        let llama = Self {
            vocab_size: 32000,
            hidden_size: 4096,
            ffn_size: 11008,
            layers: 32,
            heads: 32,
            kv_heads: None,
            head_dim: None,
            context: 2048,
            norm_eps: 1e-6,
            theta: 1e4,
            window: None,
            experts: 0,
            top_k: 0,
            attention_bias: false,
        };
        match family {
            Family::Llama => llama,
            Family::Mistral => {
                Self { ffn_size: 14336, kv_heads: Some(8), context: 131_072, window: Some(4096), ..llama }
            }
            Family::Mixtral => Self {
                ffn_size: 14336,
                kv_heads: Some(8),
                context: 131_072,
                norm_eps: 1e-5,
                theta: 1e6,
                experts: 8,
                top_k: 2,
                ..llama
            },
            Family::Qwen3 => Self {
                vocab_size: 151_936,
                ffn_size: 22016,
                kv_heads: Some(32),
                head_dim: Some(128),
                context: 32768,
                window: Some(4096),
                ..llama
            },
            Family::Qwen3Moe => Self {
                vocab_size: 151_936,
                hidden_size: 2048,
                ffn_size: 6144,
                layers: 24,
                kv_heads: Some(4),
                context: 32768,
                window: Some(4096),
                experts: 128,
                top_k: 8,
                ..llama
            },
            Family::GptOss => Self {
                vocab_size: 201_088,
                hidden_size: 2880,
                ffn_size: 2880,
                layers: 36,
                heads: 64,
                kv_heads: Some(8),
                head_dim: Some(64),
                context: 131_072,
                norm_eps: 1e-5,
                theta: 15e4,
                window: Some(128),
                experts: 128,
                top_k: 4,
                attention_bias: true,
            },
        }
    }
}

pub(super) fn read(text: &str) -> Result<HfConfig, HfError> {
    let map: Map<String, Value> = serde_json::from_str(text).map_err(HfError::Json)?;
    let mut keys = Keys::new(&map, "");
    let (family, choice_bias) = family(&mut keys)?;
    let mut reader = Reader { defaults: Defaults::of(family), family, choice_bias, keys };
    let decoder = reader.decoder()?;
    decoder.validate()?;
    let vocab = decoder.vocab_size;
    let config = HfConfig {
        decoder,
        quantisation: reader.quantisation()?,
        bos: reader.known_tokens("bos_token_id", vocab)?.first().copied(),
        eos: reader.known_tokens("eos_token_id", vocab)?,
        pad: reader.tokens("pad_token_id")?.first().copied(),
        dtype: reader.dtype()?,
    };
    reader.keys.finish()?;
    Ok(config)
}

/// The family, and whether its routers have a bias on the choice. Decided by `architectures`, else `model_type`; both must say the same.
fn family(keys: &mut Keys) -> Result<(Family, bool), HfError> {
    let architectures = keys.list("architectures")?;
    let model_type = keys.text("model_type")?;
    let unknown = |found: String| HfError::UnknownArchitecture { found };
    let known = || Family::ALL.into_iter().flat_map(|family| [(family, false), (family, true)]);
    let by_type =
        |t: &str| known().find(|&(family, bias)| super::model_type(family, bias).is_some_and(|name| name == t));
    let Some([named]) = architectures.map(Vec::as_slice) else {
        return match (architectures, model_type) {
            (Some(list), _) if list.len() > 1 => Err(unknown(brief(&Value::Array(list.clone())))),
            (_, Some(t)) => by_type(t).ok_or_else(|| unknown(t.into())),
            _ => Err(HfError::NoArchitecture),
        };
    };
    let is_named = |&(family, bias): &(Family, bool)| super::architecture(family, bias).as_deref() == named.as_str();
    let found = known().find(is_named).filter(|_| named.is_string());
    let found = found.ok_or_else(|| unknown(named.as_str().map_or_else(|| brief(named), str::to_owned)))?;
    match model_type {
        Some(t) if by_type(t) != Some(found) => Err(HfError::Disagree {
            first: "architectures".into(),
            first_value: named.as_str().unwrap_or_default().into(),
            second: "model_type".into(),
            second_value: t.into(),
        }),
        _ => Ok(found),
    }
}

struct Reader<'a> {
    keys: Keys<'a>,
    family: Family,
    choice_bias: bool,
    defaults: Defaults,
}

impl Reader<'_> {
    fn decoder(&mut self) -> Result<DecoderConfig, HfError> {
        let d = &self.defaults;
        let keys = &mut self.keys;
        let vocab_size = keys.size("vocab_size", d.vocab_size)?;
        let hidden_size = keys.size("hidden_size", d.hidden_size)?;
        let heads = keys.size("num_attention_heads", d.heads)?;
        let kv_default = Some(d.kv_heads.unwrap_or(heads));
        let kv_heads = keys.size_or_null("num_key_value_heads", kv_default)?;
        let head_dim = match keys.size_or_null("head_dim", d.head_dim)? {
            Some(head_dim) => head_dim,
            None => derived_head_dim(hidden_size, heads)?,
        };
        let norm_eps = keys.number("rms_norm_eps")?.unwrap_or(d.norm_eps) as f32;
        let max_context = keys.size("max_position_embeddings", d.context)?;
        let tie_embeddings = keys.flag("tie_word_embeddings", false)?;
        let bias = keys.flag("attention_bias", d.attention_bias)?;
        if bias && matches!(self.family, Family::Mixtral | Family::Mistral) {
            return Err(keys.unsupported("attention_bias", &Value::Bool(true), "it must be false"));
        }
        let position = self.position(max_context)?;
        Ok(DecoderConfig {
            family: self.family,
            vocab_size,
            hidden_size,
            heads,
            kv_heads: kv_heads.unwrap_or(heads),
            head_dim,
            layers: self.layers()?,
            norm_eps,
            qk_norm: matches!(self.family, Family::Qwen3 | Family::Qwen3Moe),
            qkv_bias: bias,
            output_bias: bias,
            attention_sinks: self.family == Family::GptOss,
            position,
            max_context,
            tie_embeddings,
        })
    }

    fn position(&mut self, max_context: usize) -> Result<Position, HfError> {
        match self.keys.text("position_embedding")? {
            None | Some("rope") => {}
            Some("alibi") => {
                // transformers fills these in on its own; they mean nothing here.
                for key in ["rope_theta", "rope_scaling", "rope_parameters"] {
                    self.keys.value(key);
                }
                return Ok(Position::Alibi);
            }
            Some(other) => {
                let found = Value::from(other);
                let allowed = "allowed are rope and alibi";
                return Err(self.keys.unsupported("position_embedding", &found, allowed));
            }
        }
        let family_default = match self.family {
            Family::GptOss => RopeScaling::Yarn {
                factor: 32.0,
                original_context: 4096,
                beta_slow: 1.0,
                beta_fast: 32.0,
                truncate: false,
                attention_factor: (0.1 * 32f64.ln() + 1.0) as f32,
            },
            _ => RopeScaling::None,
        };
        let around = Surroundings { family_theta: self.defaults.theta, family_default, max_context };
        rope::read(&mut self.keys, &around).map(Position::Rope)
    }

    fn layers(&mut self) -> Result<Vec<Layer>, HfError> {
        let count = self.keys.size("num_hidden_layers", self.defaults.layers)?;
        if !(1..=limits::LAYERS).contains(&count) {
            return Err(HfError::Invalid(InvalidConfig::OutOfRange {
                field: "num_hidden_layers",
                value: count,
                least: 1,
                most: limits::LAYERS,
            }));
        }
        let windows = self.windows(count)?;
        let ffns = self.ffns(count)?;
        let layer = |(window, ffn)| Layer { attention: AttentionLayer { window }, ffn };
        Ok(windows.into_iter().zip(ffns).map(layer).collect())
    }

    fn windows(&mut self, count: usize) -> Result<Vec<Option<usize>>, HfError> {
        let stated = self.keys.size_or_null("sliding_window", self.defaults.window)?;
        if let (Family::Llama, Some(window)) = (self.family, stated) {
            let allowed = "a Llama has none (transformers ignores the key); MistralForCausalLM has";
            return Err(self.keys.unsupported("sliding_window", &Value::from(window), allowed));
        }
        let by_switch = matches!(self.family, Family::Qwen3 | Family::Qwen3Moe);
        let used = !by_switch || self.keys.flag("use_sliding_window", false)?;
        let window = stated.filter(|_| used);
        let full_layers = match self.family {
            Family::Qwen3 => self.keys.size("max_window_layers", 28)?,
            _ => 0,
        };
        let usual = |i: usize| match self.family {
            Family::GptOss => window.filter(|_| i.is_multiple_of(2)),
            _ => window.filter(|_| i >= full_layers),
        };
        let usual: Vec<_> = (0..count).map(usual).collect();
        let Some(types) = self.keys.list("layer_types")? else {
            return Ok(usual);
        };
        let listed = self.listed_windows(types, count, window)?;
        // The other families' classes do not read the list, so it may only repeat what they do.
        let reads_list = matches!(self.family, Family::Qwen3 | Family::GptOss);
        if !reads_list && listed != usual {
            return Err(HfError::Disagree {
                first: "layer_types".into(),
                first_value: brief(&Value::Array(types.clone())),
                second: "sliding_window".into(),
                second_value: window.map_or("null".into(), |w| w.to_string()),
            });
        }
        Ok(listed)
    }

    fn listed_windows(
        &self,
        types: &[Value],
        count: usize,
        window: Option<usize>,
    ) -> Result<Vec<Option<usize>>, HfError> {
        if types.len() != count {
            return Err(HfError::Disagree {
                first: "layer_types".into(),
                first_value: format!("{} entries", types.len()),
                second: "num_hidden_layers".into(),
                second_value: count.to_string(),
            });
        }
        let one = |entry: &Value| match (entry.as_str(), window) {
            (Some("full_attention" | "attention"), _) => Ok(None),
            (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
            (Some("sliding_attention"), None) => {
                Err(HfError::Missing { key: "sliding_window".into(), needed_by: "a sliding_attention layer".into() })
            }
            _ => Err(self.keys.unsupported("layer_types", entry, "allowed are full_attention and sliding_attention")),
        };
        types.iter().map(one).collect()
    }

    fn ffns(&mut self, count: usize) -> Result<Vec<Ffn>, HfError> {
        let activation = self.activation()?;
        let bias = self.keys.flag("mlp_bias", false)?;
        if bias && self.family != Family::Llama {
            let value = Value::Bool(true);
            return Err(self.keys.unsupported("mlp_bias", &value, "it must be false"));
        }
        let network = |ffn_size, bias| DenseFfn { ffn_size, bias, activation };
        let wide = self.keys.size("intermediate_size", self.defaults.ffn_size)?;
        let dense = Ffn::Dense(network(wide, bias));
        if self.defaults.experts == 0 {
            return Ok(vec![dense; count]);
        }
        let expert = match self.family {
            Family::Qwen3Moe => network(self.keys.size("moe_intermediate_size", 768)?, false),
            Family::GptOss => network(wide, true),
            _ => network(wide, false),
        };
        let (experts, top_k) = self.expert_counts()?;
        let router = match self.family {
            Family::GptOss => Router::TopKSoftmax,
            Family::Qwen3Moe => Router::SoftmaxTopK { renormalise: self.keys.flag("norm_topk_prob", false)? },
            _ => Router::SoftmaxTopK { renormalise: true },
        };
        let moe = Ffn::Experts(ExpertFfn {
            experts,
            top_k,
            router,
            router_bias: self.family == Family::GptOss,
            choice_bias: self.choice_bias,
            expert,
            shared: None,
        });
        if self.family != Family::Qwen3Moe {
            return Ok(vec![moe; count]);
        }
        let is_sparse = self.sparse_layers(count, experts)?;
        let choose = |sparse| if sparse { moe.clone() } else { dense.clone() };
        Ok(is_sparse.into_iter().map(choose).collect())
    }

    /// Both spellings of the number of experts, and both of the number visited.
    fn expert_counts(&mut self) -> Result<(usize, usize), HfError> {
        let mut agreed = |first: &'static str, second: &'static str, default| {
            let one = self.keys.size_or_null(first, None)?;
            let other = self.keys.size_or_null(second, None)?;
            match (one, other) {
                (Some(a), Some(b)) if a != b => Err(HfError::Disagree {
                    first: first.into(),
                    first_value: a.to_string(),
                    second: second.into(),
                    second_value: b.to_string(),
                }),
                (a, b) => Ok(a.or(b).unwrap_or(default)),
            }
        };
        let experts = agreed("num_local_experts", "num_experts", self.defaults.experts)?;
        let top_k = agreed("num_experts_per_tok", "experts_per_token", self.defaults.top_k)?;
        Ok((experts, top_k))
    }

    /// Which layers of a Qwen3-MoE have experts.
    fn sparse_layers(&mut self, count: usize, experts: usize) -> Result<Vec<bool>, HfError> {
        let step = self.keys.size("decoder_sparse_step", 1)?;
        if step == 0 {
            let value = Value::from(0);
            return Err(self.keys.unsupported("decoder_sparse_step", &value, "it must be at least 1"));
        }
        let mut sparse: Vec<_> = (1..=count).map(|n| experts > 0 && n.is_multiple_of(step)).collect();
        for entry in self.keys.list("mlp_only_layers")?.into_iter().flatten() {
            let index = entry.as_u64().and_then(|i| usize::try_from(i).ok());
            let slot = index
                .and_then(|i| sparse.get_mut(i))
                .ok_or_else(|| self.keys.wrong("mlp_only_layers", entry, "a layer's index"))?;
            *slot = false;
        }
        Ok(sparse)
    }

    fn activation(&mut self) -> Result<Activation, HfError> {
        let name = self.keys.text("hidden_act")?.unwrap_or("silu");
        if !matches!(name, "silu" | "swish") {
            let found = Value::from(name);
            return Err(self.keys.unsupported("hidden_act", &found, "it must be silu"));
        }
        if self.family != Family::GptOss {
            return Ok(Activation::SwiGlu);
        }
        Ok(Activation::ClampedSwiGlu {
            alpha: self.keys.number("swiglu_alpha")?.unwrap_or(1.702) as f32,
            limit: self.keys.number("swiglu_limit")?.unwrap_or(7.0) as f32,
        })
    }

    fn quantisation(&mut self) -> Result<Option<Quantisation>, HfError> {
        const PLACE: &str = "quantization_config.";
        let Some(map) = self.keys.object("quantization_config")? else {
            return Ok(None);
        };
        let mut keys = Keys::new(map, PLACE);
        match keys.text("quant_method")? {
            Some("mxfp4") if self.family == Family::GptOss => {
                // Which modules stay plain is visible in the file itself.
                keys.value("modules_to_not_convert");
                if keys.flag("dequantize", false)? {
                    let found = Value::Bool(true);
                    return Err(keys.unsupported("dequantize", &found, "it must be false"));
                }
                keys.finish()?;
                Ok(Some(Quantisation::GptOssMxfp4))
            }
            Some("lyceum") => {
                let name = keys.text("format")?.unwrap_or_default();
                let format = WeightFormat::ALL.into_iter().find(|f| f.name() == name);
                let format = format.ok_or_else(|| {
                    let allowed = "allowed are int8, fp8, int4, mxfp4";
                    keys.unsupported("format", &Value::from(name), allowed)
                })?;
                let group = keys.size("group_size", format.group_size())?;
                if group != format.group_size() {
                    let allowed = format!("{name} has {}", format.group_size());
                    return Err(keys.unsupported("group_size", &Value::from(group), allowed));
                }
                keys.finish()?;
                Ok(Some(Quantisation::Lyceum(format)))
            }
            method => {
                let found = method.map_or(Value::Null, Value::from);
                let allowed = "allowed are lyceum and, for gpt-oss, mxfp4; convert the unquantised \
                               checkpoint instead";
                Err(keys.unsupported("quant_method", &found, allowed))
            }
        }
    }

    /// One id, a list of ids, or none. Some configs say -1 for none.
    fn tokens(&mut self, key: &'static str) -> Result<Vec<u32>, HfError> {
        let wrong = |keys: &Keys, v: &Value| keys.wrong(key, v, "a token id or a list of them");
        let id = |keys: &Keys, v: &Value| {
            let id = v.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| wrong(keys, v))
        };
        match self.keys.given(key) {
            None => Ok(Vec::new()),
            Some(value) if value.as_i64() == Some(-1) => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(|v| id(&self.keys, v)).collect(),
            Some(value) => Ok(vec![id(&self.keys, value)?]),
        }
    }

    /// The same where the model must have them: it is to read them, or to say them.
    fn known_tokens(&mut self, key: &'static str, vocab: usize) -> Result<Vec<u32>, HfError> {
        let ids = self.tokens(key)?;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => {
                Err(self.keys.unsupported(key, &id.into(), format!("ids lie below the vocab_size of {vocab}")))
            }
            None => Ok(ids),
        }
    }

    fn dtype(&mut self) -> Result<Option<String>, HfError> {
        let old = self.keys.text("torch_dtype")?;
        let new = self.keys.text("dtype")?;
        Ok(new.or(old).map(str::to_owned))
    }
}

fn derived_head_dim(hidden_size: usize, heads: usize) -> Result<usize, HfError> {
    if heads == 0 || !hidden_size.is_multiple_of(heads) {
        return Err(HfError::Invalid(InvalidConfig::Conflict {
            field: "hidden_size",
            value: hidden_size,
            problem: "without head_dim it must be a multiple of the heads",
            other: "num_attention_heads",
            other_value: heads,
        }));
    }
    Ok(hidden_size / heads)
}

//! From [`HfConfig`] to `config.json`.

use super::rope::{self, number};
use super::{HfConfig, HfError, Quantisation, architecture, model_type, read};
use crate::config::{Activation, DecoderConfig, ExpertFfn, Family, Ffn, Layer, Position, Router};
use serde_json::{Map, Value, json};

/// Writes, reads back and compares, so that nothing that the layout cannot say is lost in silence.
pub(super) fn write(config: &HfConfig) -> Result<String, HfError> {
    config.decoder.validate()?;
    let mut map = Map::new();
    decoder(&mut map, &config.decoder)?;
    metadata(&mut map, config);
    let value = Value::Object(map);
    let text = format!("{value:#}\n");
    let back = read::read(&text)?;
    let not_held = |field| Err(HfError::NotHeld { architecture: config.decoder.family.architecture(), field });
    match difference(&config.decoder, &back.decoder) {
        Some(field) => not_held(field),
        None if back.quantisation != config.quantisation => not_held("quantisation"),
        None => Ok(text),
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    map.insert(key.into(), value.into());
}

fn decoder(map: &mut Map<String, Value>, c: &DecoderConfig) -> Result<(), HfError> {
    let bias = c.has_choice_bias();
    let (Some(class), Some(model_type)) = (architecture(c.family, bias), model_type(c.family, bias)) else {
        return Err(HfError::NotHeld { architecture: c.family.architecture(), field: "bias on the choice of experts" });
    };
    put(map, "architectures", json!([class]));
    put(map, "model_type", model_type);
    put(map, "vocab_size", c.vocab_size);
    put(map, "hidden_size", c.hidden_size);
    put(map, "num_hidden_layers", c.layers.len());
    put(map, "num_attention_heads", c.heads);
    put(map, "num_key_value_heads", c.kv_heads);
    put(map, "head_dim", c.head_dim);
    put(map, "hidden_act", "silu");
    put(map, "rms_norm_eps", number(c.norm_eps));
    put(map, "max_position_embeddings", c.max_context);
    put(map, "tie_word_embeddings", c.tie_embeddings);
    if !matches!(c.family, Family::Mixtral | Family::Mistral) {
        put(map, "attention_bias", c.qkv_bias);
    }
    match &c.position {
        Position::Alibi => put(map, "position_embedding", "alibi"),
        Position::Rope(rope) => {
            let parameters = rope::to_json(rope);
            // Readers older than transformers 5 look for theta here.
            put(map, "rope_theta", parameters["rope_theta"].clone());
            put(map, "rope_parameters", parameters);
        }
    }
    windows(map, c);
    feed_forward(map, c);
    Ok(())
}

fn windows(map: &mut Map<String, Value>, c: &DecoderConfig) {
    let windows = || c.layers.iter().map(|l| l.attention.window);
    let window = windows().flatten().next();
    if c.family != Family::Llama {
        put(map, "sliding_window", json!(window));
    }
    if matches!(c.family, Family::Qwen3 | Family::Qwen3Moe) {
        put(map, "use_sliding_window", window.is_some());
    }
    if matches!(c.family, Family::Qwen3 | Family::GptOss) {
        let kind = |w: Option<usize>| match w {
            Some(_) => "sliding_attention",
            None => "full_attention",
        };
        put(map, "layer_types", windows().map(kind).collect::<Vec<_>>());
    }
}

/// The first layer with experts and the first without speak for all: a layer that differs is found on reading
/// back.
fn feed_forward(map: &mut Map<String, Value>, c: &DecoderConfig) {
    let dense = c.layers.iter().find_map(|l| match &l.ffn {
        Ffn::Dense(dense) => Some(dense),
        Ffn::Experts(_) => None,
    });
    let moe = c.layers.iter().find_map(|l| match &l.ffn {
        Ffn::Dense(_) => None,
        Ffn::Experts(moe) => Some(moe),
    });
    let expert = moe.map(|m| &m.expert);
    let Some(any) = dense.or(expert) else {
        return;
    };
    put(map, "intermediate_size", any.ffn_size);
    if c.family == Family::Llama {
        put(map, "mlp_bias", any.bias);
    }
    if let (Family::GptOss, Activation::ClampedSwiGlu { alpha, limit }) = (c.family, any.activation) {
        put(map, "swiglu_alpha", number(alpha));
        put(map, "swiglu_limit", number(limit));
    }
    if let Some(moe) = moe {
        put(map, "num_local_experts", moe.experts);
        put(map, "num_experts_per_tok", moe.top_k);
    }
    if c.family == Family::Qwen3Moe {
        qwen3_moe(map, c, moe);
    }
}

fn qwen3_moe(map: &mut Map<String, Value>, c: &DecoderConfig, moe: Option<&ExpertFfn>) {
    let is_dense = |l: &Layer| matches!(l.ffn, Ffn::Dense(_));
    let dense_layers = (0..c.layers.len()).filter(|&i| is_dense(&c.layers[i]));
    put(map, "decoder_sparse_step", 1);
    put(map, "mlp_only_layers", dense_layers.collect::<Vec<_>>());
    let Some(moe) = moe else {
        return;
    };
    put(map, "moe_intermediate_size", moe.expert.ffn_size);
    // vLLM and transformers 4 spell it so.
    put(map, "num_experts", moe.experts);
    let renormalise = matches!(moe.router, Router::SoftmaxTopK { renormalise: true });
    put(map, "norm_topk_prob", renormalise);
}

fn metadata(map: &mut Map<String, Value>, config: &HfConfig) {
    put(map, "bos_token_id", json!(config.bos));
    put(
        map,
        "eos_token_id",
        match config.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        },
    );
    put(map, "pad_token_id", json!(config.pad));
    if let Some(dtype) = &config.dtype {
        put(map, "dtype", dtype.as_str());
    }
    match config.quantisation {
        None => {}
        Some(Quantisation::GptOssMxfp4) => {
            let plain = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"];
            let value = json!({ "quant_method": "mxfp4", "modules_to_not_convert": plain });
            put(map, "quantization_config", value);
        }
        Some(Quantisation::Lyceum(format)) => {
            let value = json!({
                "quant_method": "lyceum",
                "format": format.name(),
                "group_size": format.group_size(),
            });
            put(map, "quantization_config", value);
        }
    }
}

/// The first field in which two decoders differ.
fn difference(a: &DecoderConfig, b: &DecoderConfig) -> Option<&'static str> {
    let layers = || a.layers.iter().zip(&b.layers);
    let checks = [
        ("QK-norm", a.qk_norm == b.qk_norm),
        ("biases of Q, K and V", a.qkv_bias == b.qkv_bias),
        ("bias of the output projection", a.output_bias == b.output_bias),
        ("attention sinks", a.attention_sinks == b.attention_sinks),
        ("position embedding", a.position == b.position),
        ("windows of attention", layers().all(|(x, y)| x.attention == y.attention)),
        ("feed-forward layers", layers().all(|(x, y)| x.ffn == y.ffn)),
        ("sizes", a == b),
    ];
    checks.into_iter().find(|(_, same)| !same).map(|(f, _)| f)
}

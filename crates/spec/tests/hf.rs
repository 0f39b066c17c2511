//! `config.json`: the fixtures' models, defaults, spellings, round trips, and everything refused.

use proptest::prelude::*;
use serde_json::{Value, json};
use spec::*;
use std::path::PathBuf;

fn fixtures() -> Vec<(String, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
    let mut found: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(path.join("config.json")).unwrap();
            (name, text)
        })
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn read(value: Value) -> Result<HfConfig, HfError> {
    HfConfig::from_json(&value.to_string())
}

/// A small Llama with `changes` laid over it.
fn llama(changes: Value) -> Result<HfConfig, HfError> {
    with(
        json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        }),
        changes,
    )
}

fn with(mut base: Value, changes: Value) -> Result<HfConfig, HfError> {
    for (key, value) in changes.as_object().unwrap() {
        base[key] = value.clone();
    }
    read(base)
}

fn rope(config: &HfConfig) -> &Rope {
    match &config.decoder.position {
        Position::Rope(rope) => rope,
        Position::Alibi => panic!("ALiBi"),
    }
}

/// The message of an error, which must contain `part`.
#[track_caller]
fn refused(result: Result<HfConfig, HfError>, part: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(part), "{message:?} lacks {part:?}");
}

#[test]
fn every_fixture_reads_and_writes() {
    for (name, text) in fixtures() {
        let config = HfConfig::from_json(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let written = config.to_json().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(HfConfig::from_json(&written).unwrap(), config, "{name}");
    }
}

#[test]
fn counting_agrees_with_the_table() {
    for (name, text) in fixtures() {
        let decoder = HfConfig::from_json(&text).unwrap().decoder;
        let table = ParameterTable::new(&decoder);
        let listed: usize = table.iter().map(Parameter::elements).sum();
        let count = decoder.count_parameters();
        assert_eq!(count.total, listed as u64, "{name}");
        assert!(count.active <= count.total, "{name}");
        let matrices = |p: &&Parameter| p.shape.len() == 2 && p.id.layer.is_some();
        let visited = |p: &&Parameter| {
            let Some(Ffn::Experts(moe)) = p.id.layer.map(|l| &decoder.layers[l].ffn) else {
                return true;
            };
            p.id.expert.is_none_or(|e| e < moe.top_k)
        };
        let active: usize = table.iter().filter(matrices).filter(visited).map(Parameter::elements).sum();
        assert_eq!(decoder.layer_flops(), 2 * active as u64, "{name}");
    }
}

#[test]
fn mixtral_8x7b_has_its_published_size() {
    let config = read(json!({ "model_type": "mixtral" })).unwrap().decoder;
    let count = config.count_parameters();
    assert_eq!(count.total, 46_702_792_704);
    // Mistral AI's 12.9 billion includes the embedding, of which a token only looks up a row.
    assert_eq!(count.active + count.embedding, 12_879_925_248);
    assert_eq!(config.kv_bytes_per_token(2, 0), 131_072);
    assert_eq!(config.kv_bytes_per_token(1, 4), 32 * 2 * 8 * 132);
    assert_eq!(config.attention_flops(1000), 4 * 32 * 4096 * 1000);
}

#[test]
fn defaults_are_each_familys_own() {
    let of = |kind: &str| read(json!({ "model_type": kind })).unwrap().decoder;
    let qwen = of("qwen3");
    assert_eq!((qwen.head_dim, qwen.kv_heads, qwen.norm_eps), (128, 32, 1e-6));
    assert!(qwen.qk_norm && qwen.layers.iter().all(|l| l.attention.window.is_none()));
    assert_eq!(of("qwen3_moe").head_dim, 64);
    assert_eq!(of("mistral").layers[0].attention.window, Some(4096));
    assert_eq!(of("mixtral").layers[0].attention.window, None);
    assert_eq!(of("llama").kv_heads, 32);
    let oss = of("gpt_oss");
    let windows: Vec<_> = oss.layers.iter().map(|l| l.attention.window).collect();
    assert_eq!(windows[..3], [Some(128), None, Some(128)]);
    assert!(oss.attention_sinks && oss.qkv_bias && oss.output_bias);
    let Ffn::Experts(moe) = &oss.layers[0].ffn else {
        panic!("no experts");
    };
    assert_eq!((moe.experts, moe.top_k), (128, 4));
    let clamped = Activation::ClampedSwiGlu { alpha: 1.702, limit: 7.0 };
    assert_eq!(moe.expert.activation, clamped);
}

#[test]
fn null_and_absent_differ_where_transformers_says_so() {
    let qwen = json!({ "model_type": "qwen3", "hidden_size": 32, "num_attention_heads": 4,
                       "num_key_value_heads": null, "head_dim": null });
    let qwen = read(qwen).unwrap().decoder;
    assert_eq!((qwen.head_dim, qwen.kv_heads), (8, 4));
    let mistral = read(json!({ "model_type": "mistral", "sliding_window": null })).unwrap();
    assert_eq!(mistral.decoder.layers[0].attention.window, None);
    refused(llama(json!({ "hidden_size": null })), "\"hidden_size\" is null");
}

#[test]
fn both_rope_spellings_mean_the_same() {
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512 });
    let mut new = yarn.clone();
    new["rope_theta"] = json!(1e6);
    let mut typed = yarn.clone();
    typed["type"] = typed.as_object_mut().unwrap().remove("rope_type").unwrap();
    let a = llama(json!({ "rope_parameters": new })).unwrap();
    let b = llama(json!({ "rope_scaling": yarn, "rope_theta": 1000000 })).unwrap();
    let c = llama(json!({ "rope_scaling": typed, "rope_theta": 1e6, "rope_parameters": new })).unwrap();
    assert_eq!(a.decoder, b.decoder);
    assert_eq!(a.decoder, c.decoder);
    assert_eq!(rope(&a).theta, 1e6);
    refused(
        llama(json!({ "rope_scaling": yarn, "rope_parameters": { "rope_type": "default" } })),
        "\"rope_scaling\" and \"rope_parameters\" disagree",
    );
    refused(llama(json!({ "rope_theta": 1e4, "rope_parameters": new })), "disagree");
}

#[test]
fn qwen3_windows_follow_the_switch_and_the_list() {
    let qwen =
        |changes| with(json!({ "model_type": "qwen3", "num_hidden_layers": 3, "max_window_layers": 1 }), changes);
    let windows = |config: HfConfig| -> Vec<_> { config.decoder.layers.iter().map(|l| l.attention.window).collect() };
    assert_eq!(windows(qwen(json!({})).unwrap()), [None; 3]);
    let on = json!({ "use_sliding_window": true, "sliding_window": 7 });
    assert_eq!(windows(qwen(on).unwrap()), [None, Some(7), Some(7)]);
    let types = json!(["sliding_attention", "full_attention", "full_attention"]);
    let listed = json!({ "use_sliding_window": true, "sliding_window": 7, "layer_types": types });
    assert_eq!(windows(qwen(listed).unwrap()), [Some(7), None, None]);
    refused(qwen(json!({ "layer_types": types })), "\"sliding_window\" is missing");
    refused(qwen(json!({ "layer_types": ["full_attention"] })), "1 entries");
    refused(qwen(json!({ "layer_types": ["chunked_attention", "", ""] })), "chunked_attention");
}

#[test]
fn what_changes_numbers_is_refused_by_name() {
    refused(llama(json!({ "hidden_act": "gelu" })), "\"hidden_act\"");
    refused(llama(json!({ "sliding_window": 64 })), "\"sliding_window\"");
    refused(llama(json!({ "use_sliding_window": true })), "\"use_sliding_window\"");
    refused(llama(json!({ "partial_rotary_factor": 0.5 })), "\"partial_rotary_factor\"");
    refused(llama(json!({ "final_logit_softcapping": 30.0 })), "\"final_logit_softcapping\"");
    refused(llama(json!({ "attention_chunk_size": 8192 })), "\"attention_chunk_size\"");
    refused(llama(json!({ "residual_multiplier": 0.22 })), "\"residual_multiplier\"");
    refused(llama(json!({ "rope_interleaved": true })), "\"rope_interleaved\"");
    refused(llama(json!({ "some_new_idea": 1 })), "unknown key \"some_new_idea\"");
    refused(llama(json!({ "position_embedding": "nope" })), "\"position_embedding\"");
    refused(llama(json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } })), "gptq");
    refused(llama(json!({ "rope_scaling": { "rope_type": "mrope", "factor": 2.0 } })), "\"rope_scaling.rope_type\"");
    refused(llama(json!({ "rope_parameters": { "rope_type": "linear" } })), "\"rope_parameters.factor\" is missing");
    refused(
        llama(json!({ "rope_parameters": { "rope_type": "linear", "factor": 2.0, "twist": 1 } })),
        "\"rope_parameters.twist\"",
    );
    refused(
        llama(json!({ "rope_parameters": { "full_attention": { "rope_type": "default" } } })),
        "\"rope_parameters.full_attention\"",
    );
    refused(llama(json!({ "mlp_only_layers": [0] })), "unknown key \"mlp_only_layers\"");
}

#[test]
fn harmless_keys_pass() {
    let config = llama(json!({
        "_name_or_path": "x", "torch_dtype": "bfloat16", "use_cache": true, "residual_multiplier": 1,
        "attn_logit_softcapping": null, "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1,
        "temperature": 0.6, "transformers_version": "4.40.0", "pretraining_tp": 1,
    }))
    .unwrap();
    assert_eq!((config.bos, config.pad), (Some(1), None));
    assert_eq!(config.eos, [2, 3]);
    assert_eq!(config.dtype.as_deref(), Some("bfloat16"));
}

#[test]
fn tokens_that_the_model_does_not_have_are_refused_by_name() {
    refused(
        llama(json!({ "eos_token_id": [2, 64] })),
        "\"eos_token_id\": 64 is not supported; ids lie below the vocab_size of 64",
    );
    refused(llama(json!({ "bos_token_id": 4_000_000 })), "\"bos_token_id\": 4000000");
    assert_eq!(llama(json!({ "bos_token_id": 63, "pad_token_id": 64 })).unwrap().pad, Some(64), "nobody reads padding");
}

#[test]
fn architectures_are_checked() {
    refused(read(json!({})), "neither");
    let gpt2 = read(json!({ "architectures": ["GPT2LMHeadModel"] }));
    refused(gpt2, "MixtralForCausalLM, Qwen3MoeForCausalLM");
    refused(read(json!({ "model_type": "gemma" })), "\"gemma\"");
    let both = json!({ "architectures": ["LlamaForCausalLM"], "model_type": "qwen3" });
    refused(read(both), "disagree");
    assert!(matches!(HfConfig::from_json("[]"), Err(HfError::Json(_))));
}

/// Other programs must not open it: they would choose experts without the bias.
#[test]
fn a_bias_on_the_choice_of_experts_has_a_layout_of_ours() {
    for (family, class) in [("mixtral", "LyceumMixtralForCausalLM"), ("qwen3_moe", "LyceumQwen3MoeForCausalLM")] {
        let plain = read(json!({ "model_type": family, "num_hidden_layers": 2 })).unwrap();
        assert!(!plain.decoder.has_choice_bias());
        let mut biased = plain.clone();
        for layer in &mut biased.decoder.layers {
            let Ffn::Experts(moe) = &mut layer.ffn else { panic!() };
            moe.choice_bias = true;
        }
        let text = biased.to_json().unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&json["architectures"], &json["model_type"]),
            (&json!([class]), &json!(format!("lyceum_{family}")))
        );
        assert_eq!(HfConfig::from_json(&text).unwrap(), biased);
        let table = spec::ParameterTable::new(&biased.decoder);
        let bias: Vec<_> = table.iter().filter(|p| !p.trainable).collect();
        assert!(bias.len() == 2 && bias[1].name.ends_with("gate.e_score_correction_bias"), "{bias:?}");
        // In some layers only, there is no word for it.
        let Ffn::Experts(moe) = &mut biased.decoder.layers[0].ffn else { panic!() };
        moe.choice_bias = false;
        refused(biased.to_json().map(|_| plain.clone()), "feed-forward");
        refused(read(json!({ "architectures": [class], "model_type": family })), "disagree");
    }
    refused(read(json!({ "architectures": ["LyceumLlamaForCausalLM"] })), "LyceumLlamaForCausalLM");
    refused(read(json!({ "model_type": "lyceum_gpt_oss" })), "lyceum_gpt_oss");
}

#[test]
fn impossible_sizes_are_refused_by_name() {
    refused(llama(json!({ "num_hidden_layers": 1u64 << 40 })), "num_hidden_layers");
    refused(llama(json!({ "vocab_size": 0 })), "vocab_size is 0");
    refused(llama(json!({ "hidden_size": 1u64 << 60 })), "hidden_size");
    refused(llama(json!({ "num_attention_heads": 0 })), "num_attention_heads");
    refused(llama(json!({ "num_key_value_heads": 3 })), "num_key_value_heads is 3");
    refused(llama(json!({ "head_dim": 7 })), "head_dim is 7");
    refused(llama(json!({ "vocab_size": -1 })), "a whole number");
    refused(llama(json!({ "rms_norm_eps": "small" })), "a number");
    refused(llama(json!({ "rope_theta": 0 })), "rope_theta");
    let mixtral = |changes| with(json!({ "model_type": "mixtral" }), changes);
    refused(mixtral(json!({ "num_experts_per_tok": 9 })), "num_experts_per_tok is 9");
    refused(mixtral(json!({ "num_local_experts": 0 })), "num_experts is 0");
    refused(mixtral(json!({ "num_local_experts": 4, "num_experts": 8 })), "disagree");
    refused(mixtral(json!({ "attention_bias": true })), "attention_bias");
}

#[test]
fn quantisation_is_described() {
    for format in WeightFormat::ALL {
        let mut config = llama(json!({})).unwrap();
        config.quantisation = Some(Quantisation::Lyceum(format));
        let text = config.to_json().unwrap();
        assert_eq!(HfConfig::from_json(&text).unwrap(), config);
    }
    let ours = |c: Value| llama(json!({ "quantization_config": c }));
    refused(ours(json!({ "quant_method": "lyceum", "format": "int3" })), "int3");
    let odd_group = json!({ "quant_method": "lyceum", "format": "int8", "group_size": 64 });
    refused(ours(odd_group), "quantization_config.group_size");
    refused(ours(json!({ "quant_method": "mxfp4" })), "mxfp4");
}

#[test]
fn a_layout_says_what_it_cannot_hold() {
    let mut config = llama(json!({})).unwrap();
    config.decoder.qk_norm = true;
    refused(config.to_json().map(|_| config.clone()), "QK-norm");
    config.decoder.qk_norm = false;
    config.decoder.output_bias = true;
    refused(config.to_json().map(|_| config.clone()), "bias of the output projection");
    config.decoder.output_bias = false;
    config.decoder.layers[1].attention.window = Some(9);
    refused(config.to_json().map(|_| config.clone()), "windows");
}

proptest! {
    /// Whatever a key's value becomes, reading ends in a config or an error.
    #[test]
    fn no_value_panics(case in 0usize..64, key in 0usize..64, value in 0usize..12) {
        let fixtures = fixtures();
        let mut config: Value = serde_json::from_str(&fixtures[case % fixtures.len()].1).unwrap();
        let values = [
            json!(null), json!(true), json!(0), json!(1), json!(-1), json!(u64::MAX), json!(1e300),
            json!(0.1), json!("x"), json!([]), json!([{}, 1, null]), json!({}),
        ];
        let map = config.as_object_mut().unwrap();
        let name = map.keys().nth(key % map.len()).unwrap().clone();
        map[&name] = values[value].clone();
        if let Ok(config) = HfConfig::from_json(&config.to_string()) {
            ParameterTable::new(&config.decoder);
            let _ = config.to_json();
        }
    }
}

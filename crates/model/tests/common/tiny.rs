//! A model of a few kilobytes, made here, to be damaged.
#![allow(dead_code)]

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use spec::{HfConfig, ParameterTable};
use std::collections::BTreeMap;
use std::path::Path;

pub fn config() -> Value {
    json!({
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 6, "hidden_size": 4,
        "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 2, "num_local_experts": 2, "num_experts_per_tok": 1, "max_position_embeddings": 16,
    })
}

/// Name to shape and values, f32.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub fn tensors() -> Tensors {
    tensors_of(&config())
}

pub fn tensors_of(config: &Value) -> Tensors {
    let decoder = HfConfig::from_json(&config.to_string()).unwrap().decoder;
    let table = ParameterTable::new(&decoder);
    let values = |count: usize| (0..count).map(|i| (i % 7) as f32 - 3.0).collect();
    table.iter().map(|p| (p.name.clone(), (p.shape.clone(), values(p.elements())))).collect()
}

pub fn write(folder: &Path, config: &Value, tensors: &Tensors) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("model.safetensors"), serialise(tensors)).unwrap();
}

pub fn serialise(tensors: &Tensors) -> Vec<u8> {
    let bytes: BTreeMap<&str, Vec<u8>> =
        tensors.iter().map(|(n, (_, v))| (n.as_str(), v.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let view = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), &bytes[name.as_str()]).unwrap();
        (name.clone(), view)
    };
    safetensors::serialize(tensors.iter().map(view), None).unwrap()
}

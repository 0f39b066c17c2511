//! What llama.cpp calls the parameters.

use super::Architecture;
use crate::files::FileError;
use crate::files::placement::{Coding, Placement, RowOrder};
use crate::files::tensors::{Encoding, TensorStore};
use spec::{DecoderConfig, Ffn, ParameterId, Role};

/// The tensor of a parameter; experts are stacked in it unless it is one of the old files that number them.
pub(super) fn name(architecture: Architecture, id: ParameterId) -> String {
    let global = match id.role {
        Role::Embedding => Some("token_embd.weight"),
        Role::FinalNorm => Some("output_norm.weight"),
        Role::Head => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = global {
        return name.into();
    }
    let layer = id.layer.unwrap_or_default();
    let expert = id.expert.is_some();
    let rest = match id.role {
        Role::AttentionNorm => "attn_norm.weight",
        Role::QProj => "attn_q.weight",
        Role::KProj => "attn_k.weight",
        Role::VProj => "attn_v.weight",
        Role::OProj => "attn_output.weight",
        Role::QBias => "attn_q.bias",
        Role::KBias => "attn_k.bias",
        Role::VBias => "attn_v.bias",
        Role::OBias => "attn_output.bias",
        Role::QNorm => "attn_q_norm.weight",
        Role::KNorm => "attn_k_norm.weight",
        Role::Sinks => "attn_sinks.weight",
        Role::FfnNorm if architecture == Architecture::GptOss => "post_attention_norm.weight",
        Role::FfnNorm => "ffn_norm.weight",
        Role::Router => "ffn_gate_inp.weight",
        Role::RouterBias => "ffn_gate_inp.bias",
        Role::ChoiceBias => "exp_probs_b.bias",
        Role::Gate if expert => "ffn_gate_exps.weight",
        Role::Up if expert => "ffn_up_exps.weight",
        Role::Down if expert => "ffn_down_exps.weight",
        Role::GateBias if expert => "ffn_gate_exps.bias",
        Role::UpBias if expert => "ffn_up_exps.bias",
        Role::DownBias if expert => "ffn_down_exps.bias",
        Role::Gate => "ffn_gate.weight",
        Role::Up => "ffn_up.weight",
        Role::Down => "ffn_down.weight",
        Role::GateBias => "ffn_gate.bias",
        Role::UpBias => "ffn_up.bias",
        Role::DownBias => "ffn_down.bias",
        Role::Embedding | Role::FinalNorm | Role::Head => "",
    };
    format!("blk.{layer}.{rest}")
}

/// The order of a parameter's outputs in the file.
pub(super) fn order(architecture: Architecture, id: ParameterId, head_dim: usize) -> RowOrder {
    let rotated = matches!(id.role, Role::QProj | Role::KProj | Role::QBias | Role::KBias);
    RowOrder { interleaved: (rotated && architecture == Architecture::Llama).then_some(head_dim), ..RowOrder::PLAIN }
}

/// Where a GGUF file has a parameter.
pub(in crate::files) fn placement(store: &TensorStore, config: &DecoderConfig, id: ParameterId) -> Placement {
    let architecture = Architecture::of(config.family);
    let mut name = name(architecture, id);
    let experts = id.layer.and_then(|l| match &config.layers[l].ffn {
        Ffn::Experts(moe) => Some(moe.experts),
        Ffn::Dense(_) => None,
    });
    let mut expert = id.expert.zip(experts);
    if let Some((index, _)) = expert {
        // Before experts were stacked, each had a tensor of its own.
        let alone = name.replace("_exps.", &format!(".{index}."));
        if store.get(&name).is_none() && store.get(&alone).is_some() {
            name = alone;
            expert = None;
        }
    }
    Placement {
        name,
        coding: Coding::Inline,
        expert,
        order: order(architecture, id, config.head_dim),
        transposed: false,
    }
}

/// Tensors that are no parameters: frequencies, which the config has taken in, or which it implies.
pub(in crate::files) fn is_known_extra(name: &str) -> bool {
    let frequencies = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
    frequencies.contains(&name) || name.ends_with(".attn_rot_embd.weight")
}

/// One divisor for every frequency, if the file has the list.
pub(in crate::files) fn read_divisors(
    store: &TensorStore,
    name: &str,
    head_dim: usize,
) -> Result<Option<Vec<f32>>, FileError> {
    if store.get(name).is_none() {
        return Ok(None);
    }
    let place = Placement {
        name: name.to_owned(),
        coding: Coding::Inline,
        expert: None,
        order: RowOrder::PLAIN,
        transposed: false,
    };
    store.expect(name, &[head_dim / 2], "F32", |e| e == Encoding::F32)?;
    place.vector(store, head_dim / 2).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tensors::StoredTensor;
    use spec::HfConfig;

    /// Files from before experts were stacked number them.
    #[test]
    fn numbered_experts_are_found() {
        let config = HfConfig::from_json(r#"{ "model_type": "mixtral" }"#).unwrap().decoder;
        let id = ParameterId::expert(Role::Down, 3, 5);
        let mut store = TensorStore::new("old.gguf".into());
        let stacked = placement(&store, &config, id);
        assert_eq!((stacked.name.as_str(), stacked.expert), ("blk.3.ffn_down_exps.weight", Some((5, 8))));
        let name = "blk.3.ffn_down.5.weight";
        let tensor = StoredTensor { encoding: None, type_name: String::new(), shape: Vec::new(), file: 0, range: 0..0 };
        store.insert(name.into(), tensor).unwrap();
        let alone = placement(&store, &config, id);
        assert_eq!((alone.name.as_str(), alone.expert), (name, None));
    }
}

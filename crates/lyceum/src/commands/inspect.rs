//! `lyceum inspect`: what a model is, from its files, without loading its weights.

use crate::{models, output};
use clap::Args;
use miette::{IntoDiagnostic, Result};
use model::Checkpoint;
use model::files::TensorInfo;
use serde_json::{Value, json};
use spec::{DecoderConfig, DenseFfn, Ffn, Layer, Position, RopeScaling};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tensor::KvFormat;

/// Show a model's shape, parameters and bytes
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum inspect path/to/model --tensors")]
pub struct Inspect {
    /// Model: a folder with safetensors or a .gguf file; the demo if not given
    model: Option<PathBuf>,

    /// List every tensor of the files
    #[arg(long)]
    tensors: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let checkpoint = Checkpoint::open(&models::path(self.model)?).into_diagnostic()?;
        let tensors = if self.tensors { checkpoint.tensors() } else { Vec::new() };
        if self.json {
            let mut object = json(&checkpoint);
            if self.tensors {
                object["tensors"] = tensors.iter().map(tensor_json).collect();
            }
            return output::json(&object);
        }
        output::facts(&text(&checkpoint))?;
        if !tensors.is_empty() {
            output::line("")?;
        }
        let rows: Vec<_> = tensors.iter().map(|t| (t.name.to_owned(), tensor_text(t))).collect();
        output::facts(&rows)
    }
}

fn text(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    let config = checkpoint.decoder();
    let parameters = config.count_parameters();
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut add = |title: &str, text: String| rows.push((title.to_owned(), text));
    add("Model", checkpoint.path().display().to_string());
    add("Architecture", config.architecture());
    for (layers, count) in kinds(config) {
        add("Layers", format!("{count} of {}", layer_text(layers)));
    }
    add("Width", config.hidden_size.to_string());
    add(
        "Attention",
        format!("{} query heads, {} key/value heads, {} wide each", config.heads, config.kv_heads, config.head_dim),
    );
    add("Positions", position_text(&config.position));
    add("Context", config.max_context.to_string());
    let tied = if config.tie_embeddings { ", embedding and head are one" } else { "" };
    add("Vocabulary", format!("{}{tied}", config.vocab_size));
    add(
        "Parameters",
        format!(
            "{} ({}), of which a token uses {} ({})",
            output::count(parameters.total),
            parameters.total,
            output::count(parameters.active),
            parameters.active
        ),
    );
    let formats = bytes_by_type(checkpoint).into_iter().map(|(name, n)| format!("{} of {name}", output::bytes(n)));
    let formats = formats.collect::<Vec<_>>().join(", ");
    add("On disk", format!("{}: {formats}", output::bytes(checkpoint.stored_bytes())));
    let caches = KvFormat::ALL.map(|format| format!("{} in {}", kv_bytes(config, format), format.name()));
    add("Cache bytes per token", caches.join(", "));
    rows
}

fn json(checkpoint: &Checkpoint) -> Value {
    let config = checkpoint.decoder();
    let parameters = config.count_parameters();
    let layers = kinds(config).into_iter().map(|(layer, count)| layer_json(layer, count));
    let caches = KvFormat::ALL.map(|format| (format.name().to_owned(), json!(kv_bytes(config, format))));
    json!({
        "architecture": config.architecture(),
        "layers": config.layers.len(),
        "layer_kinds": layers.collect::<Value>(),
        "hidden_size": config.hidden_size,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "position": position(&config.position),
        "rope_theta": match &config.position {
            Position::Rope(rope) => json!(rope.theta),
            Position::Alibi => Value::Null,
        },
        "context": config.max_context,
        "vocab_size": config.vocab_size,
        "tied_embeddings": config.tie_embeddings,
        "parameters": parameters.total,
        "active_parameters": parameters.active,
        "stored_bytes": checkpoint.stored_bytes(),
        "stored_bytes_by_type": bytes_by_type(checkpoint),
        "kv_bytes_per_token": Value::Object(caches.into_iter().collect()),
    })
}

/// The layers that differ, first to last, and how many there are of each.
fn kinds(config: &DecoderConfig) -> Vec<(&Layer, usize)> {
    let mut kinds: Vec<(&Layer, usize)> = Vec::new();
    for layer in &config.layers {
        match kinds.iter_mut().find(|(kind, _)| *kind == layer) {
            Some((_, count)) => *count += 1,
            None => kinds.push((layer, 1)),
        }
    }
    kinds
}

fn layer_text(layer: &Layer) -> String {
    let ffn = match &layer.ffn {
        Ffn::Dense(dense) => format!("a dense network {} wide", dense.ffn_size),
        Ffn::Experts(moe) => {
            let shared =
                moe.shared.as_ref().map_or_else(String::new, |s| format!(" and one {} wide for all", s.ffn_size));
            format!("{} experts, {} per token, {} wide{shared}", moe.experts, moe.top_k, moe.expert.ffn_size)
        }
    };
    match layer.attention.window {
        Some(window) => format!("{ffn}; a window of {window} positions"),
        None => ffn,
    }
}

fn layer_json(layer: &Layer, count: usize) -> Value {
    let network = |ffn: &DenseFfn| json!(ffn.ffn_size);
    let (experts, top_k, ffn, shared) = match &layer.ffn {
        Ffn::Dense(dense) => (Value::Null, Value::Null, network(dense), Value::Null),
        Ffn::Experts(moe) => {
            let shared = moe.shared.as_ref().map_or(Value::Null, network);
            (json!(moe.experts), json!(moe.top_k), network(&moe.expert), shared)
        }
    };
    let window = layer.attention.window;
    json!({
        "count": count, "window": window, "experts": experts, "top_k": top_k, "ffn_size": ffn, "shared_ffn_size": shared,
    })
}

/// The kind of positions, in the words of `config.json`.
fn position(position: &Position) -> &'static str {
    match position {
        Position::Alibi => "alibi",
        Position::Rope(rope) => match rope.scaling {
            RopeScaling::None => "rope",
            RopeScaling::Linear { .. } => "rope, linear",
            RopeScaling::Dynamic { .. } => "rope, dynamic",
            RopeScaling::Yarn { .. } => "rope, yarn",
            RopeScaling::Llama3 { .. } => "rope, llama3",
            RopeScaling::LongRope { .. } => "rope, longrope",
        },
    }
}

fn position_text(kind: &Position) -> String {
    let name = position(kind);
    match kind {
        Position::Rope(rope) => format!("{name}, theta {}", rope.theta),
        Position::Alibi => name.to_owned(),
    }
}

fn kv_bytes(config: &DecoderConfig, format: KvFormat) -> u64 {
    config.kv_bytes_per_token(format.element_bytes(), format.scale_bytes())
}

fn bytes_by_type(checkpoint: &Checkpoint) -> BTreeMap<&str, u64> {
    let mut sums = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        *sums.entry(tensor.type_name).or_default() += tensor.bytes;
    }
    sums
}

fn tensor_text(tensor: &TensorInfo<'_>) -> String {
    format!("{} {:?} {}", tensor.type_name, tensor.shape, output::bytes(tensor.bytes))
}

fn tensor_json(tensor: &TensorInfo<'_>) -> Value {
    json!({ "name": tensor.name, "type": tensor.type_name, "shape": tensor.shape, "bytes": tensor.bytes })
}

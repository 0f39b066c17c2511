//! The decoder against transformers: logits of every position and 64 greedy tokens, for each family and RoPE kind.

use model::{Batch, Checkpoint, Decoder, LoadOptions, Workspace};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tensor::{Chunk, Device, Format, KV_BLOCK, KvCache, KvFormat};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// What the reference computed for one model.
struct Reference {
    context: usize,
    prompt: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

impl Reference {
    fn read(folder: &Path) -> Self {
        let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let context = metadata.metadata().as_ref().unwrap()["served_context"].parse().unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let ids = |name: &str| -> Vec<u32> {
            let data = tensors.tensor(name).unwrap().data();
            data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
        };
        let logits = tensors.tensor("logits").unwrap().data();
        let logits = logits.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        Self { context, prompt: ids("prompt"), logits, greedy: ids("greedy") }
    }
}

/// One sequence in a cache of its own.
struct Sequence {
    decoder: Decoder,
    device: Device,
    cache: KvCache,
    workspace: Workspace,
    blocks: Vec<u32>,
    position: usize,
}

impl Sequence {
    fn new(path: &Path, weights: Option<Format>, kv: KvFormat, context: usize) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap();
        let mut device = Device::new(2);
        let options = LoadOptions { weights, context: Some(context), ..LoadOptions::default() };
        let decoder = Decoder::load(&checkpoint, &mut device, &options).unwrap();
        let blocks = context.div_ceil(KV_BLOCK);
        let cache = decoder.new_cache(kv, blocks);
        let workspace = Workspace::new(&decoder, context, context);
        Self { decoder, device, cache, workspace, blocks: (0..blocks as u32).rev().collect(), position: 0 }
    }

    /// Feeds tokens and returns the logits of each.
    fn feed(&mut self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let chunk = Chunk { row: 0, len: tokens.len(), position: self.position, block_table: &self.blocks };
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let batch = Batch { tokens, chunks: &[chunk], logit_rows: &rows };
        let logits = self.decoder.forward(&mut self.device, &mut self.cache, &mut self.workspace, &batch);
        self.position += tokens.len();
        (0..tokens.len()).map(|r| logits.row(r).to_vec()).collect()
    }
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// The largest difference over the largest magnitude.
fn relative(ours: &[f32], theirs: &[f32]) -> f32 {
    let scale = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max)
}

fn agrees(model: &Path, folder: &Path) {
    agrees_in(Format::F32, model, folder);
}

/// With the weights held in `format`.
fn agrees_in(format: Format, model: &Path, folder: &Path) {
    let reference = Reference::read(folder);
    let mut sequence = Sequence::new(model, Some(format), KvFormat::F32, reference.context);
    let logits = sequence.feed(&reference.prompt);
    let vocab = logits[0].len();
    for (position, (ours, theirs)) in logits.iter().zip(reference.logits.chunks_exact(vocab)).enumerate() {
        let error = relative(ours, theirs);
        assert!(error < 1e-4, "{}: position {position} is off by {error}", model.display());
    }
    let mut last = logits.last().unwrap().clone();
    for (step, &expected) in reference.greedy.iter().enumerate() {
        let token = argmax(&last);
        assert_eq!(token, expected, "{}: greedy step {step}", model.display());
        last = sequence.feed(&[token]).remove(0);
    }
}

macro_rules! cases {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            let folder = fixtures().join("models").join(stringify!($name));
            agrees(&folder, &folder);
        })*

        #[test]
        fn every_fixture_is_tested() {
            let mut names: Vec<_> = std::fs::read_dir(fixtures().join("models")).unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            let mut tested = [$(stringify!($name)),*];
            names.sort();
            tested.sort_unstable();
            assert_eq!(names, tested);
        }
    };
}

cases!(
    alibi,
    gpt_oss,
    gpt_oss_mxfp4,
    llama,
    llama_odd,
    mistral,
    mixtral,
    mixtral_mqa,
    mixtral_sharded,
    mixtral_spm,
    qwen3,
    qwen3_moe,
    qwen3_moe_bpe,
    qwen3_moe_norenorm,
    rope_dynamic,
    rope_linear,
    rope_llama3,
    rope_longrope_long,
    rope_longrope_short,
    rope_yarn,
    rope_yarn_mscale
);

#[test]
fn gguf_models_agree_too() {
    for name in ["mixtral_spm", "qwen3_moe_bpe"] {
        agrees(&fixtures().join(format!("gguf/{name}.gguf")), &fixtures().join("models").join(name));
    }
}

/// The demo's weights as bf16, which is what transformers read.
#[test]
fn the_demo_agrees_in_bf16() {
    agrees_in(Format::Bf16, &fixtures().join("../../models/demo"), &fixtures().join("demo"));
}

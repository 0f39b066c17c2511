//! Counts against kernels: what `spec` says a step computes is what operations were called with.

use model::training::{Fresh, MicroBatch, Objective};
use model::{Batch, Decoder, LoadOptions, Workspace};
use spec::recipe::model::ModelRecipe;
use spec::{DecoderConfig, ParameterTable};
use tensor::{Arithmetic, Chunk, Device, Format, KvFormat};

/// Sizes that fill panels of 16: what kernels add to fill them is nobody's model.
fn config(experts: Option<usize>) -> DecoderConfig {
    let recipe = ModelRecipe {
        family: Some(if experts.is_some() { "mixtral" } else { "llama" }.to_owned()),
        hidden_size: Some(64),
        layers: Some(3),
        heads: Some(4),
        kv_heads: Some(2),
        ffn_size: Some(96),
        experts,
        top_k: experts.map(|_| 2),
        ..ModelRecipe::default()
    };
    let mut config = recipe.decoder(80, 128).unwrap();
    config.layers[1].attention.window = Some(12);
    config
}

fn decoder(config: &DecoderConfig, format: Format, device: &mut Device) -> Decoder {
    let options = LoadOptions { weights: Some(format), ..LoadOptions::default() };
    Decoder::from_parameters(&Fresh { seed: 3 }, &ParameterTable::new(config), config, device, &options).unwrap()
}

/// FLOPs of attention for `len` tokens of a sequence from `position` on.
fn attention(config: &DecoderConfig, position: usize, len: usize) -> u64 {
    (position..position + len).map(|p| config.attention_flops(p + 1)).sum()
}

#[test]
fn a_step_of_inference_computes_what_is_counted() {
    for (experts, format) in [(None, Format::Bf16), (Some(8), Format::Bf16), (Some(8), Format::Int8)] {
        let config = config(experts);
        let mut device = Device::new(2);
        let decoder = decoder(&config, format, &mut device);
        let (mut cache, mut workspace) = (decoder.new_cache(KvFormat::Bf16, 8), Workspace::new(&decoder, 64, 4));
        let mut step = |lens: [usize; 2], positions: [usize; 2], logit_rows: &[u32]| {
            let before = device.arithmetic();
            let tokens: Vec<u32> = (0..(lens[0] + lens[1]) as u32).map(|i| (7 * i + 3) % 80).collect();
            let chunks = [
                Chunk { row: 0, len: lens[0], position: positions[0], block_table: &[0, 1] },
                Chunk { row: lens[0], len: lens[1], position: positions[1], block_table: &[2, 3] },
            ];
            decoder.forward(
                &mut device,
                &mut cache,
                &mut workspace,
                &Batch { tokens: &tokens, chunks: &chunks, logit_rows },
            );
            let after = device.arithmetic();
            let expected = Arithmetic {
                products: (lens[0] + lens[1]) as u64 * config.layer_flops()
                    + logit_rows.len() as u64 * config.head_flops(),
                attention: attention(&config, positions[0], lens[0]) + attention(&config, positions[1], lens[1]),
            };
            assert_eq!(after.products - before.products, expected.products, "{experts:?} {format:?}");
            assert_eq!(after.attention - before.attention, expected.attention, "{experts:?} {format:?}");
        };
        step([21, 40], [0, 0], &[20, 60]);
        step([1, 1], [21, 40], &[0, 1]);
        step([5, 1], [22, 41], &[5]);
    }
}

#[test]
fn a_training_step_computes_what_is_counted() {
    for (experts, recompute) in [(None, false), (Some(8), false), (Some(8), true)] {
        let config = config(experts);
        let mut device = Device::new(2);
        let decoder = decoder(&config, Format::F32, &mut device);
        let rows = 60;
        let tokens: Vec<u32> = (0..rows).map(|i| (7 * i + 3) % 80).collect();
        let targets: Vec<u32> = (0..rows).map(|i| (11 * i + 2) % 80).collect();
        let batch = MicroBatch { tokens: &tokens, targets: &targets, documents: &[33, 27] };
        let mut gradients = decoder.zeros_like();
        let before = device.arithmetic();
        let objective = Objective { scale: 1.0, share: 1.0, recompute, ..Objective::default() };
        decoder.loss_and_gradients(&mut device, &batch, &objective, &mut gradients);
        let after = device.arithmetic();
        // Forward, by inputs and by weights; what is recomputed comes on top, without the head.
        let passes = if recompute { 4 } else { 3 };
        let products = u64::from(rows) * (passes * config.layer_flops() + 3 * config.head_flops());
        assert_eq!(after.products - before.products, products, "{experts:?} {recompute}");
        // Two products forward; five backward, one of which computes scores again (`plan` prices it so, and counts none of it as the model's).
        let forward = attention(&config, 0, 33) + attention(&config, 0, 27);
        let twice = if recompute { 4 } else { 2 } + 5;
        assert_eq!(after.attention - before.attention, forward / 2 * twice, "{experts:?} {recompute}");
    }
}

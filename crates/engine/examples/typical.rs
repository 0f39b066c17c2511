//! What lenient acceptance costs: `cargo run --release -p engine --example typical -- MODEL DRAFT TEXT_FILE [TEMPERATURE]`.
//!
//! Prints, for thresholds of `--typical-acceptance`, the mean divergence of the kept tokens' distribution from the model's (KL, nats per
//! drafted token) and the chance that a first draft is kept, over the positions of a text. Both models must have the same tokeniser.

use engine::typical::measure;
use model::{Checkpoint, Decoder, LoadOptions};
use std::error::Error;
use tensor::{Device, KvFormat};
use text::Tokenizer;

const THRESHOLDS: [f32; 6] = [0.5, 0.3, 0.2, 0.09, 0.05, 0.01];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, draft, text, rest @ ..] = &arguments[..] else {
        return Err("usage: typical MODEL DRAFT TEXT_FILE [TEMPERATURE]".into());
    };
    let temperature = rest.first().map_or(Ok(1.0), |value| value.parse())?;
    let mut device = Device::new(std::thread::available_parallelism()?.get());
    let mut load = |path: &String| -> Result<Decoder, Box<dyn Error>> {
        Ok(Decoder::load(&Checkpoint::open(path.as_ref())?, &mut device, &LoadOptions::default())?)
    };
    let (target, draft) = (load(model)?, load(draft)?);
    let mut tokens = Tokenizer::from_folder(model)?.encode_whole(&std::fs::read_to_string(text)?)?;
    tokens.truncate(target.context().min(draft.context()));
    let costs = measure((&target, &draft), &mut device, KvFormat::Bf16, &tokens, temperature, &THRESHOLDS)?;
    println!("{} positions at temperature {temperature}", tokens.len());
    println!("| threshold | KL, nats per drafted token | kept when exact | kept when lenient |\n|---|---|---|---|");
    for (threshold, cost) in THRESHOLDS.iter().zip(costs) {
        println!("| {threshold} | {:.5} | {:.3} | {:.3} |", cost.kl_nats, cost.exact, cost.lenient);
    }
    Ok(())
}

//! How often drafts are accepted: shared noise beside rejection sampling, from the same logits.
//!
//! `cargo run --release -p engine --example acceptance -- TARGET DRAFT TEXT [TOKENS]`: two model folders with one tokeniser, a text file, and
//! how many of its tokens are read (512). Without arguments: random logits and drafts that differ from them by Gaussian noise.

use engine::acceptance::{Acceptance, acceptance, mean_acceptance};
use model::{Checkpoint, Decoder, LoadOptions};
use spec::random::{hash, unit};
use std::error::Error;
use tensor::{Device, KvFormat};
use text::Tokenizer;

const TEMPERATURES: [f32; 4] = [0.0, 0.5, 0.8, 1.0];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "| draft | temperature | rejection | shared noise | bound | tokens a step, 4 drafted: rejection | shared |"
    );
    println!("|---|---|---|---|---|---|---|");
    match &arguments[..] {
        [] => random(),
        [target, draft, text] => models(target, draft, text, 512)?,
        [target, draft, text, tokens] => models(target, draft, text, tokens.parse()?)?,
        _ => return Err("give TARGET DRAFT TEXT [TOKENS], or nothing".into()),
    }
    Ok(())
}

fn models(target: &str, draft: &str, text: &str, most: usize) -> Result<(), Box<dyn Error>> {
    let mut device = Device::new(std::thread::available_parallelism()?.get());
    let mut tokens = Tokenizer::from_folder(target)?.encode_whole(&std::fs::read_to_string(text)?)?;
    let mut load = |path: &str| -> Result<Decoder, Box<dyn Error>> {
        Ok(Decoder::load(&Checkpoint::open(path.as_ref())?, &mut device, &LoadOptions::default())?)
    };
    let (large, small) = (load(target)?, load(draft)?);
    tokens.truncate(most.min(large.context()).min(small.context()));
    let kv = KvFormat::Bf16;
    let means = mean_acceptance((&large, kv), (&small, kv), &mut device, &tokens, &TEMPERATURES)?;
    TEMPERATURES.into_iter().zip(means).for_each(|(temperature, mean)| print(draft, temperature, mean));
    Ok(())
}

/// Logits with a standard deviation of 3 over 4,096 tokens, 20 rows each.
fn random() {
    const ROWS: u64 = 20;
    for noise in [0.1, 0.3, 1.0, 2.0] {
        for temperature in TEMPERATURES {
            let mut mean = Acceptance::default();
            for row in 0..ROWS {
                let target: Vec<f32> = (0..4096).map(|i| 3.0 * gaussian(row, i)).collect();
                let draft: Vec<f32> = (0..4096).map(|i| target[i as usize] + noise * gaussian(row + ROWS, i)).collect();
                let here = acceptance(&target, &draft, temperature);
                mean.rejection += here.rejection / ROWS as f64;
                mean.shared_noise += here.shared_noise / ROWS as f64;
                mean.bound += here.bound / ROWS as f64;
            }
            print(&format!("noise {noise}"), temperature, mean);
        }
    }
}

fn gaussian(key: u64, i: u64) -> f32 {
    let (radius, angle) = (1.0 - unit(hash(key, 1, i, 0)), unit(hash(key, 2, i, 0)));
    ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
}

/// A row of the table. With acceptance `a` at each of k drafts, independently, a step gives `(1 - a^(k+1)) / (1 - a)` tokens.
fn print(draft: &str, temperature: f32, mean: Acceptance) {
    let tokens = |a: f64| (0..=4).map(|k| a.powi(k)).sum::<f64>();
    let Acceptance { rejection, shared_noise, bound } = mean;
    println!(
        "| {draft} | {temperature} | {rejection:.3} | {shared_noise:.3} | {bound:.3} | {:.2} | {:.2} |",
        tokens(rejection),
        tokens(shared_noise)
    );
}

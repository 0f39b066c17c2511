//! Gradients of every parameter against PyTorch's, auxiliary losses included, and against finite differences.

mod differences;

use model::training::{BalanceForm, Losses, MicroBatch, Objective};
use model::{Checkpoint, Decoder, LoadOptions};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use tensor::{Device, Format, IGNORE};

const CASES: [&str; 4] = ["llama", "llama_tied", "mixtral_mqa", "qwen3_moe"];
const DOCUMENT: usize = 24;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gradients").join(case)
}

/// The reference's tensors.
struct Reference(Vec<u8>);

impl Reference {
    fn read(case: &str) -> Self {
        Self(std::fs::read(folder(case).join("reference.safetensors")).unwrap())
    }

    fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.0).unwrap().names().into_iter().map(str::to_owned).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32);
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn ids(&self, name: &str) -> Vec<i64> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
}

/// Inputs and targets of the first batch, one document per row.
fn batch(reference: &Reference) -> (Vec<u32>, Vec<u32>) {
    let tokens = reference.ids("tokens");
    let inputs = tokens.chunks_exact(DOCUMENT + 1).flat_map(|row| row[..DOCUMENT].iter().map(|&t| t as u32)).collect();
    let targets = reference.ids("targets").into_iter().map(|t| if t < 0 { IGNORE } else { t as u32 }).collect();
    (inputs, targets)
}

struct Model {
    checkpoint: Checkpoint,
    decoder: Decoder,
    device: Device,
}

impl Model {
    fn load(case: &str, threads: usize) -> Self {
        let checkpoint = Checkpoint::open(&folder(case)).unwrap();
        let mut device = Device::new(threads);
        let options = LoadOptions { weights: Some(Format::F32), ..LoadOptions::default() };
        let decoder = Decoder::load(&checkpoint, &mut device, &options).unwrap();
        Self { checkpoint, decoder, device }
    }

    /// Losses and gradients by checkpoint name; gate and up and the stacked projections apart.
    fn gradients(
        &mut self,
        inputs: &[u32],
        targets: &[u32],
        objective: Objective,
    ) -> (Losses, Vec<(String, Vec<f32>)>) {
        let documents = vec![DOCUMENT; inputs.len() / DOCUMENT];
        let mut gradients = self.decoder.zeros_like();
        let batch = MicroBatch { tokens: inputs, targets, documents: &documents };
        let losses = self.decoder.loss_and_gradients(&mut self.device, &batch, &objective, &mut gradients);
        let named =
            self.checkpoint.table.iter().map(|p| (p.name.clone(), gradients.read_parameter(p.id).unwrap())).collect();
        (losses, named)
    }
}

fn valid(targets: &[u32]) -> f32 {
    targets.iter().filter(|&&t| t != IGNORE).count() as f32
}

fn plain(targets: &[u32]) -> Objective {
    Objective { scale: 1.0 / valid(targets), share: 1.0, ..Objective::default() }
}

/// The largest difference over the largest magnitude.
fn relative(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0f32, |m, x| m.max(x.abs())).max(1e-12);
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max)
}

#[test]
fn every_gradient_is_that_of_pytorch() {
    for case in CASES {
        let reference = Reference::read(case);
        let (inputs, targets) = batch(&reference);
        let mut model = Model::load(case, 2);
        let (losses, gradients) = model.gradients(&inputs, &targets, plain(&targets));
        let loss = losses.tokens.iter().sum::<f32>() / valid(&targets);
        assert!((loss - reference.floats("loss")[0]).abs() < 1e-5, "{case}: loss {loss}");
        for (name, ours) in &gradients {
            let error = relative(ours, &reference.floats(&format!("grad.{name}")));
            assert!(error < 1e-4, "{case}: {name} is off by {error}");
        }
        let compared = reference.names().iter().filter(|n| n.starts_with("grad.")).count();
        assert_eq!(compared, gradients.len(), "{case}");
    }
}

#[test]
fn auxiliary_losses_have_their_gradients() {
    let forms: [(&str, Objective); 3] = [
        ("aux_pooled", Objective { balance: 0.02, balance_form: BalanceForm::Pooled, ..Objective::default() }),
        ("aux_layer", Objective { balance: 0.02, balance_form: BalanceForm::PerLayer, ..Objective::default() }),
        ("z", Objective { z: 0.001, ..Objective::default() }),
    ];
    for case in ["mixtral_mqa", "qwen3_moe"] {
        let reference = Reference::read(case);
        let (inputs, targets) = batch(&reference);
        let mut model = Model::load(case, 2);
        for (form, objective) in &forms {
            // The auxiliary loss alone: cross-entropy has weight zero.
            let (losses, gradients) =
                model.gradients(&inputs, &targets, Objective { scale: 0.0, share: 1.0, ..*objective });
            let loss = objective.balance * losses.balance + objective.z * losses.z;
            let theirs = reference.floats(&format!("{form}.loss"))[0];
            assert!((loss - theirs).abs() < 1e-5 * theirs.abs().max(1.0), "{case} {form}: {loss} {theirs}");
            let prefix = format!("{form}.grad.");
            let mut compared = 0;
            for name in reference.names().iter().filter_map(|n| n.strip_prefix(&prefix)) {
                let (_, ours) = gradients.iter().find(|(n, _)| n == name).unwrap();
                let error = relative(ours, &reference.floats(&format!("{prefix}{name}")));
                assert!(error < 1e-4, "{case} {form}: {name} is off by {error}");
                compared += 1;
            }
            assert!(compared > 2);
        }
    }
}

#[test]
fn gradients_have_the_same_bits_with_any_threads_and_with_recomputation() {
    for case in CASES {
        let reference = Reference::read(case);
        let (inputs, targets) = batch(&reference);
        let objective = Objective { balance: 0.02, z: 0.001, ..plain(&targets) };
        let bits = |threads, recompute| {
            let mut model = Model::load(case, threads);
            let (losses, gradients) = model.gradients(&inputs, &targets, Objective { recompute, ..objective });
            let gradients: Vec<Vec<u32>> =
                gradients.into_iter().map(|(_, g)| g.into_iter().map(f32::to_bits).collect()).collect();
            (losses.tokens.into_iter().map(f32::to_bits).collect::<Vec<_>>(), gradients)
        };
        let one = bits(1, false);
        assert!(one == bits(2, false) && one == bits(3, false) && one == bits(2, true), "{case}");
    }
}

#[test]
fn micro_batches_add_up() {
    let reference = Reference::read("qwen3_moe");
    let (inputs, targets) = batch(&reference);
    let mut model = Model::load("qwen3_moe", 2);
    let (_, whole) = model.gradients(&inputs, &targets, plain(&targets));
    let scale = plain(&targets).scale;
    let mut sums: Vec<Vec<f32>> = whole.iter().map(|(_, g)| vec![0.0; g.len()]).collect();
    for (inputs, targets) in inputs.chunks(DOCUMENT).zip(targets.chunks(DOCUMENT)) {
        let (_, part) = model.gradients(inputs, targets, Objective { scale, share: 1.0, ..Objective::default() });
        sums.iter_mut().zip(&part).for_each(|(sum, (_, g))| sum.iter_mut().zip(g).for_each(|(s, g)| *s += g));
    }
    for ((name, whole), sum) in whole.iter().zip(&sums) {
        assert!(relative(sum, whole) < 1e-5, "{name}");
    }
}

/// A second witness, for what no fixture holds: sinks, clamped gates and attention windows of gpt-oss.
#[test]
fn gradients_follow_finite_differences() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/gpt_oss");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut device = Device::new(2);
    let options = LoadOptions { weights: Some(Format::F32), ..LoadOptions::default() };
    let mut decoder = Decoder::load(&checkpoint, &mut device, &options).unwrap();
    let vocab = decoder.config().vocab_size as u32;
    let tokens: Vec<u32> = (0..40).map(|i| (i * i * 7 + 3 * i) % vocab).collect();
    let targets: Vec<u32> = (0..40).map(|i| (i * 5 + 1) % vocab).collect();
    let batch = MicroBatch { tokens: &tokens, targets: &targets, documents: &[25, 15] };
    let mut gradients = decoder.zeros_like();
    decoder.loss_and_gradients(
        &mut device,
        &batch,
        &Objective { scale: 1.0, share: 1.0, ..Objective::default() },
        &mut gradients,
    );
    differences::agree(&mut decoder, &checkpoint.table, &gradients, &mut |decoder| {
        decoder.token_losses(&mut device, &batch).iter().map(|&l| f64::from(l)).sum()
    });
}

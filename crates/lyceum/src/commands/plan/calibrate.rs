//! `lyceum plan calibrate`: what this machine reaches, and whether the plan is right about it.

use super::subject;
use crate::failure::misuse;
use crate::models::Loaded;
use crate::options::Compute;
use crate::progress::Progress;
use crate::{memory, output};
use clap::Args;
use engine::bench::{self, Report};
use miette::{Context, IntoDiagnostic, Result};
use model::training::{Fresh, MicroBatch, Objective};
use model::{Decoder, LoadOptions};
use plan::Precision;
use plan::calibrate::{
    DECODED, FAR, Limits, NEAR, PROMPT, Probes, Timings, decode_seconds, decoder, fit, prefill_seconds,
    training_seconds,
};
use plan::profile::Profile;
use serde_json::{Value, json};
use spec::random::{below, hash};
use spec::{DecoderConfig, ParameterTable};
use std::path::PathBuf;
use std::time::Instant;
use tensor::{Device, Format, machine};
use train::{Optimiser, OptimiserConfig};

/// Measure what this machine reaches, write it as a profile, and see whether it predicts a model's speed
///
/// Small models of random weights are timed, one for each constant of the profile. Then prefill, decoding and a training step of another model are predicted,
/// measured, and set side by side. The other plan commands take the profile as --hardware PROFILE.toml.
#[derive(Args)]
#[command(after_help = "Examples:\n  lyceum plan calibrate --out machine.toml\n  \
                        lyceum plan calibrate --profile machine.toml --model path/to/model")]
pub struct Calibrate {
    /// Write the profile here
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Take this profile instead of measuring one
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    profile: Option<PathBuf>,

    /// Model whose speed is predicted and measured; one of random weights with experts if not given
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,

    #[command(flatten)]
    compute: Compute,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Times to measure; the median counts.
const REPEATS: usize = 5;
/// Sequences of the second decoding that is predicted.
const MANY: u32 = 8;
/// Tokens of the training step that is predicted, in samples of [`SAMPLE`].
const TRAINED: u32 = 1024;
const SAMPLE: u32 = 256;

/// What was predicted and what was measured.
struct Comparison {
    what: String,
    predicted: f64,
    measured: f64,
}

impl Calibrate {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let format = self.compute.weights.unwrap_or(Format::Bf16);
        let weights: Precision = format
            .name()
            .parse()
            .map_err(|_| misuse(format!("--weights {}: a plan knows no such precision", format.name())))?;
        let mut device = self.compute.device();
        let profile = match &self.profile {
            Some(path) => {
                Profile::parse(&subject::read(path)?).into_diagnostic().wrap_err_with(|| path.display().to_string())?
            }
            None => self.measure(&mut device, format, weights)?,
        };
        let text = profile.to_toml().into_diagnostic()?;
        if let Some(path) = &self.out {
            std::fs::write(path, &text)
                .into_diagnostic()
                .wrap_err_with(|| format!("cannot write {}", path.display()))?;
        }
        let comparisons = self.compare(&mut device, &profile, format, weights)?;
        if self.json {
            return output::json(&json!({
                "profile": profile,
                "comparisons": comparisons.iter().map(Comparison::json).collect::<Value>(),
            }));
        }
        if self.profile.is_none() && self.out.is_none() {
            output::line(&text)?;
        }
        output::facts(&comparisons.iter().map(Comparison::text).collect::<Vec<_>>())
    }

    /// Times the probes, and fits the profile to them.
    fn measure(&self, device: &mut Device, format: Format, weights: Precision) -> Result<Profile> {
        let bar = Progress::items("Measuring");
        let measured = machine::measure(device);
        let limits = Limits {
            f32_flops: 1e9 * measured.fma_gflops,
            int8_flops: 1e9 * measured.int8_gops,
            bandwidth: 1e9 * measured.read_gb_s,
            memory: memory::total().unwrap_or(8 << 30) as f64,
        };
        let probes = Probes::new();
        bar.set(1, 6);
        let wide = random(&probes.wide, format, device)?;
        let near = self.time(&wide, device, PROMPT, 1, NEAR)?;
        let far = self.time(&wide, device, 0, 1, FAR)?;
        bar.set(2, 6);
        let mut token = |config: &DecoderConfig, done| -> Result<f64> {
            let decoder = random(config, format, device)?;
            bar.set(done, 6);
            Ok(decode_of(&self.time(&decoder, device, 0, 1, NEAR)?, 1))
        };
        let (shallow, deep, sparse) = (token(&probes.shallow, 3)?, token(&probes.deep, 4)?, token(&probes.sparse, 5)?);
        let training = train_step(&probes.training, device, PROMPT, PROMPT)?;
        let timings = Timings {
            prompt: prefill_of(&near),
            near: decode_of(&near, 1),
            far: decode_of(&far, 1),
            shallow,
            deep,
            sparse,
            training,
        };
        fit(&limits, &timings, weights).into_diagnostic()
    }

    fn time(&self, decoder: &Decoder, device: &mut Device, prompt: u32, parallel: u32, context: u32) -> Result<Report> {
        let plan = bench::Plan {
            prompt_tokens: prompt as usize,
            gen_tokens: DECODED as usize,
            parallel: parallel as usize,
            context: context as usize,
            repeats: REPEATS,
            kv: self.compute.kv_cache,
        };
        bench::run(decoder, device, &plan, &|_, _| ()).into_diagnostic()
    }

    /// Predicts first, then measures.
    fn compare(
        &self,
        device: &mut Device,
        profile: &Profile,
        format: Format,
        weights: Precision,
    ) -> Result<Vec<Comparison>> {
        let loaded;
        let made;
        let model = match &self.model {
            Some(path) => {
                let context = (PROMPT + DECODED + NEAR) as usize;
                let mut compute = self.compute.clone();
                compute.weights = Some(format);
                loaded = Loaded::open(path, &compute, Some(context))?;
                &loaded.decoder
            }
            None => {
                made = random(&decoder(768, 6, 1536, 16_384, Some((8, 2))), format, device)?;
                &made
            }
        };
        let config = model.config();
        let rate = |tokens: u32, seconds: f64| f64::from(tokens) / seconds;
        let prompt = prefill_seconds(profile, config, weights, PROMPT).into_diagnostic()?;
        let decode = |sequences| decode_seconds(profile, config, weights, sequences, NEAR).into_diagnostic();
        let (one, many) = (decode(1)?, decode(MANY)?);
        // In f32 and small: a step of a large model would not fit beside it.
        let trained = decoder(384, 4, 768, 4096, Some((8, 2)));
        let training = training_seconds(profile, &trained, TRAINED, SAMPLE);
        let bar = Progress::items("Comparing");
        let first = self.time(model, device, PROMPT, 1, NEAR)?;
        bar.set(1, 3);
        let second = self.time(model, device, 0, MANY, NEAR)?;
        bar.set(2, 3);
        let step = train_step(&trained, device, TRAINED, SAMPLE)?;
        let compare = |what: String, predicted, measured| Comparison { what, predicted, measured };
        Ok(vec![
            compare(format!("Prefill of {PROMPT}, tokens/s"), rate(PROMPT, prompt), rate(PROMPT, prefill_of(&first))),
            compare("Decode of 1, tokens/s".into(), rate(1, one), rate(1, decode_of(&first, 1))),
            compare(format!("Decode of {MANY}, tokens/s"), rate(MANY, many), rate(MANY, decode_of(&second, MANY))),
            compare(format!("Training step of {TRAINED}, tokens/s"), rate(TRAINED, training), rate(TRAINED, step)),
        ])
    }
}

impl Comparison {
    fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }

    fn json(&self) -> Value {
        json!({ "what": self.what, "predicted": self.predicted, "measured": self.measured, "error": self.error() })
    }

    fn text(&self) -> (String, String) {
        let error = 100.0 * self.error();
        (
            self.what.clone(),
            format!("predicted {:9.1}, measured {:9.1}, error {error:+.1}%", self.predicted, self.measured),
        )
    }
}

/// Seconds of the prompt.
fn prefill_of(report: &Report) -> f64 {
    report.prefill.map_or(0.0, |rate| f64::from(PROMPT) / rate.median)
}

/// Seconds of a step of `parallel` sequences.
fn decode_of(report: &Report, parallel: u32) -> f64 {
    report.decode.map_or(0.0, |rate| f64::from(parallel) / rate.median)
}

/// A decoder of random weights.
fn random(config: &DecoderConfig, format: Format, device: &mut Device) -> Result<Decoder> {
    let options = LoadOptions { weights: Some(format), ..LoadOptions::default() };
    Decoder::from_parameters(&Fresh { seed: 1 }, &ParameterTable::new(config), config, device, &options)
        .into_diagnostic()
}

/// The median seconds of a training step: forward, backward, AdamW.
fn train_step(config: &DecoderConfig, device: &mut Device, tokens: u32, sample: u32) -> Result<f64> {
    let mut decoder = random(config, Format::F32, device)?;
    let mut gradients = decoder.zeros_like();
    let mut optimiser = Optimiser::new(&OptimiserConfig::default(), &decoder);
    let vocabulary = config.vocab_size as u64;
    let draw = |from: u64| (0..u64::from(tokens)).map(move |i| below(hash(from, 0, i, 0), vocabulary) as u32);
    let (inputs, targets): (Vec<u32>, Vec<u32>) = (draw(1).collect(), draw(2).collect());
    let documents = vec![sample as usize; (tokens / sample) as usize];
    let batch = MicroBatch { tokens: &inputs, targets: &targets, documents: &documents };
    let objective = Objective { scale: 1.0 / tokens as f32, share: 1.0, ..Objective::default() };
    let mut seconds = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let start = Instant::now();
        decoder.loss_and_gradients(device, &batch, &objective, &mut gradients);
        let norm = Optimiser::gradient_norm(device, &mut gradients);
        optimiser.step(device, &mut decoder, &mut gradients, norm, 1e-4);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[REPEATS / 2])
}

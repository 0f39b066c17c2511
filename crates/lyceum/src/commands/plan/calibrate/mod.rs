//! `lyceum plan calibrate`: what this machine reaches, and whether the plan is right about it.

mod server;
mod trainer;

use super::subject;
use crate::failure::misuse;
use crate::models::Loaded;
use crate::options::Compute;
use crate::progress::Progress;
use crate::{memory, output};
use clap::Args;
use engine::bench::{self, Report};
use miette::{Context, IntoDiagnostic, Result, miette};
use model::training::{Fresh, MicroBatch, Objective};
use model::{Decoder, LoadOptions};
use plan::Precision;
use plan::calibrate::{
    DECODED, FAR, Limits, MANY, NEAR, PROMPT, Probes, Timings, decode_seconds, decoder, fit, formats, prefill_seconds,
    training_seconds,
};
use plan::profile::Profile;
use plan::serve::traffic::users;
use plan::serve::{Answers, Deployment, Formats, Lengths, Load, Shape, simulate};
use serde_json::{Value, json};
use server::{Clients, Server};
use spec::random::{below, hash};
use spec::{DecoderConfig, ParameterTable};
use std::path::PathBuf;
use std::time::Instant;
use tensor::{Device, Format, KvFormat, machine};
use train::{Optimiser, OptimiserConfig};

/// Measure what this machine reaches, write it as a profile, and see whether it predicts a bench, a server and a training step
///
/// Small models of random weights are timed, each for a constant or two of the profile. Then prefill and decoding, a load on a server and a step of training
/// of other models are predicted, measured, and set side by side. The other plan commands take the profile as --hardware PROFILE.toml. It takes a
/// minute or two; whatever else the machine does meanwhile is in the figures.
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

    /// Times that each probe is run; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=99))]
    repeats: u16,

    #[command(flatten)]
    compute: Compute,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The load on the server that is predicted, of [`CLIENTS`].
const LOAD: Clients = Clients { clients: CLIENTS, requests: 48, prompt: 128, answer: 48 };
const CLIENTS: u32 = 4;
/// The training step that is predicted.
const RUN: trainer::Run = trainer::Run { hidden: 384, layers: 4, ffn: 768, experts: 8, context: 256, batch: 1024 };

/// What was predicted and what was measured.
struct Comparison {
    what: String,
    unit: &'static str,
    predicted: f64,
    measured: f64,
    /// The error that is aimed at.
    aim: f64,
}

/// How models are held.
#[derive(Clone, Copy)]
struct Held {
    weights: Format,
    kv: KvFormat,
    formats: Formats,
}

impl Calibrate {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let held = self.held()?;
        let (profile, timings) = match &self.profile {
            Some(path) => {
                let profile = Profile::parse(&subject::read(path)?).into_diagnostic();
                (profile.wrap_err_with(|| path.display().to_string())?, None)
            }
            None => {
                let (profile, timings) = self.measure(held)?;
                (profile, Some(timings))
            }
        };
        let text = profile.to_toml().into_diagnostic()?;
        if let Some(path) = &self.out {
            std::fs::write(path, &text)
                .into_diagnostic()
                .wrap_err_with(|| format!("cannot write {}", path.display()))?;
        }
        let comparisons = self.compare(&profile, held)?;
        if self.json {
            return output::json(&json!({
                "profile": profile,
                "probes": timings,
                "comparisons": comparisons.iter().map(Comparison::json).collect::<Value>(),
            }));
        }
        if self.profile.is_none() && self.out.is_none() {
            output::line(&text)?;
        }
        output::print(&table(&comparisons))
    }

    fn held(&self) -> Result<Held> {
        let weights = self.compute.weights.unwrap_or(Format::Bf16);
        let named = weights.name().parse();
        let precision: Precision =
            named.map_err(|_| misuse(format!("--weights {}: a plan knows no such precision", weights.name())))?;
        let kv = self.compute.kv_cache;
        let cache = match kv {
            KvFormat::F32 => Precision::F32,
            KvFormat::Bf16 => Precision::Bf16,
            KvFormat::Int8 => Precision::Int8,
        };
        Ok(Held { weights, kv, formats: formats(precision, cache) })
    }

    /// Times the probes, and fits the profile to them.
    fn measure(&self, held: Held) -> Result<(Profile, Timings)> {
        let bar = Progress::items("Measuring");
        let mut device = self.compute.device();
        let measured = machine::measure(&mut device);
        let limits = Limits {
            f32_flops: 1e9 * measured.fma_gflops,
            int8_flops: 1e9 * measured.int8_gops,
            bandwidth: 1e9 * measured.read_gb_s,
            memory: memory::total().unwrap_or(8 << 30) as f64,
        };
        let probes = Probes::new();
        let wide = random(&probes.wide, held.weights, &mut device)?;
        let near = self.time(&wide, &mut device, PROMPT, 1, NEAR)?;
        let many = self.time(&wide, &mut device, 0, MANY, NEAR)?;
        bar.set(1, 7);
        let far = self.time(&wide, &mut device, 0, 1, FAR)?;
        drop(wide);
        bar.set(2, 7);
        let experts = random(&probes.experts, held.weights, &mut device)?;
        let one_of_experts = self.time(&experts, &mut device, 0, 1, NEAR)?;
        let many_of_experts = self.time(&experts, &mut device, 0, MANY, NEAR)?;
        drop(experts);
        bar.set(3, 7);
        let mut token = |config: &DecoderConfig| -> Result<f64> {
            let decoder = random(config, held.weights, &mut device)?;
            Ok(decode_of(&self.time(&decoder, &mut device, 0, 1, NEAR)?, 1))
        };
        let (shallow, deep, sparse) = (token(&probes.shallow)?, token(&probes.deep)?, token(&probes.sparse)?);
        bar.set(4, 7);
        let training = self.train_step(&probes.training, &mut device, PROMPT, PROMPT)?;
        bar.set(5, 7);
        let decoder = random(&probes.served, held.weights, &mut device)?;
        // It starts a device of its own; this one's threads should not be in its way.
        drop(device);
        let server = Server::start(decoder, self.compute.device(), held.kv)?;
        let served = |clients: u32| -> Result<f64> {
            let load = Clients { clients, requests: 8 * clients, prompt: NEAR, answer: 4 * DECODED };
            let figures = server.measure(load, clients.into())?;
            // Through its answers from first to last token, so that what comes in bursts counts as well.
            Ok(f64::from(clients) / figure(&figures, &["output_tokens_per_s"])?)
        };
        let served = [served(1)?, served(MANY)?];
        server.stop()?;
        bar.set(6, 7);
        let timings = Timings {
            prompt: prefill_of(&near),
            near: decode_of(&near, 1),
            many: decode_of(&many, MANY),
            far: decode_of(&far, 1),
            experts: decode_of(&one_of_experts, 1),
            many_experts: decode_of(&many_of_experts, MANY),
            shallow,
            deep,
            sparse,
            served,
            training,
        };
        Ok((fit(&limits, &timings, held.formats).into_diagnostic()?, timings))
    }

    fn time(&self, decoder: &Decoder, device: &mut Device, prompt: u32, parallel: u32, context: u32) -> Result<Report> {
        let plan = bench::Plan {
            prompt_tokens: prompt as usize,
            gen_tokens: DECODED as usize,
            parallel: parallel as usize,
            context: context as usize,
            repeats: self.repeats.into(),
            kv: self.compute.kv_cache,
        };
        bench::run(decoder, device, &plan, &|_, _| ()).into_diagnostic()
    }

    /// Predicts first, then measures.
    fn compare(&self, profile: &Profile, held: Held) -> Result<Vec<Comparison>> {
        let (model, mut device) = self.model(held)?;
        let config = model.config().clone();
        let rate = |tokens: u32, seconds: f64| f64::from(tokens) / seconds;
        let prompt = prefill_seconds(profile, &config, held.formats, PROMPT).into_diagnostic()?;
        let decode = |sequences| decode_seconds(profile, &config, held.formats, sequences, NEAR).into_diagnostic();
        let (one, many) = (decode(1)?, decode(MANY)?);
        let served = predict_load(profile, &config, held.formats)?;
        let trained = decoder(RUN.hidden, RUN.layers, RUN.ffn, trainer::VOCABULARY, Some((RUN.experts, 2)));
        let (batch, sample) = (RUN.batch as u32, RUN.context as u32);
        let training = training_seconds(profile, &trained, batch, sample).into_diagnostic()?;

        let bar = Progress::items("Comparing");
        let first = self.time(&model, &mut device, PROMPT, 1, NEAR)?;
        bar.set(1, 4);
        let second = self.time(&model, &mut device, 0, MANY, NEAR)?;
        bar.set(2, 4);
        let threads = device.threads();
        let server = Server::start(model, device, held.kv)?;
        let figures = server.measure(LOAD, 1)?;
        server.stop()?;
        bar.set(3, 4);
        let step = RUN.measure(threads)?;

        let rates =
            |what: String, predicted, measured| Comparison { what, unit: "tokens/s", predicted, measured, aim: 0.1 };
        let mut all = vec![
            rates(format!("bench: prefill of {PROMPT}"), rate(PROMPT, prompt), rate(PROMPT, prefill_of(&first))),
            rates("bench: decode of 1".into(), rate(1, one), rate(1, decode_of(&first, 1))),
            rates(format!("bench: decode of {MANY}"), rate(MANY, many), rate(MANY, decode_of(&second, MANY))),
            rates(
                format!("serve: {CLIENTS} clients, output"),
                served.output_tokens_per_second,
                figure(&figures, &["output_tokens_per_s"])?,
            ),
        ];
        let spreads =
            [("first token", "first_token_s", served.ttft), ("between tokens", "between_parts_s", served.itl)];
        for (name, key, spread) in spreads {
            for (percentile, predicted) in [("p50", spread.p50), ("p95", spread.p95)] {
                all.push(Comparison {
                    what: format!("serve: {name}, {percentile}"),
                    unit: "ms",
                    predicted: 1e3 * predicted.unwrap_or(0.0),
                    measured: 1e3 * figure(&figures, &[key, percentile])?,
                    aim: 0.15,
                });
            }
        }
        all.push(rates(format!("train: steps of {batch}"), rate(batch, training), rate(batch, step)));
        Ok(all)
    }

    /// The model whose speed is predicted, and the device that it is on.
    fn model(&self, held: Held) -> Result<(Decoder, Device)> {
        let Some(path) = &self.model else {
            let mut device = self.compute.device();
            let model = random(&decoder(768, 6, 1536, 16_384, Some((8, 2))), held.weights, &mut device)?;
            return Ok((model, device));
        };
        let mut compute = self.compute.clone();
        compute.weights = Some(held.weights);
        let Loaded { decoder, device, .. } = Loaded::open(path, &compute, Some(2 * PROMPT as usize))?;
        Ok((decoder, device))
    }

    /// The median seconds of a training step: forward, backward, AdamW.
    fn train_step(&self, config: &DecoderConfig, device: &mut Device, tokens: u32, sample: u32) -> Result<f64> {
        let mut decoder = random(config, Format::F32, device)?;
        let mut gradients = decoder.zeros_like();
        let mut optimiser = Optimiser::new(&OptimiserConfig::default(), &decoder);
        let vocabulary = config.vocab_size as u64;
        let draw = |from: u64| (0..u64::from(tokens)).map(move |i| below(hash(from, 0, i, 0), vocabulary) as u32);
        let (inputs, targets): (Vec<u32>, Vec<u32>) = (draw(1).collect(), draw(2).collect());
        let documents = vec![sample as usize; (tokens / sample) as usize];
        let batch = MicroBatch { tokens: &inputs, targets: &targets, documents: &documents };
        let objective = Objective { scale: 1.0 / tokens as f32, share: 1.0, ..Objective::default() };
        let mut step = || {
            let start = Instant::now();
            decoder.loss_and_gradients(device, &batch, &objective, &mut gradients);
            let norm = Optimiser::gradient_norm(device, &mut gradients);
            optimiser.step(device, &mut decoder, &mut gradients, norm, 1e-4);
            start.elapsed().as_secs_f64()
        };
        // The first touches memory for the first time.
        step();
        let mut seconds: Vec<f64> = (0..self.repeats).map(|_| step()).collect();
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }
}

/// The load, simulated on the scheduler that the server runs.
fn predict_load(profile: &Profile, config: &DecoderConfig, formats: Formats) -> Result<Answers> {
    let shape = Shape::of(config);
    let deployment = Deployment {
        weights: formats.weights,
        arithmetic: Some(formats.arithmetic),
        cache: formats.cache,
        step_tokens: 512,
        ..Deployment::default()
    };
    let service = deployment.service(&shape, profile, None, LOAD.prompt + LOAD.answer, 0.0).into_diagnostic()?;
    let lengths = Lengths { prompt: LOAD.prompt, output: LOAD.answer, spread: 0.0, shared: 0, most: shape.context };
    let requests = users(LOAD.requests as usize, &lengths, 1);
    let load = Load::Closed { users: LOAD.clients as usize, requests };
    Ok(Answers::of(&[&service], &simulate(&[&service], &[], &load, 1).into_diagnostic()?))
}

/// A number of what the load generator says.
fn figure(figures: &Value, path: &[&str]) -> Result<f64> {
    let found = path.iter().fold(figures, |value, key| &value[*key]).as_f64();
    found.filter(|number| *number > 0.0).ok_or_else(|| miette!("the load came to no {}", path.join(".")))
}

impl Comparison {
    fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }

    fn json(&self) -> Value {
        let Self { what, unit, predicted, measured, aim } = self;
        json!({
            "what": what, "unit": unit, "predicted": predicted, "measured": measured, "error": self.error(), "aim": aim,
        })
    }
}

fn table(comparisons: &[Comparison]) -> String {
    let title = ["", "predicted", "measured", "", "error", "aim"].map(str::to_owned).to_vec();
    let line = |c: &Comparison| {
        vec![
            c.what.clone(),
            format!("{:.2}", c.predicted),
            format!("{:.2}", c.measured),
            c.unit.to_owned(),
            format!("{:+.1}%", 100.0 * c.error()),
            format!("{:.0}%{}", 100.0 * c.aim, if c.error().abs() > c.aim { ", missed" } else { "" }),
        ]
    };
    let rows: Vec<_> = std::iter::once(title).chain(comparisons.iter().map(line)).collect();
    super::columns(&rows, &[1, 2, 4])
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

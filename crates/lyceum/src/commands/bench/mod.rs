//! `lyceum bench`: how fast a model runs, or a server answers.

pub mod load;

use crate::failure::misuse;
use crate::models::{self, Loaded};
use crate::options::Compute;
use crate::progress::Progress;
use crate::{memory, output};
use clap::Args;
use engine::bench::{Plan, Rate, Report};
use miette::{IntoDiagnostic, Result};
use serde_json::{Map, Value, json};
use spec::DecoderConfig;
use std::path::PathBuf;
use std::time::Duration;
use tensor::Device;
use tensor::machine::{self, Limits};

/// Measure how fast a model reads a prompt (prefill) and writes tokens (decode)
#[derive(Args)]
#[command(after_help = "Examples:\n  lyceum bench path/to/model --prompt-tokens 512 --gen-tokens 128 --threads 8\n  \
                  lyceum bench --url http://127.0.0.1:8000/v1 --parallel 8 --requests 64 --prompt-tokens 128 --gen-tokens 64")]
pub struct Bench {
    /// Model: a folder with safetensors or a .gguf file; the demo if not given
    model: Option<PathBuf>,

    /// Measure the limits of the machine too; without MODEL, only them
    #[arg(long)]
    machine: bool,

    /// Tokens of the prompt whose prefill is timed; 0 to time none
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt_tokens: usize,

    /// Tokens that each sequence decodes; 0 to time none
    #[arg(long, value_name = "N", default_value_t = 128)]
    gen_tokens: usize,

    /// Sequences decoded together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,

    /// Tokens that stand in each sequence before decoding starts
    #[arg(long, value_name = "N", default_value_t = 128)]
    context: usize,

    /// Times to measure; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,

    /// Measure a server of the OpenAI API instead, by a load of --parallel clients: its address up to /v1
    #[arg(long, conflicts_with_all = ["model", "machine", "context", "repeats", "threads", "weights", "kv_cache"])]
    url: Option<String>,

    #[command(flatten)]
    load: LoadOptions,

    #[command(flatten)]
    compute: Compute,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a server is asked.
#[derive(Args)]
#[group(requires = "url", multiple = true)]
struct LoadOptions {
    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..), requires = "url")]
    requests: u32,

    /// Ask nothing more after so many seconds, however many requests are left
    #[arg(long, value_name = "S", requires = "url")]
    seconds: Option<f64>,

    /// Requests that arrive per second on average, whether or not earlier ones are answered; if not given, each client waits for its answer
    #[arg(long, value_name = "R", requires = "url")]
    rate: Option<f64>,

    /// Tokens at the beginning that are the same in all prompts
    #[arg(long, value_name = "N", default_value_t = 0, requires = "url")]
    shared_prefix: usize,

    /// Token ids there are: prompts are random ones
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(16..), requires = "url")]
    vocab: u32,

    /// Of the prompts and arrivals
    #[arg(long, value_name = "N", default_value_t = 0, requires = "url")]
    seed: u64,
}

impl Bench {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if let Some(url) = &self.url {
            return self.server(url);
        }
        if self.machine && self.model.is_none() {
            return self.machine_alone();
        }
        let path = models::path(self.model.clone())?;
        let plan = self.plan()?;
        let longest = plan.prompt_tokens.max(plan.context.saturating_add(plan.gen_tokens).saturating_add(1));
        let mut loaded = Loaded::open(&path, &self.compute, Some(longest))?;
        memory::check_cache(loaded.decoder.config(), plan.kv, plan.parallel, longest)?;
        let bar = Progress::items("Measuring");
        let progress = |done, total| bar.set(done as u64, total as u64);
        let report = engine::bench::run(&loaded.decoder, &mut loaded.device, &plan, &progress).into_diagnostic()?;
        drop(bar);
        let peak = memory::peak();
        let limits = self.machine.then(|| machine::measure(&mut loaded.device));
        let figures = Figures::of(&loaded, &plan, &report, peak, limits);
        if self.json { output::json(&figures.json()) } else { output::facts(&figures.text()) }
    }

    fn server(&self, url: &str) -> Result<()> {
        let LoadOptions { requests, seconds, rate, shared_prefix, vocab, seed } = self.load;
        if self.prompt_tokens == 0 || self.gen_tokens == 0 {
            return Err(misuse("a server is measured with at least one token of prompt and one of answer"));
        }
        if rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return Err(misuse("--rate is a number of requests per second above 0"));
        }
        let until = seconds.map(Duration::try_from_secs_f64).transpose();
        let until = until.map_err(|_| misuse("--seconds is a number of seconds above 0"))?;
        let load = load::Load {
            url: url.trim_end_matches('/').to_owned(),
            clients: self.parallel.into(),
            requests: requests as usize,
            until,
            rate,
            prompt_tokens: self.prompt_tokens,
            shared: shared_prefix,
            gen_tokens: self.gen_tokens,
            vocab: vocab.into(),
            seed,
        };
        let bar = Progress::items("Asking");
        let figures = load.run(&|done, total| bar.set(done as u64, total as u64))?;
        drop(bar);
        if self.json { output::json(&figures.json()) } else { output::facts(&figures.text()) }
    }

    fn machine_alone(&self) -> Result<()> {
        let mut device = self.compute.device();
        let limits = machine::measure(&mut device);
        if self.json {
            output::json(&limits_json(&limits, &device))
        } else {
            output::facts(&limits_text(&limits, &device))
        }
    }

    fn plan(&self) -> Result<Plan> {
        if self.prompt_tokens == 0 && self.gen_tokens == 0 {
            return Err(misuse("--prompt-tokens 0 and --gen-tokens 0 leave nothing to measure"));
        }
        Ok(Plan {
            prompt_tokens: self.prompt_tokens,
            gen_tokens: self.gen_tokens,
            parallel: self.parallel.into(),
            context: self.context,
            repeats: self.repeats.into(),
            kv: self.compute.kv_cache,
        })
    }
}

/// What was measured, with what it is to be compared with.
struct Figures<'a> {
    loaded: &'a Loaded,
    plan: &'a Plan,
    report: &'a Report,
    prefill_gflops: Option<f64>,
    /// Bytes of weights that decoding reads per second. Several sequences share reads: no figure.
    decode_gb_s: Option<f64>,
    /// Of memory, before the machine was measured.
    peak: Option<u64>,
    limits: Option<Limits>,
}

impl<'a> Figures<'a> {
    fn of(loaded: &'a Loaded, plan: &'a Plan, report: &'a Report, peak: Option<u64>, limits: Option<Limits>) -> Self {
        let prompt_flops = prefill_flops(loaded.decoder.config(), plan.prompt_tokens);
        let flops_per_token = prompt_flops as f64 / plan.prompt_tokens.max(1) as f64;
        let active = loaded.decoder.active_weight_bytes() as f64;
        Self {
            loaded,
            plan,
            report,
            prefill_gflops: report.prefill.map(|rate| rate.median * flops_per_token / 1e9),
            decode_gb_s: report.decode.filter(|_| plan.parallel == 1).map(|rate| rate.median * active / 1e9),
            peak,
            limits,
        }
    }

    fn json(&self) -> Value {
        let Self { loaded, plan, .. } = self;
        let parameters = loaded.decoder.config().count_parameters();
        let mut object = Map::new();
        object.extend(rates("prefill_tokens_per_s", self.report.prefill));
        object.extend(rates("decode_tokens_per_s", self.report.decode));
        let rest = json!({
            "prefill_gflops": self.prefill_gflops,
            "decode_gb_s": self.decode_gb_s,
            "load_s": loaded.took.as_secs_f64(),
            "peak_rss_bytes": self.peak,
            "weight_bytes": loaded.decoder.weight_bytes(),
            "active_weight_bytes": loaded.decoder.active_weight_bytes(),
            "parameters": parameters.total,
            "active_parameters": parameters.active,
            "threads": loaded.device.threads(),
            "instructions": loaded.device.level().name(),
            "kv_cache": plan.kv.name(),
            "prompt_tokens": plan.prompt_tokens,
            "gen_tokens": plan.gen_tokens,
            "parallel": plan.parallel,
            "context": plan.context,
            "repeats": plan.repeats,
        });
        if let Value::Object(rest) = rest {
            object.extend(rest);
        }
        if let Some(limits) = &self.limits {
            object.insert("machine".into(), limits_json(limits, &loaded.device));
        }
        object.into()
    }

    fn text(&self) -> Vec<(String, String)> {
        let Self { loaded, plan, .. } = self;
        let parameters = loaded.decoder.config().count_parameters();
        let mut rows = vec![
            ("Model".into(), loaded.checkpoint.path().display().to_string()),
            (
                "Parameters".into(),
                format!(
                    "{}, of which a token uses {}",
                    output::count(parameters.total),
                    output::count(parameters.active)
                ),
            ),
            (
                "Weights".into(),
                format!(
                    "{} packed, of which a token reads {}; loaded in {:.2} s",
                    output::bytes(loaded.decoder.weight_bytes() as u64),
                    output::bytes(loaded.decoder.active_weight_bytes() as u64),
                    loaded.took.as_secs_f64()
                ),
            ),
            threads(&loaded.device),
        ];
        if let (Some(rate), Some(gflops)) = (self.report.prefill, self.prefill_gflops) {
            let title = format!("Prefill of {}", plan.prompt_tokens);
            rows.push((title, format!("{}, {gflops:.1} GFLOP/s", spread(rate))));
        }
        if let Some(rate) = self.report.decode {
            let title = format!("Decode of {} after {}", plan.parallel, plan.context);
            let reads = self.decode_gb_s.map_or_else(String::new, |gb| format!(", {gb:.1} GB/s of weights"));
            rows.push((title, spread(rate) + &reads));
        }
        if let Some(peak) = self.peak {
            rows.push(("Peak memory".into(), output::bytes(peak)));
        }
        if let Some(limits) = &self.limits {
            rows.extend(limits_text(limits, &loaded.device).into_iter().skip(1));
        }
        rows
    }
}

/// FLOPs of a prompt of which only the last token's logits are computed.
fn prefill_flops(config: &DecoderConfig, tokens: usize) -> u64 {
    let attention: u64 = (1..=tokens).map(|visible| config.attention_flops(visible)).sum();
    config.layer_flops() * tokens as u64 + attention + config.head_flops()
}

fn rates(key: &str, rate: Option<Rate>) -> [(String, Value); 3] {
    [
        (key.to_owned(), json!(rate.map(|r| r.median))),
        (format!("{key}_min"), json!(rate.map(|r| r.min))),
        (format!("{key}_max"), json!(rate.map(|r| r.max))),
    ]
}

fn spread(rate: Rate) -> String {
    format!("{:.1} tokens/s ({:.1} to {:.1})", rate.median, rate.min, rate.max)
}

fn threads(device: &Device) -> (String, String) {
    ("Threads".into(), format!("{} ({})", device.threads(), device.level().name()))
}

fn limits_json(limits: &Limits, device: &Device) -> Value {
    json!({
        "fma_gflops": limits.fma_gflops,
        "int8_gops": limits.int8_gops,
        "read_gb_s": limits.read_gb_s,
        "read_gb_s_median": limits.read_gb_s_median,
        "threads": device.threads(),
        "instructions": device.level().name(),
    })
}

fn limits_text(limits: &Limits, device: &Device) -> Vec<(String, String)> {
    let read = format!("{:.1} GB/s, median {:.1}", limits.read_gb_s, limits.read_gb_s_median);
    vec![
        threads(device),
        ("Limit of f32".into(), format!("{:.1} GFLOP/s", limits.fma_gflops)),
        ("Limit of int8".into(), format!("{:.1} GOP/s", limits.int8_gops)),
        ("Limit of reading".into(), read),
    ]
}

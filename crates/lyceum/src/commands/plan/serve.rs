//! `lyceum plan serve`: how fast, for how many, for how much.

use super::subject;
use crate::failure::misuse;
use crate::output;
use clap::Args;
use miette::{Context, IntoDiagnostic, Result};
use plan::Precision;
use plan::profile::Profile;
use plan::serve::report::Spread;
use plan::serve::steady::{Steady, batch_at_speed, turning_rows, turning_rows_with_cache};
use plan::serve::traffic::{day, poisson, trace, users};
use plan::serve::{
    Answers, Deployment, Drafting, KvSplit, Lengths, Load, Pattern, READING_SPEEDS, Service, Shape, simulate,
};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Simulate serving a model: waiting, reading speed, use of the devices, dollars per 1000 tokens
///
/// A step's time is priced by a roofline with the efficiency of the device; which sequences are in it is decided by the scheduler that `lyceum serve` runs.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    lyceum plan serve recipes/gpt4.toml --hardware h100:128 --tp 8 --pp 16 --weights fp8 --traffic poisson:20\n  \
    lyceum plan serve path/to/model --hardware h200:8 --tp 8 --traffic users:64 --prompt-tokens 1024 --output-tokens 1024\n  \
    lyceum plan serve recipes/gpt4.toml --fleet fleet.toml")]
pub struct Serve {
    /// Model: a recipe (.toml), a folder with config.json, or a .gguf file; no weights are read
    model: PathBuf,

    /// Devices: an id of the catalogue or a profile's .toml, and how many (one node if not given)
    #[arg(long, value_name = "DEVICE:COUNT", required_unless_present = "fleet")]
    hardware: Option<String>,

    /// Several clusters, a promise and a day's demand: plan by the hour which of them serve
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hardware", "traffic"])]
    fleet: Option<PathBuf>,

    /// Who asks: `poisson:RATE`, `day:PEAK[:TROUGH]`, `users:N`, or a trace (.jsonl)
    #[arg(long, value_name = "TRAFFIC", default_value = "poisson:1")]
    traffic: Pattern,

    /// Requests that are simulated, where the traffic is not a trace
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,

    /// Mean tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 1024)]
    prompt_tokens: u32,

    /// Mean tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    output_tokens: u32,

    /// Standard deviation over mean of both lengths; 0: all alike
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    spread: f64,

    /// Tokens that all prompts begin with
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_tokens: u32,

    /// Ranks that share every matrix
    #[arg(long, value_name = "N", default_value_t = 1)]
    tp: usize,

    /// Pipeline stages
    #[arg(long, value_name = "N", default_value_t = 1)]
    pp: usize,

    /// Groups that hold different experts; sequences are divided over them
    #[arg(long, value_name = "N", default_value_t = 1)]
    ep: usize,

    /// Layers of the first stage; their even share, rounded down, if not given
    #[arg(long, value_name = "N")]
    first_stage_layers: Option<usize>,

    /// How tensor ranks divide the cache: by heads (what a rank lacks is copied) or by sequences
    #[arg(long, value_name = "heads|batch", default_value = "heads", value_parser = kv_split)]
    kv_split: KvSplit,

    /// Divide matrices both ways, inputs and outputs, over the ranks of --tp (two-dimensional weight-stationary, Pope 2022)
    #[arg(long)]
    plane: bool,

    /// Communication of one half of a step hides behind the other half's computation
    #[arg(long)]
    overlap: bool,

    /// Format of the weights: f16, bf16, fp8, int8, int4
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    weights: Precision,

    /// Format of the products; that of the weights (bf16 for int4) if not given
    #[arg(long, value_name = "FORMAT")]
    arithmetic: Option<Precision>,

    /// Format of keys and values
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    kv_cache: Precision,

    /// Rows of a step at most
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    step_tokens: u32,

    /// Sequences of a step at most; a pipeline has a step for each stage
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..65536))]
    step_sequences: u32,

    /// Positions to serve; all that the model was made for if not given
    #[arg(long, value_name = "N")]
    context: Option<u32>,

    /// Draft model that speculates
    #[arg(long, value_name = "MODEL", requires = "acceptance")]
    draft: Option<PathBuf>,

    /// Probability that a drafted token is accepted, given that those before it were
    #[arg(long, value_name = "P", requires = "draft")]
    acceptance: Option<f64>,

    /// Tokens drafted at most
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..64))]
    drafted: u32,

    /// Always draft that many; fewer where it does not pay if not given
    #[arg(long)]
    always_draft: bool,

    /// US dollars for an hour of one device; the catalogue's if not given
    #[arg(long, value_name = "PER_HOUR", allow_negative_numbers = true)]
    price: Option<f64>,

    /// The same seed gives the same result
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Serve {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let shape = Shape::of(&subject::decoder(&self.model)?);
        if let Some(file) = &self.fleet {
            return super::fleet::run(file, &shape, self.seed, self.json);
        }
        let (profile, cluster) = subject::hardware(self.hardware.as_deref().unwrap_or_default())?;
        let price = self.price(&profile)?;
        let deployment = self.deployment();
        let copies = deployment.copies(cluster.devices).map_err(|error| misuse(error.to_string()))?;
        let context = self.context.unwrap_or(shape.context);
        let load = self.load(context)?;
        let drafting = self.drafting()?;
        let typical = typical(&load).min(context);
        let service = deployment.service(&shape, &profile, drafting.as_ref(), typical, price).into_diagnostic()?;
        let services = vec![&service; copies];
        let simulated = simulate(&services, &[], &load, self.seed).into_diagnostic()?;
        let answers = Answers::of(&services, &simulated);
        let planned = Planned { service: &service, profile: &profile, copies, typical, answers };
        if self.json { output::json(&planned.json()) } else { planned.print() }
    }

    fn price(&self, profile: &Profile) -> Result<f64> {
        match (self.price, &profile.device.price_per_hour) {
            (Some(price), _) if price.is_finite() && price >= 0.0 => Ok(price),
            (Some(price), _) => Err(misuse(format!("--price {price}: it must be 0 dollars an hour or more"))),
            (None, Some(figure)) => Ok(figure.value),
            (None, None) => Err(misuse(format!("nobody says what `{}` costs: give --price", profile.device.id))),
        }
    }

    fn deployment(&self) -> Deployment {
        Deployment {
            tensor: self.tp,
            pipeline: self.pp,
            expert: self.ep,
            first_layers: self.first_stage_layers,
            kv_split: self.kv_split,
            plane: self.plane,
            overlap: self.overlap,
            weights: self.weights,
            arithmetic: self.arithmetic,
            cache: self.kv_cache,
            step_tokens: self.step_tokens,
            step_sequences: self.step_sequences,
            context: self.context,
        }
    }

    fn drafting(&self) -> Result<Option<Drafting>> {
        let (Some(path), Some(acceptance)) = (&self.draft, self.acceptance) else { return Ok(None) };
        let shape = Shape::of(&subject::decoder(path)?);
        Ok(Some(Drafting { shape, acceptance, most: self.drafted, adaptive: !self.always_draft }))
    }

    fn load(&self, context: u32) -> Result<Load> {
        let lengths = Lengths {
            prompt: self.prompt_tokens,
            output: self.output_tokens,
            spread: self.spread,
            shared: self.shared_tokens,
            most: context,
        };
        if let Pattern::Trace { path } = &self.traffic {
            let text = subject::read(path.as_ref())?;
            return Ok(Load::Open(trace(&text, context).into_diagnostic().wrap_err_with(|| path.clone())?));
        }
        lengths.validate().map_err(|error| misuse(error.to_string()))?;
        let requests = self.requests as usize;
        Ok(match self.traffic {
            Pattern::Poisson { rate } => Load::Open(poisson(rate, requests, &lengths, self.seed)),
            Pattern::Day { peak, trough } => Load::Open(day(peak, trough, 0.0, requests, &lengths, self.seed)),
            Pattern::Users { users: many } => {
                Load::Closed { users: many as usize, requests: users(requests, &lengths, self.seed) }
            }
            Pattern::Trace { .. } => unreachable!("read above"),
        })
    }
}

/// Sequences of a step beyond which nobody asks.
const MOST_BATCH: u64 = 1 << 20;

fn kv_split(text: &str) -> Result<KvSplit, String> {
    match text {
        "heads" => Ok(KvSplit::Heads),
        "batch" => Ok(KvSplit::Batch),
        _ => Err("allowed are heads and batch".into()),
    }
}

/// Mean tokens of a request.
fn typical(load: &Load) -> u32 {
    let (Load::Open(requests) | Load::Closed { requests, .. }) = load;
    let tokens: u64 = requests.iter().map(|r| u64::from(r.prompt) + u64::from(r.output)).sum();
    (tokens / requests.len().max(1) as u64).max(1) as u32
}

/// What is told.
struct Planned<'a> {
    service: &'a Service,
    profile: &'a Profile,
    copies: usize,
    typical: u32,
    answers: Answers,
}

/// The steady state at a batch that answers a question.
struct AtSpeed {
    speed: f64,
    steady: Option<Steady>,
    bound_by: &'static str,
}

impl Planned<'_> {
    /// Decoding alone, by the roofline: how many can be served at each speed.
    fn at_speed(&self) -> Vec<AtSpeed> {
        let (roofline, context) = (&self.service.roofline, f64::from(self.typical));
        let stages = roofline.layout().pipeline as u64;
        let room = self.service.cache_tokens() / u64::from(self.typical) / stages;
        READING_SPEEDS
            .iter()
            .map(|&speed| {
                let batch = batch_at_speed(roofline, speed, context, MOST_BATCH);
                let bound_by = if batch > room {
                    "cache"
                } else if batch == MOST_BATCH {
                    "neither speed nor cache"
                } else {
                    "speed"
                };
                let batch = batch.min(room);
                AtSpeed { speed, steady: (batch > 0).then(|| Steady::of(roofline, batch, context)), bound_by }
            })
            .collect()
    }

    fn json(&self) -> Value {
        let roofline = &self.service.roofline;
        let at_speed = self
            .at_speed()
            .into_iter()
            .map(|at| json!({ "tokens_per_second_each": at.speed, "bound_by": at.bound_by, "steady": at.steady }));
        json!({
            "hardware": self.profile.device.id,
            "devices": self.copies * roofline.layout().devices(),
            "copies": self.copies,
            "cache_tokens": self.service.cache_tokens(),
            "efficiency": self.profile.efficiency,
            "turning_rows": turning_rows(roofline),
            "turning_rows_with_cache": turning_rows_with_cache(roofline, self.typical.into()),
            "decoding": at_speed.collect::<Value>(),
            "simulated": self.answers,
        })
    }

    fn print(&self) -> Result<()> {
        output::line("Assumed")?;
        output::facts(&self.assumed())?;
        output::line(&format!("\nDecoding alone, {} positions each, by the roofline", self.typical))?;
        output::facts(&self.decoding())?;
        output::line(&format!("\nSimulated, {} requests", self.answers.requests))?;
        output::facts(&self.simulated())
    }

    fn assumed(&self) -> Vec<(String, String)> {
        let (roofline, device) = (&self.service.roofline, &self.profile.device);
        let (layout, formats, e) = (roofline.layout(), roofline.formats(), &self.profile.efficiency);
        let stages = layout.stage_layers(roofline.shape().layers.len()).unwrap_or_default();
        let weights = layout.weight_bytes(roofline.shape(), formats.weights).unwrap_or_default();
        let fullest = weights.into_iter().fold(0.0, f64::max);
        let row = |title: &str, text: String| (title.to_owned(), text);
        vec![
            row(
                "Model",
                format!(
                    "{} parameters, {} bytes a token of cache",
                    output::count(roofline.shape().parameters as u64),
                    self.kv_bytes()
                ),
            ),
            row(
                "Devices",
                format!(
                    "{} x {}: {} copies of {} tensor x {} pipeline x {} expert",
                    self.copies * layout.devices(),
                    device.name,
                    self.copies,
                    layout.tensor,
                    layout.pipeline,
                    layout.expert
                ),
            ),
            row(
                "Layers",
                format!(
                    "{} on the first stage, at most {} on the others",
                    stages.first().unwrap_or(&0),
                    stages.iter().max().unwrap_or(&0)
                ),
            ),
            row(
                "Formats",
                format!("weights {}, products {}, cache {}", formats.weights, formats.arithmetic, formats.cache),
            ),
            row(
                "Memory",
                format!(
                    "{:.1} GB of weights on the fullest device of {:.0} GB; {} tokens of cache a copy",
                    fullest / 1e9,
                    device.memory.value / 1e9,
                    output::count(self.service.cache_tokens())
                ),
            ),
            row(
                "Efficiency",
                format!(
                    "{:.0}% of peak ({:.0}% of the 8-bit one), {:.0}% of bandwidth, {:.0}% of peak in attention, {:.0}% of links; {:.1} us a layer, {:.2} ms a step, {:.1} us a collective, {:.0} ms a request",
                    100.0 * e.products,
                    100.0 * e.products_8bit,
                    100.0 * e.bandwidth,
                    100.0 * e.attention,
                    100.0 * e.links,
                    1e6 * e.layer_seconds,
                    1e3 * e.step_seconds,
                    1e6 * e.collective_seconds,
                    1e3 * e.request_seconds
                ),
            ),
            row("Price", format!("${:.2} an hour for all devices", self.answers.dollars.per_hour)),
        ]
    }

    fn kv_bytes(&self) -> u64 {
        let roofline = &self.service.roofline;
        let elements: f64 = roofline.shape().layers.iter().map(|layer| layer.kv).sum();
        (elements * roofline.formats().cache.bytes()) as u64
    }

    fn decoding(&self) -> Vec<(String, String)> {
        let roofline = &self.service.roofline;
        let mut rows: Vec<(String, String)> = Vec::new();
        for at in self.at_speed() {
            let text = match at.steady {
                None => "nobody: a single sequence is slower".to_owned(),
                Some(s) => format!(
                    "{} users ({} a step, bound by {}): {:.0} tokens/s, ${} per 1k, {:.1}% of bandwidth, {:.1}% of peak",
                    s.users * self.copies as u64,
                    s.batch,
                    at.bound_by,
                    s.tokens_per_second * self.copies as f64,
                    dollars(self.answers.dollars.per_hour / 3.6 / (s.tokens_per_second * self.copies as f64)),
                    100.0 * s.bandwidth_share,
                    100.0 * s.flops_share
                ),
            };
            rows.push((format!("At {} tokens/s each", at.speed), text));
        }
        let turning = |rows: Option<u64>| {
            rows.map_or_else(|| "never".to_owned(), |rows| format!("from {rows} rows of a step on"))
        };
        rows.push(("Matrices compute-bound".into(), turning(turning_rows(roofline))));
        let whole = turning_rows_with_cache(roofline, self.typical.into());
        rows.push(("The whole step".into(), turning(whole)));
        rows
    }

    fn simulated(&self) -> Vec<(String, String)> {
        let a = &self.answers;
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let [matrices, attention, communication, fixed, draft] = a.time.map(percent);
        let mut rows: Vec<(String, String)> = Vec::new();
        let mut add = |title: &str, text: String| rows.push((title.to_owned(), text));
        add("Time simulated", format!("{:.1} s", a.seconds));
        add("Time to first token", spread(&a.ttft));
        add("Time between tokens", spread(&a.itl));
        add("Whole answer", spread(&a.whole));
        add(
            "Tokens",
            format!(
                "{:.0} of prompts and {:.0} generated per second",
                a.prompt_tokens_per_second, a.output_tokens_per_second
            ),
        );
        for reader in &a.readers {
            let share = reader.share.map_or_else(|| "-".to_owned(), percent);
            add(
                &format!("Users at {} tokens/s", reader.tokens_per_second),
                format!("{:.1} at a time, {share} of those answered", reader.users),
            );
        }
        add(
            "Used",
            format!(
                "stages busy {}, {} of peak, {} of bandwidth",
                percent(a.busy),
                percent(a.flops_share),
                percent(a.bandwidth_share)
            ),
        );
        add(
            "Step",
            format!(
                "{:.1} sequences; matrices {matrices}, attention {attention}, communication {communication}, fixed {fixed}, draft {draft}",
                a.mean_batch
            ),
        );
        let accepted = a.accepted.map_or_else(String::new, |share| format!(", {} of drafts accepted", percent(share)));
        add(
            "Cache",
            format!(
                "{} at most, {} of prompts found, {} preemptions{accepted}",
                percent(a.cache_peak),
                percent(a.prefix_hits),
                a.preemptions
            ),
        );
        let money = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("${}", dollars(value)));
        add("Input", format!("{} per 1k tokens", money(a.dollars.per_1k_prompt)));
        add(
            "Output",
            format!(
                "{} per 1k tokens, {} if only busy time were paid",
                money(a.dollars.per_1k_output),
                money(a.dollars.per_1k_output_busy)
            ),
        );
        rows
    }
}

/// Small amounts with three digits that count.
pub fn dollars(amount: f64) -> String {
    if amount.abs() < 1e-12 {
        // Also what is left of sums that cancel, and of minus zero.
        return "0.00".into();
    }
    if !(0.0..1.0).contains(&amount) {
        return format!("{amount:.2}");
    }
    let digits = (2.0 - amount.log10().floor()).clamp(2.0, 12.0) as usize;
    format!("{amount:.digits$}")
}

/// A distribution in one line.
pub fn spread(spread: &Spread) -> String {
    let seconds = |value: Option<f64>| match value {
        None => "-".to_owned(),
        Some(value) if value < 1.0 => format!("{:.1} ms", value * 1e3),
        Some(value) => format!("{value:.2} s"),
    };
    format!(
        "{} mean, {} median, {} p95, {} p99",
        seconds(spread.mean),
        seconds(spread.p50),
        seconds(spread.p95),
        seconds(spread.p99)
    )
}

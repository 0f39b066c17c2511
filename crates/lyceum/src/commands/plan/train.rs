//! `lyceum plan train`: memory, time and money of a training run.

use super::{columns, figure, subject};
use crate::failure::misuse;
use crate::output;
use clap::Args;
use miette::{IntoDiagnostic, Result, WrapErr};
use plan::train::search::{Difference, why};
use plan::train::{Candidate, Plan, Request, Storage, chart, plan, search};
use plan::{Catalogue, Job, Layout};
use serde_json::{Value, json};
use spec::recipe::Recipe;
use std::path::{Path, PathBuf};

/// Say what a training run needs and costs: memory, step time, days, dollars
///
/// The layout is the recipe's (its section hardware.layout); where it has none, the fastest that fits. Which figures are measured, which are from data sheets and which are
/// assumed: docs/planning.md.
#[derive(Args)]
#[command(after_help = "Examples:\n  lyceum plan train recipes/gpt4.toml --hardware a100-40g:25000 --price 1.00\n  \
                        lyceum plan train recipes/gpt4.toml --hardware h100:8192 --search --why")]
pub struct Train {
    /// The recipe, a TOML file
    recipe: PathBuf,

    /// The devices, an id of the catalogue or a profile's .toml, and how many: h100:8192, say; the recipe's if not given
    #[arg(long, value_name = "DEVICE:COUNT")]
    hardware: Option<String>,

    /// Dollars for an hour of one device; what the catalogue says if not given
    #[arg(long, value_name = "PER_HOUR", allow_negative_numbers = true)]
    price: Option<f64>,

    /// Put another value in place of the recipe's: section.key=value
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Bytes per second that all devices together write checkpoints with
    #[arg(long, value_name = "BYTES", default_value_t = 2e12, allow_negative_numbers = true)]
    storage_bandwidth: f64,

    /// Seconds from a failure until training goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, allow_negative_numbers = true)]
    restart: f64,

    /// Rank the layouts that fit, and plan with the fastest
    #[arg(long)]
    search: bool,

    /// Say why the fastest layout is faster than the second
    #[arg(long, requires = "search")]
    why: bool,

    /// How many layouts --search shows
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,

    /// Write waterfall.svg and timeline.svg into this folder
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Train {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let recipe = super::recipe(&self.recipe, &self.set)?;
        let job = Job::new(&recipe).into_diagnostic().wrap_err_with(|| self.recipe.display().to_string())?;
        let request = self.request(&recipe)?;
        request.validate().map_err(|error| misuse(error.to_string()))?;
        let found = match (self.search, &recipe.hardware.layout) {
            (false, Some(_)) => Vec::new(),
            _ => search(&job, &request, &recipe.train.batch).into_diagnostic()?,
        };
        let layout = match found.first() {
            Some(best) => best.layout,
            None => {
                let (train, layout) = (&recipe.train, recipe.hardware.layout.unwrap_or_default());
                Layout::new(&job, &request.cluster, layout, train.micro_batch, train.recompute).into_diagnostic()?
            }
        };
        let plan = plan(&recipe, &job, &layout, &request).into_diagnostic()?;
        let reasons = match found.as_slice() {
            [best, second, ..] if self.why => why(best, second),
            _ => Vec::new(),
        };
        if let Some(folder) = &self.svg {
            draw(folder, &plan)?;
        }
        let shown = &found[..found.len().min(self.top)];
        if self.json {
            let ranked: Value = if self.search { shown.iter().map(candidate_json).collect() } else { Value::Null };
            return output::json(&json!({
                "hardware": request.cluster.accelerator.id, "plan": plan, "search": ranked, "why": reasons,
                "efficiency": request.efficiency,
            }));
        }
        if self.search {
            output::print(&ranking(shown, found.len()))?;
        }
        if let [best, second, ..] = found.as_slice() {
            output::print(&explanation(best, second, &reasons))?;
        }
        output::print(&text(&plan, &request))
    }

    fn request(&self, recipe: &Recipe) -> Result<Request> {
        let named = match (&self.hardware, &recipe.hardware.accelerator, recipe.hardware.devices) {
            (Some(text), _, _) => text.clone(),
            (None, Some(id), Some(devices)) => format!("{id}:{devices}"),
            (None, Some(id), None) => id.clone(),
            (None, None, _) => {
                let catalogue = Catalogue::embedded().into_diagnostic()?;
                let known: Vec<_> = catalogue.iter().map(|device| device.id.as_str()).collect();
                let known = known.join(", ");
                return Err(misuse(format!(
                    "the recipe names no hardware: give --hardware DEVICE:COUNT; known are {known}"
                )));
            }
        };
        let (profile, cluster) = subject::hardware(&named)?;
        let storage = Storage { bandwidth: self.storage_bandwidth, restart: self.restart, ..Storage::default() };
        Ok(Request { cluster, price: self.price, efficiency: profile.efficiency.training, storage })
    }
}

fn draw(folder: &Path, plan: &Plan) -> Result<()> {
    if let Some(stage) = plan.stages.last() {
        super::draw(folder, "waterfall.svg", &chart::waterfall(&stage.step, plan.failures.goodput))?;
    }
    super::draw(folder, "timeline.svg", &chart::timeline(&plan.timeline))
}

fn candidate_json(candidate: &Candidate) -> Value {
    json!({ "layout": candidate.layout.to_string(), "memory": candidate.memory, "step": candidate.step })
}

fn gigabytes(bytes: f64) -> String {
    format!("{:.1} GB", bytes / 1e9)
}

fn ranking(shown: &[Candidate], all: usize) -> String {
    let title = ["step", "MFU", "memory", "layout"].map(str::to_owned).to_vec();
    let line = |candidate: &Candidate| {
        let (step, memory) = (&candidate.step, gigabytes(candidate.memory.total()));
        let mfu = format!("{:.1}%", 100.0 * step.mfu());
        vec![format!("{:.2} s", step.seconds), mfu, memory, candidate.layout.to_string()]
    };
    let rows: Vec<_> = std::iter::once(title).chain(shown.iter().map(line)).collect();
    format!("{all} layouts fit; the fastest:\n{}\n", columns(&rows, &[0, 1, 2]))
}

fn explanation(best: &Candidate, second: &Candidate, reasons: &[Difference]) -> String {
    if reasons.is_empty() {
        return String::new();
    }
    let line = |reason: &Difference| {
        let saved = reason.other - reason.better;
        vec![
            format!("  {}", reason.part),
            format!("{:.2} s", reason.better),
            format!("{:.2} s", reason.other),
            format!("{saved:+.2} s"),
        ]
    };
    let title = ["  part", "best", "second", "saved"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(title).chain(reasons.iter().map(line)).collect();
    let table = columns(&rows, &[1, 2, 3]);
    let saved = second.step.seconds - best.step.seconds;
    format!(
        "Why {}\nrather than {}: {saved:.2} s of {:.2} s a step\n{table}\n",
        best.layout, second.layout, second.step.seconds
    )
}

fn text(plan: &Plan, request: &Request) -> String {
    let device = &request.cluster.accelerator;
    let memory = &plan.memory;
    let mut facts = vec![
        ("Hardware".to_owned(), format!("{} {}, of which {} work", plan.paid, device.name, plan.devices)),
        ("Layout".to_owned(), plan.layout.clone()),
        (
            "Memory".to_owned(),
            format!(
                "{} of {}: weights {}, gradients {}, optimiser {}, activations {}, buffers {}",
                gigabytes(memory.total()),
                gigabytes(plan.memory_limit),
                gigabytes(memory.weights),
                gigabytes(memory.gradients),
                gigabytes(memory.optimiser),
                gigabytes(memory.activations),
                gigabytes(memory.buffers)
            ),
        ),
    ];
    facts.extend(plan.data.sources.iter().map(|source| {
        let tokens = source
            .tokens
            .map_or_else(|| "as many tokens as its shards have".to_owned(), |t| format!("{} tokens", figure(t)));
        let epochs = source.epochs.map_or_else(String::new, |epochs| format!(", at most {epochs} epochs"));
        let unique =
            source.unique.map_or_else(String::new, |unique| format!(": at least {} of its own", figure(unique)));
        ("Source".to_owned(), format!("{}: {tokens}{epochs}{unique}", source.name))
    }));
    let data = &plan.data;
    facts.push((
        "Loader".to_owned(),
        format!(
            "{} tokens/s: {}/s as text, {}/s as images",
            figure(data.rate),
            output::bytes(data.loader[0] as u64),
            output::bytes(data.loader[1] as u64)
        ),
    ));
    facts.push((
        "Chinchilla".to_owned(),
        format!(
            "{:.1} tokens per parameter and {:.1} per active one; 20 would be {} and {} tokens",
            data.per_parameter[0],
            data.per_parameter[1],
            figure(data.chinchilla[0]),
            figure(data.chinchilla[1])
        ),
    ));
    let width = facts.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
    let facts: String = facts.iter().map(|(title, text)| format!("{title:width$}  {text}\n")).collect();
    format!("{facts}\n{}\n{}\n{}", ramp(plan), waterfall(plan), money(plan))
}

fn ramp(plan: &Plan) -> String {
    let title = ["from token", "batch", "steps", "micro-batches", "step", "MFU", "bubble"].map(str::to_owned).to_vec();
    let line = |stage: &plan::train::Stage| {
        let step = &stage.step;
        vec![
            figure(stage.from as f64),
            figure(stage.batch as f64),
            stage.steps.to_string(),
            step.micro_batches.to_string(),
            format!("{:.2} s", step.seconds),
            format!("{:.1}%", 100.0 * step.mfu()),
            format!("{:.1}%", 100.0 * step.bubble / step.seconds),
        ]
    };
    let rows: Vec<_> = std::iter::once(title).chain(plan.stages.iter().map(line)).collect();
    columns(&rows, &[0, 1, 2, 3, 4, 5, 6])
}

/// A step of the last batch, part by part.
fn waterfall(plan: &Plan) -> String {
    let Some(step) = plan.stages.last().map(|stage| &stage.step) else { return String::new() };
    let whole = step.seconds / plan.failures.goodput;
    let line = |(name, seconds): (&str, f64)| {
        vec![format!("  {name}"), format!("{seconds:.2} s"), format!("{:.1}%", 100.0 * seconds / whole)]
    };
    let parts = step.parts().into_iter().chain([("failures", whole - step.seconds)]);
    let rows: Vec<_> = parts.map(line).collect();
    format!("A step of the last batch, {whole:.2} s with its share of failures:\n{}", columns(&rows, &[1, 2]))
}

fn money(plan: &Plan) -> String {
    let failures = &plan.failures;
    let lost = if failures.between.is_finite() {
        format!(
            "one every {:.2} h; {} saved every {:.1} min in {:.1} s; goodput {:.1}%",
            failures.between / 3600.0,
            output::bytes(failures.bytes as u64),
            failures.interval / 60.0,
            failures.checkpoint,
            100.0 * failures.goodput
        )
    } else {
        "none assumed: the catalogue has no rate for this device".to_owned()
    };
    let mfu =
        format!("{:.1}% before failures, {:.1}% with them", 100.0 * plan.mfu, 100.0 * plan.mfu * failures.goodput);
    let cost = match (plan.price, plan.dollars) {
        (Some(price), Some(dollars)) => format!("${} at ${price} for a device-hour", figure(dollars)),
        _ => "unknown: the catalogue has no price for this device; give --price".to_owned(),
    };
    let rows = [("Failures", lost), ("MFU", mfu), ("Days", format!("{:.1}", plan.days)), ("Cost", cost)];
    rows.iter().map(|(title, text)| format!("{title:8}  {text}\n")).collect()
}

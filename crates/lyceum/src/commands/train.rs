//! `lyceum train`: a recipe becomes a model.

use crate::failure::{End, misuse};
use crate::options::threads;
use crate::output;
use crate::progress::Bars;
use clap::Args;
use data::{corpus, paths};
use indicatif::{ProgressBar, ProgressStyle};
use miette::{Context, IntoDiagnostic, Result};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use spec::recipe::{Recipe, RecipeError, stages};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use train::report::Report;
use train::{Options, Outcome, Progress, Watcher};

/// Train a model as a recipe says
///
/// A recipe with [[stages]] is run one stage after the other, each in RUN/NAME, from the model that the one before exported; RUN/model is the last one's.
///
/// Goes on by itself if the run's folder holds a checkpoint. SIGTERM and SIGINT (Ctrl-C) save after the current step and leave; a second one
/// leaves at once. Exit status 3: too many steps in a row could not be trusted; the last good checkpoint is named, and the run goes on from there.
///
/// --report writes RUN/report.html, one page that opens in a browser without a network: losses, norms, schedules, the load of every expert, speed, and
/// where the time and the money went. The run may go on meanwhile.
#[derive(Args)]
#[command(after_help = "Examples:\n  lyceum train recipes/quickstart.toml --set train.lr=1e-3 --run runs/first\n  \
        lyceum train --report runs/first --price 1.00")]
pub struct Train {
    /// The recipe, a TOML file
    #[arg(required_unless_present = "report")]
    recipe: Option<PathBuf>,

    /// Write the page of this run's folder instead of training
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "set", "run", "threads"])]
    report: Option<PathBuf>,

    /// What an hour of the machine costs, in any currency, for the report
    #[arg(long, value_name = "PER_HOUR", value_parser = price, allow_negative_numbers = true)]
    price: Option<f64>,

    /// Put another value in place of the recipe's: section.key=value, or stages.NAME.section.key=value
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Folder of the run: log, checkpoints, model; runs/NAME with the recipe's name if not given
    #[arg(long, value_name = "FOLDER")]
    run: Option<PathBuf>,

    /// Threads, where the recipe does not say; all that the machine runs at once if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

impl Train {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if self.price.is_some() && self.report.is_none() {
            return Err(misuse("--price is for the report: give --report with the folder of a run"));
        }
        let path = match (&self.report, &self.recipe) {
            (Some(run), _) => return self.report(run),
            (None, Some(recipe)) => recipe,
            (None, None) => return Err(misuse("give a recipe, or --report with the folder of a run")),
        };
        let text = std::fs::read_to_string(path).into_diagnostic();
        let text = text.wrap_err_with(|| format!("cannot read {}", path.display()))?;
        let stages = match stages::parse(&text, &self.set) {
            Err(error @ RecipeError::Setting { .. }) => return Err(misuse(error.to_string())),
            parsed => parsed.into_diagnostic().wrap_err_with(|| path.display().to_string())?,
        };
        let named = Path::new("runs").join(path.file_stem().unwrap_or(path.as_os_str()));
        let base = path.parent().unwrap_or(Path::new("."));
        for stage in &stages {
            make_corpus(&stage.recipe, base)?;
        }
        let stop = stop_on_signals()?;
        let options =
            Options { base, run: self.run.as_deref().unwrap_or(&named), threads: threads(self.threads), stop: &stop };
        let outcome = train::train_stages(&stages, &options, &mut Screen::new()).into_diagnostic()?;
        self.tell(&outcome, options.run)
    }

    /// Writes the page of a run.
    fn report(&self, run: &Path) -> Result<()> {
        let price = self.price.unwrap_or(0.0);
        let Some(names) = train::stages::listed(run).into_diagnostic()? else {
            let (report, page) = train::report::write(run, price).into_diagnostic()?;
            return if self.json {
                output::json(&self.figures(&report, &page))
            } else {
                output::line(&goodput(&report, &page))
            };
        };
        let (stages, index) = train::report::write_stages(run, &names, price).into_diagnostic()?;
        if !self.json {
            let mut begun = stages.iter().filter_map(|(_, page)| page.as_ref());
            begun.try_for_each(|(report, page)| output::line(&goodput(report, page)))?;
            return output::line(&format!("{}: all of them", index.display()));
        }
        let figures = |page: &Option<(Report, PathBuf)>| page.as_ref().map(|(report, page)| self.figures(report, page));
        let stages: serde_json::Map<_, _> =
            stages.iter().map(|(name, page)| (name.clone(), json!(figures(page)))).collect();
        output::json(&json!({ "report": index, "stages": stages }))
    }

    fn figures(&self, report: &Report, page: &Path) -> Value {
        let parts = report.timing.parts();
        json!({
            "report": page,
            "step": report.log.step,
            "tokens": report.log.tokens,
            "goodput": parts.goodput(),
            "seconds": parts,
            "seconds_in_all": parts.whole(),
            "money": self.price.map(|price| parts.whole() / 3600.0 * price),
            "replayed_steps": report.timing.replayed_steps(),
            "tokens_per_second": report.timing.average().map(|(rate, _)| rate),
            "mfu": report.timing.average().map(|(_, mfu)| mfu),
        })
    }

    fn tell(&self, outcome: &Outcome, run: &Path) -> Result<()> {
        let (end, step, text) = match outcome {
            Outcome::Finished { step, model } => {
                ("finished", step, format!("finished after {step} steps: the model is {}", model.display()))
            }
            Outcome::Interrupted { step: 0 } => ("interrupted", &0, "stopped before the first step".to_owned()),
            Outcome::Interrupted { step } => {
                let text = format!("stopped after step {step}, saved in {}: the same command goes on", run.display());
                ("interrupted", step, text)
            }
            Outcome::Diverged { step, skipped, reason, checkpoint } => {
                let kept = match checkpoint {
                    Some(path) => format!("the run goes on from {}", path.display()),
                    None => "there is no good checkpoint yet, the run begins anew".to_owned(),
                };
                let text = format!(
                    "stopped after step {step}: {skipped} steps in a row could not be trusted (the last: {reason}); {kept}. \
                     A lower train.lr, a longer train.warmup_tokens or a lower train.clip may help"
                );
                return Err(End::Diverged(text).into());
            }
        };
        match self.json {
            true => output::json(&json!({ "end": end, "step": step, "run": run })),
            false => output::line(&text),
        }
    }
}

/// The page of a run, in a line.
fn goodput(report: &Report, page: &Path) -> String {
    let parts = report.timing.parts();
    let (goodput, hours) = (100.0 * parts.goodput(), parts.whole() / 3600.0);
    format!("{}: goodput {goodput:.1}% of {hours:.2} hours", page.display())
}

/// Makes the recipe's corpus, if it has one and this is the first time.
fn make_corpus(recipe: &Recipe, base: &Path) -> Result<()> {
    let Some(corpus) = &recipe.data.corpus else { return Ok(()) };
    let bars = Bars::default();
    let watch = |step, done, total| bars.set(step, done, total);
    let tokenizer = recipe.model.tokenizer_path().map(Path::new);
    let made = corpus::make(corpus, base, tokenizer, &watch).into_diagnostic()?;
    drop(bars);
    if made {
        let folder = paths::join(base, &corpus.folder);
        let inspect = if corpus.has_texts() { "lyceum data inspect {0}/collection and " } else { "" };
        let text = format!("the corpus is made: {inspect}lyceum data stats {{0}}/shards tells of it");
        output::note(&text.replace("{0}", &folder.display().to_string()));
    }
    Ok(())
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    price.ok_or_else(|| "it must be a number, 0 or above".into())
}

/// True once the program was asked to end; the second time it ends at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag false and sets it.
        let registered = flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)));
        registered.into_diagnostic().wrap_err("cannot listen to signals")?;
    }
    Ok(stop)
}

/// A line that is written again and again, where standard error is a terminal; notes stay.
struct Screen(ProgressBar);

impl Screen {
    fn new() -> Self {
        if !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl Watcher for Screen {
    fn note(&mut self, text: &str) {
        self.0.suspend(|| output::note(text));
    }

    fn progress(&mut self, progress: &Progress) {
        self.0.set_length(progress.of_tokens);
        self.0.set_position(progress.tokens);
        let loss = progress.loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
        let left = indicatif::HumanDuration(Duration::from_secs_f64(progress.seconds_left.clamp(0.0, 1e12)));
        self.0.set_message(format!(
            "step {}, loss {loss}, {} tokens, {:.0} tokens/s, MFU {:.1}%, {left} left",
            progress.step,
            output::count(progress.tokens),
            progress.tokens_per_second,
            100.0 * progress.mfu,
        ));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

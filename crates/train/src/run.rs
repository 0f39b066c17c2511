//! A run: step after step, from a recipe or a checkpoint to a model.

use crate::checkpoint::{Checkpoints, Contents, State, read_optimiser, read_tensors};
use crate::log::{LayerEntry, Lines, StepEntry, by_source, now};
use crate::report::time::Machine;
use crate::setup::Setup;
use crate::statistics::Running;
use crate::step::{self, Mean, Measured, Rows};
use crate::{Optimiser, TrainError, files, resume, stages};
use data::Sample;
use model::files::{Weights, write_safetensors};
use model::{Checkpoint, Decoder};
use serde_json::{Map, Value, json};
use spec::recipe::{Export, Recipe};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tensor::buffer::Recycling;
use tensor::{Device, machine};

/// A loss that varies less than this part of its mean is steady.
const STEADY_LOSS: f64 = 0.01;
/// The same for the gradient's norm, which varies more.
const STEADY_NORM: f64 = 0.1;
/// Seconds between checkpoints where the recipe does not say.
const CHECKPOINT_SECONDS: f64 = 600.0;

/// The recipe that has led to `RUN/model`: there once that is whole.
const FINISHED: &str = "finished.toml";

/// Where and with what a recipe is run.
pub struct Options<'a> {
    /// What the recipe's paths are relative to.
    pub base: &'a Path,
    /// The folder of the run: log, checkpoints, model. If it holds a checkpoint, the run goes on from there.
    pub run: &'a Path,
    /// Threads, if it is not the recipe that says.
    pub threads: usize,
    /// Once true, the run is saved and left after the current step.
    pub stop: &'a AtomicBool,
}

/// Who looks on.
pub trait Watcher {
    /// Something happened that a person should know.
    fn note(&mut self, text: &str);
    /// A step was done.
    fn progress(&mut self, progress: &Progress);
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens of the whole run.
    pub of_tokens: u64,
    /// The last batch's loss.
    pub loss: Option<f64>,
    /// Of late.
    pub tokens_per_second: f64,
    /// Share of the machine's peak that the model's arithmetic alone comes to.
    pub mfu: f64,
    /// About how long it takes from here.
    pub seconds_left: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All tokens were seen.
    Finished {
        /// Steps in all.
        step: u64,
        /// The model.
        model: PathBuf,
    },
    /// It was asked to stop, and saved.
    Interrupted {
        /// Steps done.
        step: u64,
    },
    /// Too many steps in a row had to be skipped.
    Diverged {
        /// The last of them.
        step: u64,
        /// How many.
        skipped: u64,
        /// The last one's reason.
        reason: String,
        /// The last checkpoint whose weights could be trusted, if there is one: what the run goes on from.
        checkpoint: Option<PathBuf>,
    },
}

/// Runs a recipe to its end, or until it is told to stop.
///
/// # Errors
/// What cannot be followed, read or written; nothing is spent before everything was checked.
pub fn train(recipe: &Recipe, options: &Options<'_>, watcher: &mut dyn Watcher) -> Result<Outcome, TrainError> {
    match stages::listed(options.run)? {
        None => train_from(recipe, None, options, watcher),
        Some(was) => {
            let (was, is) = (was.join(", "), "no stages".to_owned());
            Err(TrainError::OtherStages { run: options.run.to_owned(), was, is })
        }
    }
}

/// The same, where it must be known which model the recipe goes on from: by the checksum `begun_from`.
pub(crate) fn train_from(
    recipe: &Recipe,
    begun_from: Option<String>,
    options: &Options<'_>,
    watcher: &mut dyn Watcher,
) -> Result<Outcome, TrainError> {
    let begun = Instant::now();
    let _recycling = Recycling::start();
    let mut setup = Setup::new(recipe, options.base)?;
    setup.begun_from = begun_from;
    let _held = lock(options.run)?;
    let mut trainer = Trainer::new(setup, options, watcher)?;
    trainer.started(begun.elapsed())?;
    trainer.run()
}

/// Keeps others out for as long as the file lives.
pub(crate) fn lock(run: &Path) -> Result<File, TrainError> {
    fs::create_dir_all(run).map_err(TrainError::io("create", run))?;
    let path = run.join("lock");
    let file = File::create(&path).map_err(TrainError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TrainError::InUse { run: run.to_owned() }),
        Err(TryLockError::Error(error)) => Err(TrainError::io("lock", &path)(error)),
    }
}

struct Trainer<'a> {
    setup: Setup,
    options: &'a Options<'a>,
    watcher: &'a mut dyn Watcher,
    device: Device,
    decoder: Decoder,
    gradients: Decoder,
    optimiser: Optimiser,
    state: State,
    checkpoints: Checkpoints,
    log: Lines,
    timing: Lines,
    /// To be written while the next step computes: weights and moments stay as they are until its update.
    pending: Option<State>,
    saved: Option<u64>,
    /// Whether a checkpoint was written of which the older ones have not made room yet.
    to_prune: bool,
    last_save: Instant,
    peak_gflops: f64,
    /// Of late; 0 before the first step.
    seconds_per_token: f64,
}

impl<'a> Trainer<'a> {
    fn new(setup: Setup, options: &'a Options<'a>, watcher: &'a mut dyn Watcher) -> Result<Self, TrainError> {
        let mut device = Device::new(setup.recipe.hardware.threads.unwrap_or(options.threads));
        let checkpoints = Checkpoints::open(options.run)?;
        let found = checkpoints.newest(&mut |text| watcher.note(text))?;
        let saved = found.as_ref().map(|(state, _)| state.step);
        let context = setup.recipe.data.context;
        let (state, decoder, optimiser) = match found {
            Some((mut state, path)) => {
                resume::check(&state, &setup, &path)?.iter().for_each(|change| watcher.note(change));
                let decoder = read_tensors(&path, &mut device, context)?;
                let mut optimiser = Optimiser::new(&setup.optimiser(), &decoder);
                read_optimiser(&path, &mut device, context, &state, &mut optimiser)?;
                watcher.note(&format!("going on from {}", path.display()));
                state.recipe = setup.recipe.clone();
                (state, decoder, optimiser)
            }
            None => {
                let decoder = setup.first_decoder(&mut device)?;
                let optimiser = Optimiser::new(&setup.optimiser(), &decoder);
                (first_state(&setup), decoder, optimiser)
            }
        };
        if setup.config.has_choice_bias() {
            let (family, ours) = (setup.config.family.architecture(), setup.config.architecture());
            watcher.note(&format!(
                "the routers have a bias on the choice of experts, for which {family} has no place: checkpoints and model are of the layout \
                 {ours}, which other programs refuse"
            ));
        }
        write_recipe(&setup.recipe, &options.run.join("recipe.toml"))?;
        Ok(Self {
            log: Lines::resume(&options.run.join("log.jsonl"), state.log_bytes)?,
            timing: Lines::append(&options.run.join("timing.jsonl"))?,
            peak_gflops: setup.recipe.hardware.peak_gflops.unwrap_or_else(|| machine::fma_gflops(&mut device)),
            gradients: decoder.zeros_like(),
            pending: None,
            to_prune: saved.is_some(),
            last_save: Instant::now(),
            seconds_per_token: 0.0,
            setup,
            options,
            watcher,
            device,
            decoder,
            optimiser,
            state,
            checkpoints,
            saved,
        })
    }

    fn run(mut self) -> Result<Outcome, TrainError> {
        while self.state.tokens < self.setup.schedules.tokens() {
            if self.options.stop.load(Ordering::Relaxed) {
                return self.interrupt();
            }
            let begun = Instant::now();
            let samples = self.samples()?;
            let (measured, stalled) = self.measure(&samples)?;
            let skipped = self.update(samples.len(), &measured)?;
            self.report(samples.len(), &measured, begun.elapsed(), stalled)?;
            match skipped {
                Some(reason) if self.state.skipped >= self.setup.recipe.train.max_skips => return self.diverge(reason),
                Some(_) => {}
                // The weights have shown that they can be trusted.
                None => self.prune()?,
            }
            self.evaluate()?;
            self.plan_save()?;
        }
        self.finish()
    }

    /// The first line of timings of this program: what runs, and on what.
    fn started(&mut self, took: Duration) -> Result<(), TrainError> {
        let count = self.setup.config.count_parameters();
        let machine = Machine {
            parameters: count.total,
            active_parameters: count.active,
            flops_per_token: self.setup.flops_per_token(),
            peak_gflops: self.peak_gflops,
            threads: self.setup.recipe.hardware.threads.unwrap_or(self.options.threads),
        };
        let (step, seconds) = (self.state.step, took.as_secs_f64());
        self.time(json!({ "event": "start", "step": step, "seconds": seconds, "machine": machine }))
    }

    /// The samples of the next step.
    fn samples(&self) -> Result<Vec<Sample>, TrainError> {
        let first = self.state.samples;
        let count = self.setup.schedules.batch(self.state.tokens);
        Ok((first..first + count).map(|index| self.setup.mixture.sample(index)).collect::<Result<_, _>>()?)
    }

    /// Forward and backward, while a checkpoint that is due is written; also how long it then had to be waited for.
    fn measure(&mut self, samples: &[Sample]) -> Result<(Measured, Duration), TrainError> {
        let pending = self.pending.take();
        let Self { setup, checkpoints, device, decoder, gradients, optimiser, .. } = self;
        let contents = contents(setup, decoder, optimiser);
        let (sources, micro_batch) = (setup.mixture.names().len(), setup.recipe.train.micro_batch);
        let objective = setup.objective();
        let (measured, written, stalled) = thread::scope(|scope| {
            let writer = pending.as_ref().map(|state| {
                scope.spawn(|| {
                    let begun = Instant::now();
                    (checkpoints.write(&contents, state), begun.elapsed())
                })
            });
            let measured = step::measure(decoder, device, samples, sources, micro_batch, &objective, gradients);
            let waiting = Instant::now();
            let written = writer.map(|writer| writer.join().unwrap_or_else(|panic| resume_unwind(panic)));
            (measured, written, waiting.elapsed())
        });
        match (pending, written) {
            (Some(state), Some((Ok(()), took))) => self.saved(&state, took, true)?,
            (Some(state), Some((Err(error), _))) => {
                let kept =
                    self.saved.map_or("there is none before it".into(), |step| format!("that of step {step} stays"));
                let step = state.step;
                self.watcher.note(&format!("the checkpoint of step {step} could not be written ({error}); {kept}"));
            }
            _ => {}
        }
        Ok((measured, stalled))
    }

    /// Changes the weights, unless the numbers are not to be trusted: then the reason.
    fn update(&mut self, samples: usize, measured: &Measured) -> Result<Option<String>, TrainError> {
        let tokens = (samples * self.setup.recipe.data.context) as u64;
        self.state.step += 1;
        self.state.samples += samples as u64;
        self.state.tokens += tokens;
        let norm = Optimiser::gradient_norm(&mut self.device, &mut self.gradients);
        let lr = self.setup.schedules.lr(self.state.tokens);
        let loss = measured.loss.get();
        let skipped = self.distrust(loss, norm);
        match (&skipped, loss) {
            (None, Some(loss)) => {
                let Self { setup, optimiser, device, decoder, gradients, state, .. } = self;
                optimiser.step(device, decoder, gradients, norm, lr as f32);
                if let Some(rate) = setup.recipe.train.bias_rate {
                    decoder.balance_choices(measured.layers.iter().map(|layer| &*layer.choices), rate as f32);
                }
                state.loss.push(loss);
                state.gradient_norm.push(norm);
                state.updates = optimiser.steps();
                (state.trusted, state.skipped) = (state.step, 0);
            }
            (reason, _) => {
                self.gradients.tensors_mut().iter_mut().for_each(|(_, tensor)| tensor.values_mut().fill(0.0));
                // Nothing to learn from is no sign of trouble.
                self.state.skipped += u64::from(loss.is_some());
                let reason = reason.as_deref().unwrap_or_default();
                self.watcher.note(&format!("step {} changes nothing: {reason}", self.state.step));
            }
        }
        self.log.push(&StepEntry {
            step: self.state.step,
            tokens: self.state.tokens,
            batch: tokens,
            targets: measured.targets,
            loss,
            sources: by_source(self.setup.mixture.names(), measured),
            balance: measured.balance,
            z: measured.z,
            gradient_norm: norm,
            lr,
            dropped: measured.layers.iter().map(|layer| layer.dropped).sum(),
            layers: measured.layers.iter().map(LayerEntry::new).collect(),
            skipped: skipped.as_deref(),
        })?;
        Ok(skipped)
    }

    /// Why a step's numbers cannot be trusted, if they cannot.
    fn distrust(&self, loss: Option<f64>, norm: f64) -> Option<String> {
        let sigma = self.setup.recipe.train.spike_sigma;
        let spike = |what: &str, value: f64, running: &Running, least| {
            let mean = running.mean();
            let is_spike = running.is_spike(value, sigma, least);
            is_spike.then(|| format!("its {what} of {value:.4} is more than {sigma} sigma above the mean of {mean:.4}"))
        };
        match loss {
            None => Some("its batch has no targets".into()),
            Some(loss) if !loss.is_finite() => Some(format!("its loss is {loss}")),
            Some(_) if !norm.is_finite() => Some(format!("its gradient's norm is {norm}")),
            Some(loss) => spike("loss", loss, &self.state.loss, STEADY_LOSS)
                .or_else(|| spike("gradient norm", norm, &self.state.gradient_norm, STEADY_NORM)),
        }
    }

    /// Tells what a clock says: into the file of timings, and to whoever looks on.
    fn report(
        &mut self,
        samples: usize,
        measured: &Measured,
        took: Duration,
        stalled: Duration,
    ) -> Result<(), TrainError> {
        let tokens = (samples * self.setup.recipe.data.context) as f64;
        let seconds = took.as_secs_f64();
        let mfu = |seconds_per_token: f64| self.setup.flops_per_token() / (seconds_per_token * self.peak_gflops * 1e9);
        let entry = json!({
            "step": self.state.step,
            "seconds": seconds,
            "stalled": stalled.as_secs_f64(),
            "tokens_per_second": tokens / seconds,
            "mfu": mfu(seconds / tokens),
        });
        let weight = if self.seconds_per_token > 0.0 { 0.1 } else { 1.0 };
        let of_late = self.seconds_per_token + weight * (seconds / tokens - self.seconds_per_token);
        let of_tokens = self.setup.schedules.tokens();
        self.watcher.progress(&Progress {
            step: self.state.step,
            tokens: self.state.tokens,
            of_tokens,
            loss: measured.loss.get(),
            tokens_per_second: 1.0 / of_late,
            mfu: mfu(of_late),
            seconds_left: of_tokens.saturating_sub(self.state.tokens) as f64 * of_late,
        });
        self.seconds_per_token = of_late;
        self.time(entry)
    }

    /// Measures held-out samples of every source, if it is time.
    fn evaluate(&mut self) -> Result<(), TrainError> {
        let train = &self.setup.recipe.train;
        if !train.eval_every.is_some_and(|every| self.state.step.is_multiple_of(every)) {
            return Ok(());
        }
        let begun = Instant::now();
        let mut losses = Map::new();
        for (source, name) in self.setup.mixture.names().enumerate() {
            let count = self.setup.mixture.held_out_samples(source).min(train.eval_samples);
            let mut mean = Mean::default();
            for index in 0..count {
                let sample = self.setup.mixture.held_out(source, index)?;
                let rows = Rows::new(std::slice::from_ref(&sample));
                mean.add(&self.decoder.token_losses(&mut self.device, &rows.micro_batch()), sample.targets());
            }
            if let Some(loss) = mean.get() {
                losses.insert(name.to_owned(), json!(loss));
            }
        }
        let text: Vec<String> =
            losses.iter().map(|(name, loss)| format!("{name} {:.4}", loss.as_f64().unwrap_or(f64::NAN))).collect();
        self.watcher.note(&format!("step {}, held-out loss: {}", self.state.step, text.join(", ")));
        self.log.push(&json!({ "step": self.state.step, "tokens": self.state.tokens, "held_out": losses }))?;
        let seconds = begun.elapsed().as_secs_f64();
        self.time(json!({ "event": "held_out", "step": self.state.step, "seconds": seconds }))
    }

    /// Decides whether a checkpoint is due. When it is written does not change what a run computes.
    fn plan_save(&mut self) -> Result<(), TrainError> {
        let train = &self.setup.recipe.train;
        let by_steps = train.checkpoint_every.is_some_and(|every| self.state.step.is_multiple_of(every));
        let seconds = match train.checkpoint_every {
            Some(_) => train.checkpoint_seconds,
            None => Some(train.checkpoint_seconds.unwrap_or(CHECKPOINT_SECONDS)),
        };
        let by_time = seconds.is_some_and(|seconds| self.last_save.elapsed().as_secs_f64() >= seconds);
        // Weights that gave numbers not to be trusted are no place to go on from.
        if (by_steps || by_time) && self.state.skipped == 0 {
            self.last_save = Instant::now();
            self.pending = Some(self.snapshot()?);
        }
        Ok(())
    }

    /// The state as of now, with a log that the disk has.
    fn snapshot(&mut self) -> Result<State, TrainError> {
        self.state.log_bytes = self.log.bytes();
        self.state.ledger = self.setup.mixture.ledger(self.state.samples);
        self.log.sync()?;
        Ok(self.state.clone())
    }

    /// Writes a checkpoint of this very step, unless there is one.
    fn save_now(&mut self) -> Result<(), TrainError> {
        if self.saved == Some(self.state.step) {
            return Ok(());
        }
        let begun = Instant::now();
        let state = self.snapshot()?;
        let contents = contents(&self.setup, &self.decoder, &self.optimiser);
        self.checkpoints.write(&contents, &state)?;
        self.saved(&state, begun.elapsed(), false)
    }

    /// After a checkpoint is there, perhaps written beside a step: what is written along with it.
    fn saved(&mut self, state: &State, took: Duration, beside: bool) -> Result<(), TrainError> {
        self.saved = Some(state.step);
        self.to_prune = true;
        self.time(json!({ "event": "saved", "step": state.step, "seconds": took.as_secs_f64(), "beside": beside }))?;
        write_ledger(self.options.run, state)
    }

    /// Makes room for the newest checkpoint.
    fn prune(&mut self) -> Result<(), TrainError> {
        if !std::mem::take(&mut self.to_prune) {
            return Ok(());
        }
        let train = &self.setup.recipe.train;
        self.checkpoints.prune(train.keep_last, train.keep_every)
    }

    fn interrupt(mut self) -> Result<Outcome, TrainError> {
        if self.state.step > 0 {
            self.save_now()?;
        }
        self.time(json!({ "event": "interrupted", "step": self.state.step }))?;
        Ok(Outcome::Interrupted { step: self.state.step })
    }

    fn diverge(mut self, reason: String) -> Result<Outcome, TrainError> {
        let State { step, trusted, skipped, .. } = self.state;
        self.time(json!({ "event": "diverged", "step": step }))?;
        // The weights after the last update are what gave these numbers.
        self.checkpoints.set_aside_from(trusted, &mut |text| self.watcher.note(text))?;
        let checkpoint = self.checkpoints.last()?;
        Ok(Outcome::Diverged { step, skipped, reason, checkpoint })
    }

    /// The last checkpoint, and the model for others.
    fn finish(mut self) -> Result<Outcome, TrainError> {
        self.save_now()?;
        self.prune()?;
        write_ledger(self.options.run, &self.state)?;
        let weights = match self.setup.recipe.train.export {
            Export::Bf16 => Weights::Bf16,
            Export::F32 => Weights::F32,
        };
        let begun = Instant::now();
        let checkpoint = Checkpoint::open(&self.checkpoints.path(self.state.step))?;
        let finished = self.options.run.join(FINISHED);
        remove_file(&finished)?;
        let model = put_model(self.options.run, |beside| {
            Ok(write_safetensors(&checkpoint, beside, weights, &mut |_, _| {}).map(drop)?)
        })?;
        write_recipe(&self.setup.recipe, &finished)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.time(json!({ "event": "finished", "step": self.state.step, "seconds": seconds }))?;
        Ok(Outcome::Finished { step: self.state.step, model })
    }

    /// A line of timings.
    fn time(&mut self, mut entry: Value) -> Result<(), TrainError> {
        entry["time"] = json!(now());
        self.timing.push(&entry)
    }
}

/// Fills a folder beside, and puts it in the place of `RUN/model`.
pub(crate) fn put_model(run: &Path, fill: impl FnOnce(&Path) -> Result<(), TrainError>) -> Result<PathBuf, TrainError> {
    let (model, beside) = (run.join("model"), run.join(".model.new"));
    remove(&beside)?;
    fill(&beside)?;
    remove(&model)?;
    fs::rename(&beside, &model).map_err(TrainError::io("create", &model))?;
    files::sync_folder(run)?;
    Ok(model)
}

/// Whether `RUN/model` is what this recipe, to the letter, has led to.
pub(crate) fn is_finished(run: &Path, recipe: &Recipe) -> Result<bool, TrainError> {
    let path = run.join(FINISHED);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(run.join("model").is_dir() && text == recipe_text(recipe, &path)?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(TrainError::io("read", &path)(error)),
    }
}

fn write_recipe(recipe: &Recipe, path: &Path) -> Result<(), TrainError> {
    files::replace(path, recipe_text(recipe, path)?.as_bytes())
}

fn recipe_text(recipe: &Recipe, path: &Path) -> Result<String, TrainError> {
    recipe.to_toml().map_err(|e| TrainError::damaged(path, e.to_string()))
}

fn first_state(setup: &Setup) -> State {
    State {
        begun_from: setup.begun_from.clone(),
        step: 0,
        tokens: 0,
        samples: 0,
        updates: 0,
        trusted: 0,
        skipped: 0,
        loss: Running::default(),
        gradient_norm: Running::default(),
        log_bytes: 0,
        ledger: setup.mixture.ledger(0),
        recipe: setup.recipe.clone(),
    }
}

fn contents<'a>(setup: &'a Setup, decoder: &'a Decoder, optimiser: &'a Optimiser) -> Contents<'a> {
    Contents { config: &setup.config_json, table: &setup.table, tokenizer: &setup.tokenizer, decoder, optimiser }
}

fn write_ledger(run: &Path, state: &State) -> Result<(), TrainError> {
    let path = run.join("ledger.json");
    let text = serde_json::to_string_pretty(&state.ledger).map_err(|e| TrainError::damaged(&path, e.to_string()))?;
    files::replace(&path, format!("{text}\n").as_bytes())
}

fn remove(folder: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(TrainError::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), TrainError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(TrainError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

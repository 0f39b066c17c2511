//! The engine as everybody else sees it.

use crate::grammar;
use crate::live::choice::Task;
use crate::live::clock::{Clock, Health};
use crate::live::config::{EngineConfig, Info, Parts, StartError};
use crate::live::event::Event;
use crate::live::job::Job;
use crate::live::memory;
use crate::live::stats::Stats;
use crate::live::step::Executor;
use crate::live::thread::{Thread, request};
use crate::logits::{InvalidProcessors, Processors};
use crate::sampling::InvalidSampling;
use batch::{Group, GroupKind, Proposer, Refusal, Scheduler};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tensor::KV_BLOCK;
use text::Tokenizer;
use tokio::sync::mpsc as channel;

/// Rows with logits that a step has at least: prompts whose every position's logits are wanted go at this pace.
const STEP_OUTPUTS: u32 = 128;

/// A running model. Cheap to clone; when the last clone and the last [`Completion`] are dropped, its thread ends.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    info: Info,
    tokenizer: Arc<Tokenizer>,
    grammars: grammar::Compiler,
    scheduling: batch::Config,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    next_job: AtomicU64,
}

/// What the thread is told.
pub(super) enum Command {
    Submit(Box<Submission>),
    /// Nobody listens to this job any more.
    Cancel(u64),
}

/// A job on its way to the thread.
pub(super) struct Submission {
    pub id: u64,
    pub task: Task,
    pub place: Place,
    pub events: channel::Sender<Event>,
    pub at: Instant,
}

/// What the thread and the handles both see.
pub(super) struct Shared {
    pub start: Instant,
    pub clock: Clock,
    /// Choices that have a place and have not ended.
    places: AtomicU32,
    draining: AtomicBool,
    /// Held for some microseconds by either side, never during a step.
    stats: Mutex<Stats>,
    /// Running mean of the seconds between ends of choices, as bits.
    finish_interval: AtomicU64,
}

impl Shared {
    /// Microseconds since the start: the scheduler's time.
    pub fn now(&self) -> batch::Time {
        self.start.elapsed().as_micros() as u64
    }

    pub fn with_stats<T>(&self, work: impl FnOnce(&mut Stats) -> T) -> T {
        work(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A choice ended so long after the one before.
    pub fn note_finish(&self, after: Duration) {
        let mean = f64::from_bits(self.finish_interval.load(Ordering::Relaxed));
        // What idle time lies between says nothing.
        let mean = mean + (after.as_secs_f64().min(10.0) - mean) / 16.0;
        self.finish_interval.store(mean.to_bits(), Ordering::Relaxed);
    }
}

/// Why there is no place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Too many wait already.
    #[error("the queue is full; try again in {} seconds", retry_after.as_secs())]
    Full {
        /// When there will probably be a place.
        retry_after: Duration,
    },
    /// Nothing new is accepted.
    #[error("the engine is shutting down")]
    Draining,
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why a job was not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejected {
    /// It can never be served: its length, the cache.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A parameter of sampling out of range.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    /// Bias, penalties or stop tokens out of range.
    #[error(transparent)]
    Processors(#[from] InvalidProcessors),
    /// A token id past the vocabulary.
    #[error("the prompt has the token {token}, which is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Ids there are.
        vocab: usize,
    },
    /// A job of no choices.
    #[error("the job has no choices; it must have at least 1")]
    NoChoices,
    /// The place was taken for another number of choices.
    #[error("the job has {choices} choices, but its place in the queue is for {places}")]
    Place {
        /// The job's.
        choices: u32,
        /// The place's.
        places: u32,
    },
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// A place in the queue, for a number of choices. Dropping it gives it back.
pub struct Place {
    shared: Arc<Shared>,
    choices: u32,
}

impl Place {
    pub(super) fn give_back(&mut self, choices: u32) {
        self.choices -= choices;
        self.shared.places.fetch_sub(choices, Ordering::SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back(self.choices);
    }
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// Models that do not fit each other, numbers that cannot work, no memory for keys and values.
    pub fn start(parts: Parts, config: EngineConfig) -> Result<Self, StartError> {
        check(&parts, &config)?;
        let models: Vec<_> = std::iter::once(&parts.decoder).chain(&parts.draft).collect();
        let blocks = memory::blocks(config.kv_memory, config.kv, &models, config.max_running)?;
        let kinds = [GroupKind::Full, GroupKind::Draft];
        let scheduling = batch::Config {
            block_tokens: KV_BLOCK as u32,
            groups: kinds.into_iter().take(models.len()).map(|kind| Group { kind, blocks: blocks.count }).collect(),
            step_tokens: config.step_tokens,
            step_outputs: config.max_running.max(STEP_OUTPUTS).min(config.step_tokens),
            max_running: config.max_running,
            max_in_flight: 1,
            context: u32::try_from(parts.decoder.context()).unwrap_or(u32::MAX),
            aging: u64::try_from(config.aging.as_micros()).unwrap_or(u64::MAX),
            pace: Some(batch::PACE),
            speculation: config.speculation,
        };
        let scheduler = Scheduler::new(scheduling.clone())?;
        let info = Info {
            name: parts.name.clone(),
            config: parts.decoder.config().clone(),
            context: parts.decoder.context(),
            weight_bytes: parts.decoder.weight_bytes(),
            draft_weight_bytes: parts.draft.as_ref().map(|draft| draft.weight_bytes()),
            kv: config.kv,
            kv_blocks: blocks.count,
            kv_bytes: blocks.bytes,
            speculation: config.speculation,
            step_tokens: config.step_tokens,
            max_running: config.max_running,
            max_queue: config.max_queue,
            threads: parts.device.threads(),
        };
        let tokenizer = parts.tokenizer.clone();
        let grammars = grammar::Compiler::new(tokenizer.clone())?;
        let executor = Executor::new(parts, config.kv, &scheduling);
        let start = Instant::now();
        let stats = Stats { expert_tokens: executor.expert_tokens().to_vec(), ..Stats::default() };
        let shared = Arc::new(Shared {
            start,
            clock: Clock::new(start, config.stall_after),
            places: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            stats: Mutex::new(stats),
            finish_interval: AtomicU64::new(0f64.to_bits()),
        });
        let (commands, inbox) = mpsc::channel();
        let thread = Thread::new(shared.clone(), scheduler, executor, tokenizer.clone(), config.typical_acceptance);
        let builder = std::thread::Builder::new().name("engine".into());
        builder.spawn(move || thread.run(&inbox)).map_err(StartError::Thread)?;
        let next_job = AtomicU64::new(0);
        Ok(Self(Arc::new(Inner { info, tokenizer, grammars, scheduling, commands, shared, next_job })))
    }

    /// What runs.
    pub fn info(&self) -> &Info {
        &self.0.info
    }

    /// The model's tokeniser.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.0.tokenizer
    }

    /// Compiles grammars for jobs; it blocks, so not where futures run.
    pub fn grammars(&self) -> &grammar::Compiler {
        &self.0.grammars
    }

    /// Takes a place in the queue for so many choices, before anything costly is done for them. More choices at once than the queue
    /// holds get a place only when nobody else has one.
    ///
    /// # Errors
    /// There is none now, or there will be none any more.
    pub fn reserve(&self, choices: u32) -> Result<Place, Busy> {
        let Inner { shared, info, .. } = &*self.0;
        if shared.clock.health() == Health::Stopped {
            return Err(Busy::Stopped);
        }
        if self.is_draining() {
            return Err(Busy::Draining);
        }
        let most = info.max_running.saturating_add(info.max_queue);
        let taken = shared.places.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |places| {
            let sum = places.checked_add(choices)?;
            (places == 0 || sum <= most).then_some(sum)
        });
        let place = match taken {
            Ok(_) => Place { shared: shared.clone(), choices },
            Err(_) => return Err(Busy::Full { retry_after: self.retry_after() }),
        };
        // Once more: whoever has called `drain` and then finds nobody with a place knows that nobody will get one.
        if self.is_draining() { Err(Busy::Draining) } else { Ok(place) }
    }

    /// When as many choices have ended as wait.
    fn retry_after(&self) -> Duration {
        let Inner { shared, info, .. } = &*self.0;
        let waiting = shared.places.load(Ordering::Relaxed).saturating_sub(info.max_running);
        let interval = f64::from_bits(shared.finish_interval.load(Ordering::Relaxed));
        Duration::from_secs_f64((f64::from(waiting) * interval / 4.0).ceil().clamp(1.0, 60.0))
    }

    /// Gives the thread a job. What comes of it is read from the [`Completion`].
    ///
    /// # Errors
    /// A job that can never be served, answered at once and without the thread.
    pub fn submit(&self, place: Place, mut job: Job) -> Result<Completion, Rejected> {
        let Inner { shared, info, tokenizer, scheduling, commands, next_job, .. } = &*self.0;
        let at = Instant::now();
        // The prompt is lent, not copied: it may be long.
        let prompt = std::mem::take(&mut job.prompt);
        let request = request(&job, prompt, 0, shared.now(), at);
        let served = request.check(scheduling, shared.now());
        job.prompt = request.prompt;
        served?;
        job.check(info.config.vocab_size)?;
        let processors = Processors::new(&job, tokenizer.eos(), info.config.vocab_size)?;
        if place.choices != job.choices {
            return Err(Rejected::Place { choices: job.choices, places: place.choices });
        }
        let (events, inbox) = channel::channel(job.most_events());
        let id = next_job.fetch_add(1, Ordering::Relaxed);
        let task = Task { processors, job };
        let submission = Box::new(Submission { id, task, place, events, at });
        commands.send(Command::Submit(submission)).map_err(|_| Rejected::Stopped)?;
        Ok(Completion { id, events: inbox, commands: commands.clone() })
    }

    /// How the thread does, from its clock: never waits for it.
    pub fn health(&self) -> Health {
        self.0.shared.clock.health()
    }

    /// What was counted until now. Never waits for a step.
    pub fn stats(&self) -> Stats {
        let shared = &self.0.shared;
        let places = shared.places.load(Ordering::SeqCst);
        Stats { uptime: shared.start.elapsed(), places, ..shared.with_stats(|stats| stats.clone()) }
    }

    /// Refuses what is new from now on. What was accepted is answered.
    pub fn drain(&self) {
        self.0.shared.draining.store(true, Ordering::SeqCst);
    }

    /// Whether what is new is refused.
    pub fn is_draining(&self) -> bool {
        self.0.shared.draining.load(Ordering::SeqCst)
    }

    /// Whether nobody has a place: everything was answered.
    pub fn is_idle(&self) -> bool {
        self.0.shared.places.load(Ordering::SeqCst) == 0
    }
}

/// Whether parts and numbers fit each other, beyond what the scheduler checks.
fn check(parts: &Parts, config: &EngineConfig) -> Result<(), StartError> {
    parts.tokenizer.check_vocabulary(parts.decoder.config().vocab_size)?;
    let drafts = config.speculation.is_some_and(|s| s.proposer == Proposer::Draft);
    match &parts.draft {
        Some(draft) if drafts => {
            let (draft_context, target) = (draft.context(), parts.decoder.context());
            if draft_context < target {
                return Err(StartError::DraftContext { draft: draft_context, target });
            }
            let (draft, tokens) = (draft.config().vocab_size, parts.tokenizer.vocab_size());
            if draft < tokens {
                return Err(StartError::DraftVocabulary { draft, tokens });
            }
        }
        Some(_) => return Err(StartError::IdleDraft),
        None if drafts => return Err(StartError::NoDraft),
        None => {}
    }
    match config.typical_acceptance {
        Some(_) if config.speculation.is_none() => Err(StartError::TypicalAlone),
        Some(threshold) if !(threshold > 0.0 && threshold <= 1.0) => Err(StartError::Typical(threshold)),
        _ => Ok(()),
    }
}

/// What comes of a job. Dropping it cancels the job: its cache blocks are free before the next step.
pub struct Completion {
    id: u64,
    events: channel::Receiver<Event>,
    commands: mpsc::Sender<Command>,
}

impl Completion {
    /// The job's number; no two of an engine are the same.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The next event; `None` after the last. (`None` before all choices have finished or the job failed: the engine was stopped.)
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// As [`Completion::next`], for threads that may wait; it panics where futures run.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// An event that is there already.
    ///
    /// # Errors
    /// There is none yet, or there will be none any more.
    pub fn try_next(&mut self) -> Result<Event, channel::error::TryRecvError> {
        self.events.try_recv()
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if !self.events.is_closed() {
            // If the thread is gone, so is the job.
            let _ = self.commands.send(Command::Cancel(self.id));
        }
    }
}

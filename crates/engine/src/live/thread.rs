//! The engine's thread: takes in jobs, plans, computes, chooses, commits, and says what came of it.

use crate::live::choice::{Choice, Desk};
use crate::live::event::{Event, Finish, Stopped, Usage};
use crate::live::handle::{Command, Place, Shared, Submission};
use crate::live::job::{Job, Pooling, PromptOutputs};
use crate::live::stats::{RecentStep, Spent};
use crate::live::step::{Executor, Wanted};
use batch::{Chunk, ChunkEnd, ChunkResult, Ended, FinishReason, Request, RequestId, Scheduler, StepPlan, StepResults};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};
use text::Tokenizer;
use tokio::sync::mpsc::Sender;

/// How often the slowly growing counts are copied for readers.
const COPY_EVERY: Duration = Duration::from_millis(200);

const STOPPED: &str = "the engine has stopped after an internal error";

/// A job whose choices have not all ended.
struct Live {
    events: Sender<Event>,
    place: Place,
    requests: Vec<RequestId>,
    open: u32,
    /// The prompt's outputs come before everything else.
    waits_for_prompt: bool,
    held: Vec<Event>,
}

impl Live {
    fn say(&mut self, event: Event) {
        if matches!(event, Event::Prompt(_) | Event::Embedding(_)) {
            self.waits_for_prompt = false;
            self.send(event);
            self.release();
        } else if self.waits_for_prompt {
            self.held.push(event);
        } else {
            self.send(event);
        }
    }

    fn release(&mut self) {
        for event in std::mem::take(&mut self.held) {
            self.send(event);
        }
    }

    fn send(&self, event: Event) {
        // The channel holds all that a job can say, so it is never full; whoever closed it has asked to cancel.
        let _ = self.events.try_send(event);
    }
}

/// All that the thread owns.
pub(super) struct Thread {
    pub shared: Arc<Shared>,
    pub scheduler: Scheduler,
    pub executor: Executor,
    pub tokenizer: Arc<Tokenizer>,
    state: State,
}

/// Jobs, and what is used again in each step.
#[derive(Default)]
struct State {
    jobs: HashMap<u64, Live>,
    desk: Desk,
    /// By the slot of the request.
    choices: Vec<Option<Choice>>,
    plan: StepPlan,
    results: StepResults,
    ended: Vec<Ended>,
    spent: Spent,
    copied: Option<Instant>,
    finished_at: Option<Instant>,
}

impl Thread {
    pub fn new(
        shared: Arc<Shared>,
        scheduler: Scheduler,
        executor: Executor,
        tokenizer: Arc<Tokenizer>,
        typical: Option<f32>,
    ) -> Self {
        let state = State { desk: Desk::new(typical), ..State::default() };
        Self { shared, scheduler, executor, tokenizer, state }
    }

    /// Runs until nobody is left who could ask or listen. If it panics, every job fails.
    pub fn run(mut self, commands: &Receiver<Command>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve(commands)));
        self.shared.clock.stop();
        if outcome.is_err() {
            for (_, live) in self.state.jobs.drain() {
                live.send(Event::Failed(STOPPED.into()));
            }
            while let Ok(command) = commands.try_recv() {
                if let Command::Submit(submission) = command {
                    let _ = submission.events.try_send(Event::Failed(STOPPED.into()));
                }
            }
        }
    }

    fn serve(&mut self, commands: &Receiver<Command>) {
        loop {
            if !self.take_commands(commands) {
                return;
            }
            let started = Instant::now();
            let mut plan = std::mem::take(&mut self.state.plan);
            let planned = self.scheduler.plan_into(self.shared.now(), &mut plan);
            // Deadlines have passed.
            self.settle(Instant::now());
            if planned {
                self.step(&mut plan, started);
            }
            self.state.plan = plan;
            self.publish(!planned);
            if !planned && !self.wait(commands) {
                return;
            }
        }
    }

    /// Waits for a command. Returns false when none can come any more.
    fn wait(&mut self, commands: &Receiver<Command>) -> bool {
        // With sequences there is always a step, but for those whose time was up a moment ago.
        let idle = self.state.jobs.is_empty();
        self.shared.clock.rest();
        let command = if idle {
            commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            commands.recv_timeout(Duration::from_millis(1))
        };
        self.shared.clock.begin();
        match command {
            Ok(command) => self.take(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// Takes in what has come. Returns false when nobody is left.
    fn take_commands(&mut self, commands: &Receiver<Command>) -> bool {
        loop {
            match commands.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.submit(*submission),
            Command::Cancel(id) => {
                if let Some(live) = self.state.jobs.remove(&id) {
                    self.cancel(&live);
                }
            }
        }
        self.settle(Instant::now());
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { id, mut task, place, events, at } = submission;
        let now = self.shared.now();
        // Only who wants something of the prompt itself looks at it again.
        let prompt = match task.job.prompt_outputs {
            Some(_) => task.job.prompt.clone(),
            None => std::mem::take(&mut task.job.prompt),
        };
        let task = Arc::new(task);
        let job = &task.job;
        let waits_for_prompt = job.prompt_outputs.is_some();
        let mut live =
            Live { events, place, requests: Vec::new(), open: job.choices, waits_for_prompt, held: Vec::new() };
        self.shared.with_stats(|stats| stats.tokens_in += prompt.len() as u64);
        // The last one is the prompt itself, not a copy.
        for (index, prompt) in (0..).zip(std::iter::repeat_n(prompt, job.choices as usize)) {
            match self.scheduler.submit(request(job, prompt, index, now, at), now) {
                Ok(request) => {
                    live.requests.push(request);
                    let slot = request.slot();
                    if self.state.choices.len() <= slot {
                        self.state.choices.resize_with(slot + 1, || None);
                    }
                    let choice = Choice::new(request, id, index, &task, &self.tokenizer, at);
                    self.state.choices[slot] = Some(choice);
                }
                // It was accepted in advance; only its time can be up by now.
                Err(_) => {
                    live.open -= 1;
                    live.place.give_back(1);
                    live.say(Event::Finished { choice: index, finish: Finish::Deadline, usage: Usage::default() });
                }
            }
        }
        if live.open > 0 {
            self.state.jobs.insert(id, live);
        } else {
            live.release();
        }
    }

    /// Ends all requests of a job that is no longer among the jobs.
    fn cancel(&mut self, live: &Live) {
        for &request in &live.requests {
            self.scheduler.cancel(request);
        }
    }

    /// Runs a planned step.
    fn step(&mut self, plan: &mut StepPlan, started: Instant) {
        self.executor.follow(plan);
        let planned = Instant::now();
        let State { choices, desk, .. } = &mut self.state;
        self.executor.propose(plan, &mut |request, logits, position| {
            let Some(choice) = &mut choices[request.slot()] else { return 0 };
            guarded(|| Ok(choice.propose(logits, position, desk))).unwrap_or(0)
        });
        let drafted = Instant::now();
        let choices = &self.state.choices;
        self.executor.compute(plan, |chunk| wanted(choices, chunk));
        let computed = Instant::now();
        let text = self.choose(plan);
        let chosen = Instant::now();
        self.state.results.draft_seconds = (drafted - planned).as_secs_f64();
        self.state.results.seconds = (chosen - drafted).as_secs_f64();
        let before = self.scheduler.totals();
        if let Err(error) = self.scheduler.commit(plan.id, &self.state.results) {
            unreachable!("the results have the shape of the plan: {error}");
        }
        let after = self.scheduler.totals();
        self.settle(chosen);
        self.tell(plan, chosen);
        self.shared.clock.begin();
        let spent = &mut self.state.spent;
        spent.scheduling += (planned - started + chosen.elapsed()).as_secs_f64();
        spent.draft += (drafted - planned).as_secs_f64();
        spent.model += (computed - drafted).as_secs_f64();
        spent.sampling += (chosen - computed).saturating_sub(text).as_secs_f64();
        spent.text += text.as_secs_f64();
        let step = RecentStep {
            at: self.shared.start.elapsed(),
            seconds: started.elapsed().as_secs_f32(),
            rows: plan.tokens.len() as u32,
            sequences: plan.chunks.len() as u32,
            outputs: (after.generated - before.generated) as u32,
            drafted: (after.drafted - before.drafted) as u32,
            accepted: (after.accepted - before.accepted) as u32,
        };
        self.shared.with_stats(|stats| stats.note_step(step));
    }

    /// Fills the results of a computed step. Returns the time that text took. A request that panics fails alone.
    fn choose(&mut self, plan: &StepPlan) -> Duration {
        let State { jobs, choices, results, desk, .. } = &mut self.state;
        results.clear();
        let mut hidden_row = 0;
        if let Some(hidden) = self.executor.hidden() {
            for chunk in &plan.chunks {
                let Some(choice) = &mut choices[chunk.request.slot()] else { continue };
                let rows = hidden_row..hidden_row + choice.wanted(chunk).hidden as usize;
                hidden_row = rows.end;
                if rows.is_empty() {
                    continue;
                }
                let taken = guarded(|| Ok(choice.take_hidden(chunk, rows.map(|row| hidden.row(row)))));
                let taken = taken.unwrap_or_else(|message| {
                    choice.failure = Some(message);
                    None
                });
                if let (Some(event), Some(live)) = (taken, jobs.get_mut(&choice.owner)) {
                    live.say(event);
                }
            }
        }
        let logits = self.executor.logits();
        let tokenizer = &self.tokenizer;
        let mut text = Duration::ZERO;
        let mut row = 0;
        for chunk in &plan.chunks {
            let drafts = &plan.tokens[(chunk.row + chunk.len - chunk.drafted) as usize..][..chunk.drafted as usize];
            if chunk.draft.propose > 0 {
                results.proposed.extend(drafts);
            }
            let Some(choice) = &mut choices[chunk.request.slot()] else {
                results.chunks.push(ChunkResult { choices: 0, end: ChunkEnd::Failed });
                continue;
            };
            let rows = row_range(&mut row, choice.wanted(chunk));
            let before = results.choices.len();
            let end = guarded(|| {
                if let Some(event) = choice.take_prompt_logits(chunk, logits, rows.start)?
                    && let Some(live) = jobs.get_mut(&choice.owner)
                {
                    live.say(event);
                }
                let first = rows.end - chunk.samples as usize;
                for i in 0..chunk.samples as usize {
                    let position = u64::from(chunk.position + chunk.len - chunk.samples) + i as u64 + 1;
                    let draft = drafts.get(i).copied();
                    let Some(scored) = choice.choose(logits.row(first + i), position, draft, desk)? else {
                        choice.stopped = Some(Stopped::Grammar);
                        // Accepted drafts are its last tokens. The scheduler would wait for the choice after them for ever.
                        return Ok(if i > 0 { ChunkEnd::Stop } else { ChunkEnd::Continue });
                    };
                    let token = scored.token;
                    let since = Instant::now();
                    let ends = choice.push(scored, tokenizer)?;
                    text += since.elapsed();
                    results.choices.push(token);
                    if ends {
                        return Ok(ChunkEnd::Stop);
                    }
                    if draft.is_some_and(|draft| draft != token) {
                        break;
                    }
                }
                Ok(ChunkEnd::Continue)
            });
            let end = match end {
                // Without a choice it can only end: a grammar that allows nothing.
                Ok(end) if choice.failure.is_none() && (choice.stopped.is_none() || end == ChunkEnd::Stop) => end,
                Ok(_) => ChunkEnd::Failed,
                Err(message) => {
                    choice.failure = Some(message);
                    ChunkEnd::Failed
                }
            };
            if end == ChunkEnd::Failed {
                results.choices.truncate(before);
            }
            results.chunks.push(ChunkResult { choices: (results.choices.len() - before) as u32, end });
        }
        text
    }

    /// Says of each sequence of a step what is new.
    fn tell(&mut self, plan: &StepPlan, now: Instant) {
        let State { jobs, choices, .. } = &mut self.state;
        self.shared.with_stats(|stats| {
            for chunk in &plan.chunks {
                let Some(choice) = &mut choices[chunk.request.slot()] else { continue };
                choice.note_pace(now, stats);
                if let (Some(delta), Some(live)) = (choice.take_delta(), jobs.get_mut(&choice.owner)) {
                    live.say(delta);
                }
            }
        });
    }

    /// Says of each request that has ended how.
    fn settle(&mut self, now: Instant) {
        let mut ended = std::mem::take(&mut self.state.ended);
        // Ending one may end others of its job.
        loop {
            ended.extend(self.scheduler.take_ended());
            if ended.is_empty() {
                break;
            }
            for ended in ended.drain(..) {
                self.end(ended, now);
            }
        }
        self.state.ended = ended;
    }

    fn end(&mut self, ended: Ended, now: Instant) {
        let Some(mut choice) = self.state.choices[ended.request.slot()].take_if(|c| c.request == ended.request) else {
            return;
        };
        let finish = match ended.reason {
            FinishReason::Stop => choice.stopped.take().map(Finish::Stop),
            FinishReason::Length => Some(Finish::Length),
            FinishReason::Deadline => Some(Finish::Deadline),
            FinishReason::Cancelled => Some(Finish::Cancelled),
            FinishReason::Failed if choice.failure.is_none() => choice.stopped.take().map(Finish::Stop),
            FinishReason::Failed => None,
        };
        self.shared.with_stats(|stats| {
            let counts = &mut stats.finished;
            match finish {
                Some(Finish::Stop(_)) => counts.stop += 1,
                Some(Finish::Length) => counts.length += 1,
                Some(Finish::Deadline) => counts.deadline += 1,
                Some(Finish::Cancelled) => counts.cancelled += 1,
                None => counts.failed += 1,
            }
            choice.note_end(now, stats);
        });
        if let Some(last) = self.state.finished_at.replace(now) {
            self.shared.note_finish(now - last);
        }
        let Some(live) = self.state.jobs.get_mut(&choice.owner) else { return };
        let Some(finish) = finish else {
            if let Some(mut live) = self.state.jobs.remove(&choice.owner) {
                live.place.give_back(live.open);
                live.send(Event::Failed(choice.failure.unwrap_or_default()));
                self.cancel(&live);
            }
            return;
        };
        choice.finish_text();
        if let Some(delta) = choice.take_delta() {
            live.say(delta);
        }
        let Ended { generated, cached, drafted, accepted, .. } = ended;
        let usage = Usage { generated, cached, drafted, accepted };
        live.open -= 1;
        // First the place: whoever has seen the end of an answer can ask again.
        live.place.give_back(1);
        live.say(Event::Finished { choice: choice.index, finish, usage });
        if live.open == 0 {
            live.release();
            self.state.jobs.remove(&choice.owner);
        }
    }

    /// Copies for readers what others count.
    fn publish(&mut self, now: bool) {
        let due = now || self.state.copied.is_none_or(|at| at.elapsed() >= COPY_EVERY);
        let load = self.scheduler.load();
        self.shared.with_stats(|stats| {
            (stats.waiting, stats.running) = (load.waiting, load.running);
            stats.totals = self.scheduler.totals();
            stats.spent = self.state.spent;
            stats.occupancy.clear();
            stats.occupancy.extend((0..self.scheduler.config().groups.len()).map(|g| self.scheduler.occupancy(g)));
            if due {
                stats.expert_tokens.clone_from_slice(self.executor.expert_tokens());
            }
        });
        if due {
            self.state.copied = Some(Instant::now());
        }
    }
}

/// Choice `index` of a job, as the scheduler sees it; `prompt` is the job's.
pub(super) fn request(job: &Job, prompt: Vec<u32>, index: u32, now: batch::Time, at: Instant) -> Request {
    let left = job.deadline.map(|deadline| deadline.saturating_sub(at.elapsed()).as_micros() as u64);
    let outputs = match job.prompt_outputs {
        Some(PromptOutputs::Logprobs(_) | PromptOutputs::Embedding(Pooling::Mean)) => index == 0,
        Some(PromptOutputs::Embedding(Pooling::Last)) | None => false,
    };
    Request {
        priority: job.priority,
        deadline: left.map(|left| now.saturating_add(left)),
        prompt_outputs: outputs,
        salt: job.salt,
        ..Request::new(prompt, job.max_tokens)
    }
}

fn wanted(choices: &[Option<Choice>], chunk: &Chunk) -> Wanted {
    choices[chunk.request.slot()].as_ref().map_or(Wanted::default(), |choice| choice.wanted(chunk))
}

fn row_range(row: &mut usize, wanted: Wanted) -> std::ops::Range<usize> {
    let rows = *row..*row + wanted.logits as usize;
    *row = rows.end;
    rows
}

/// What concerns one request alone: if it panics, that request fails and nothing else.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("an internal error; it is in the server's log".into()))
}

#[cfg(test)]
mod tests {
    use super::guarded;

    #[test]
    fn a_panic_becomes_the_failure_of_one_request() {
        assert_eq!(guarded(|| Ok(3)), Ok(3));
        assert_eq!(guarded(|| Err::<(), _>("reason".into())), Err("reason".into()));
        assert!(guarded(|| Ok("no number".parse::<u32>().unwrap())).is_err());
    }
}

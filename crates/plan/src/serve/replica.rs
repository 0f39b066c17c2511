//! One copy of a model in simulated time: the scheduler that the server uses, driven with steps that take what they cost.

use super::histogram::Histogram;
use super::roofline::{Parts, Price, Work};
use super::service::Service;
use super::traffic::Arrival;
use batch::{ChunkEnd, ChunkResult, ConfigError, FinishReason, Refusal, Request, Scheduler, StepPlan, StepResults};
use spec::random::{hash, unit};
use std::collections::VecDeque;

/// Tokens per second of human reading, in the report's words: 8.33 is reading along, 33.33 is fast.
pub const READING_SPEEDS: [f64; 2] = [8.33, 33.33];

/// What random numbers are for.
const PURPOSE_ACCEPT: u64 = 0x6163_6365;
/// Tokens that the target chooses, and that a draft model proposes when it is right.
const CHOSEN: u32 = 1;
const OTHER: u32 = 0;

/// A request that is being served.
#[derive(Clone, Copy, Debug, Default)]
struct Live {
    number: u64,
    arrival: f64,
    /// When its first token was there.
    first: Option<f64>,
    last: f64,
    prompt: u32,
    output: u32,
}

/// A step on its way through the stages.
#[derive(Debug, Default)]
struct Flight {
    plan: StepPlan,
    done: f64,
    seconds: f64,
    draft_seconds: f64,
}

/// What came of it all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Seconds until the first token.
    pub ttft: Histogram,
    /// Seconds between tokens; those that come together share the time since those before them.
    pub itl: Histogram,
    /// Seconds from arrival to the last token.
    pub whole: Histogram,
    /// Requests that were answered to the end.
    pub finished: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Tokens of their prompts that the prefix cache held.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub output_tokens: u64,
    /// Seconds that requests spent between first and last token, of those that were at least as fast as each of [`READING_SPEEDS`], and of all.
    pub reading: [f64; 3],
    /// Seconds that the stages computed, summed over stages.
    pub busy: f64,
    /// Seconds of steps by what they were spent on: prompts and output.
    pub prompt_seconds: f64,
    /// The same of generated tokens.
    pub output_seconds: f64,
    /// Where the time of steps went.
    pub parts: Parts,
    /// Seconds of the draft model.
    pub draft_seconds: f64,
    /// FLOPs.
    pub flops: f64,
    /// Bytes read.
    pub bytes: f64,
    /// Sequences of steps times their seconds.
    pub sequence_seconds: f64,
    /// The largest share of the cache's blocks that sequences held.
    pub cache_peak: f64,
    /// The last event.
    pub end: f64,
}

/// A copy of a model in simulated time.
pub struct Replica<'a> {
    service: &'a Service,
    scheduler: Scheduler,
    seed: u64,
    now: f64,
    /// When each stage has done all that entered it.
    stages: Vec<f64>,
    flights: VecDeque<Flight>,
    spare: Vec<Flight>,
    live: Vec<Live>,
    /// Something has changed since there was nothing to plan.
    stirred: bool,
    measured: Measured,
    buffers: Buffers,
}

/// Memory used again in every step.
struct Buffers {
    prompt: Work,
    output: Work,
    both: Work,
    draft: Work,
    price: Price,
    part: Price,
    results: StepResults,
}

impl<'a> Replica<'a> {
    /// An idle copy at time 0.
    ///
    /// # Errors
    /// A configuration that the scheduler refuses.
    pub fn new(service: &'a Service, seed: u64) -> Result<Self, ConfigError> {
        let windows = service.roofline.windows().len();
        let draft_windows = service.draft.as_ref().map_or(0, |draft| draft.roofline.windows().len());
        Ok(Self {
            service,
            scheduler: Scheduler::new(service.scheduler().clone())?,
            seed,
            now: 0.0,
            stages: vec![0.0; service.roofline.layout().pipeline],
            flights: VecDeque::new(),
            spare: Vec::new(),
            live: Vec::new(),
            stirred: false,
            measured: Measured::default(),
            buffers: Buffers {
                prompt: Work::empty(windows),
                output: Work::empty(windows),
                both: Work::empty(windows),
                draft: Work::empty(draft_windows),
                price: Price::default(),
                part: Price::default(),
                results: StepResults::default(),
            },
        })
    }

    /// What serves.
    pub fn service(&self) -> &'a Service {
        self.service
    }

    /// Requests that are waiting or being answered.
    pub fn outstanding(&self) -> usize {
        let load = self.scheduler.load();
        load.waiting + load.running
    }

    /// What was measured up to now.
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// Sums of the scheduler.
    pub fn totals(&self) -> batch::Totals {
        self.scheduler.totals()
    }

    /// Takes a request at time `now`, which must not be before any event that was run; `arrival.at` is when a runtime that loses no time has it.
    ///
    /// # Errors
    /// A request that can never be served.
    pub fn submit(&mut self, arrival: &Arrival, number: u64, now: f64) -> Result<(), Refusal> {
        self.now = self.now.max(now);
        let request = Request::new(prompt(arrival, number), arrival.output);
        let id = self.scheduler.submit(request, micros(self.now))?;
        if self.live.len() <= id.slot() {
            self.live.resize(id.slot() + 1, Live::default());
        }
        self.live[id.slot()] = Live {
            number,
            // The scheduler sees it some time after its user sent it.
            arrival: arrival.at - self.service.roofline.efficiency().request_seconds,
            first: None,
            last: arrival.at,
            prompt: arrival.prompt,
            output: arrival.output,
        };
        self.stirred = true;
        Ok(())
    }

    /// When something happens next; infinite if nothing will without another request.
    pub fn next_event(&self) -> f64 {
        let done = self.flights.front().map_or(f64::INFINITY, |flight| flight.done);
        let room = self.flights.len() < self.service.scheduler().max_in_flight as usize;
        if self.stirred && room { done.min(self.stages[0].max(self.now)) } else { done }
    }

    /// Runs what happens at [`Replica::next_event`]. Returns how many requests ended.
    pub fn advance(&mut self) -> usize {
        let at = self.next_event();
        if !at.is_finite() {
            return 0;
        }
        self.now = at;
        let mut ended = 0;
        while self.flights.front().is_some_and(|flight| flight.done <= at) {
            ended += self.commit();
        }
        if self.stirred && self.stages[0] <= at {
            self.plan();
        }
        self.measured.end = self.measured.end.max(at);
        ended
    }

    /// Plans a step, if there is something to compute, and sends it through the stages.
    fn plan(&mut self) {
        let mut flight = self.spare.pop().unwrap_or_default();
        if !self.scheduler.plan_into(micros(self.now), &mut flight.plan) {
            // With steps in flight, their results may change that.
            self.stirred = false;
            self.spare.push(flight);
            return;
        }
        self.price(&mut flight);
        let occupancy = self.scheduler.occupancy(0);
        let blocks = occupancy.free + occupancy.cached + occupancy.owned;
        self.measured.cache_peak = self.measured.cache_peak.max(f64::from(occupancy.owned) / f64::from(blocks));
        self.flights.push_back(flight);
    }

    /// Says when each stage is done with the step, and keeps account.
    fn price(&mut self, flight: &mut Flight) {
        let Buffers { prompt, output, both, draft, price, part, .. } = &mut self.buffers;
        let roofline = &self.service.roofline;
        let windows = roofline.windows();
        prompt.clear();
        output.clear();
        for chunk in &flight.plan.chunks {
            let decodes = chunk.samples > 0 && chunk.len == chunk.samples;
            let work = if decodes { &mut *output } else { &mut *prompt };
            work.add(windows, chunk.position, chunk.len, chunk.outputs);
        }
        both.clone_from(prompt);
        both.rows += output.rows;
        both.outputs += output.outputs;
        for (sum, more) in both.attended.iter_mut().zip(&output.attended) {
            sum.prompt_pairs += more.prompt_pairs;
            sum.decode_pairs += more.decode_pairs;
            sum.positions += more.positions;
        }
        roofline.price_into(both, price);
        flight.draft_seconds = self.service.price_draft(&flight.plan, draft, part);
        price.stages[0] += flight.draft_seconds;
        let mut at = self.now;
        for (free, seconds) in self.stages.iter_mut().zip(&price.stages) {
            at = at.max(*free) + seconds;
            *free = at;
        }
        flight.done = at;
        let latency = price.latency();
        flight.seconds = latency - flight.draft_seconds;

        let mut share = |work: &Work| {
            if work.rows == 0.0 {
                return 0.0;
            }
            roofline.price_into(work, part);
            part.latency()
        };
        let (of_prompt, of_output) = match (prompt.rows > 0.0, output.rows > 0.0) {
            (true, false) => (1.0, 0.0),
            (false, true) => (0.0, 1.0),
            _ => (share(prompt), share(output)),
        };
        let measured = &mut self.measured;
        measured.prompt_seconds += latency * of_prompt / (of_prompt + of_output);
        measured.output_seconds += latency * of_output / (of_prompt + of_output);
        measured.busy += latency;
        measured.draft_seconds += flight.draft_seconds;
        measured.parts.matrices += price.parts.matrices;
        measured.parts.attention += price.parts.attention;
        measured.parts.communication += price.parts.communication;
        measured.parts.fixed += price.parts.fixed;
        measured.flops += price.flops;
        measured.bytes += price.bytes;
        measured.sequence_seconds += latency * flight.plan.chunks.len() as f64;
    }

    /// Gives the scheduler the tokens of the oldest step. Returns how many requests ended.
    fn commit(&mut self) -> usize {
        let Some(flight) = self.flights.pop_front() else { return 0 };
        self.stirred = true;
        let results = &mut self.buffers.results;
        results.clear();
        (results.seconds, results.draft_seconds) = (flight.seconds, flight.draft_seconds);
        let acceptance = self.service.draft.as_ref().map_or(0.0, |draft| draft.acceptance);
        for chunk in &flight.plan.chunks {
            let mut choices = 0;
            if chunk.samples > 0 {
                let number = self.live[chunk.request.slot()].number;
                let right =
                    |i: &u32| unit(hash(self.seed, PURPOSE_ACCEPT, number, u64::from(chunk.position + i))) < acceptance;
                choices = (0..chunk.drafted).take_while(right).count() as u32 + 1;
                results.proposed.extend(std::iter::repeat_n(CHOSEN, chunk.draft.propose as usize));
                results.choices.extend(std::iter::repeat_n(CHOSEN, choices as usize - 1));
                results.choices.push(OTHER);
            }
            results.chunks.push(ChunkResult { choices, end: ChunkEnd::Continue });
        }
        let now = self.now;
        match self.scheduler.commit(flight.plan.id, results) {
            Ok(kept) => {
                for (chunk, &kept) in flight.plan.chunks.iter().zip(kept) {
                    if kept > 0 {
                        token(&mut self.live[chunk.request.slot()], &mut self.measured, now, kept);
                    }
                }
            }
            // The results were made from the plan: they cannot be of another shape.
            Err(error) => unreachable!("{error}"),
        }
        self.spare.push(flight);
        let mut ended = 0;
        for end in self.scheduler.take_ended() {
            let live = &self.live[end.request.slot()];
            ended += 1;
            finish(live, &mut self.measured, now);
            self.measured.cached_tokens += u64::from(end.cached);
            debug_assert!(end.reason == FinishReason::Length && end.generated == live.output);
        }
        ended
    }
}

/// `kept` tokens of a request came.
fn token(live: &mut Live, measured: &mut Measured, now: f64, kept: u32) {
    measured.output_tokens += u64::from(kept);
    if live.first.is_none() {
        live.first = Some(now);
        measured.ttft.add(now - live.arrival, 1);
    } else {
        measured.itl.add((now - live.last) / f64::from(kept), kept.into());
    }
    live.last = now;
}

/// A request has all its tokens.
fn finish(live: &Live, measured: &mut Measured, now: f64) {
    measured.finished += 1;
    measured.prompt_tokens += u64::from(live.prompt);
    measured.whole.add(now - live.arrival, 1);
    let reading = now - live.first.unwrap_or(now);
    let tokens = f64::from(live.output.saturating_sub(1));
    for (sum, speed) in measured.reading.iter_mut().zip(READING_SPEEDS.into_iter().chain([0.0])) {
        if tokens >= speed * reading {
            *sum += reading;
        }
    }
}

/// Tokens of a prompt: what it shares with others, then what nobody else has.
fn prompt(arrival: &Arrival, number: u64) -> Vec<u32> {
    let shared = arrival.prefix.map_or(0, |prefix| prefix.tokens.min(arrival.prompt));
    let common = arrival.prefix.map_or(0, |prefix| prefix.id);
    let mut tokens = Vec::with_capacity((arrival.prompt + arrival.output) as usize);
    tokens.extend((0..shared).map(|i| if i == 0 { common as u32 } else { (common >> 32) as u32 ^ i }));
    // The first two name the request.
    let own = [number as u32, (number >> 32) as u32].into_iter().chain(2..);
    tokens.extend(own.take((arrival.prompt - shared) as usize));
    tokens
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

//! What the engine counts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Recent steps that are kept one by one.
const RECENT: usize = 256;

/// Upper bounds of durations, in seconds.
pub const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Upper bounds of row counts.
pub const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// Speeds at which people read and skim, in tokens per second: goodput counts sequences that are at least as fast.
pub const READING_SPEEDS: [f64; 2] = [8.33, 33.33];

/// How often values fell below each bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds, ascending.
    pub bounds: &'static [f64],
    /// Values up to each bound and above the one before; the last are above all.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: f64,
}

impl Histogram {
    /// An empty one.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts `times` equal values.
    pub fn note(&mut self, value: f64, times: u64) {
        let at = self.bounds.partition_point(|&bound| bound < value);
        self.counts[at] += times;
        self.sum += value * times as f64;
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Where the time of steps went, in seconds since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Planning, committing, and everything that happens between steps.
    pub scheduling: f64,
    /// The draft model.
    pub draft: f64,
    /// The model.
    pub model: f64,
    /// Choosing tokens.
    pub sampling: f64,
    /// Turning tokens into text and looking for stop strings.
    pub text: f64,
}

/// Choices that ended, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// By a token, a string or a grammar.
    pub stop: u64,
    /// At their limit of tokens.
    pub length: u64,
    /// At their deadline.
    pub deadline: u64,
    /// By their client.
    pub cancelled: u64,
    /// With an error.
    pub failed: u64,
}

/// How many sequences were fast enough to read along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goodput {
    /// Sequences that ended with at least two tokens.
    pub sequences: u64,
    /// Of these, how many were at least as fast as each of [`READING_SPEEDS`].
    pub fast: [u64; READING_SPEEDS.len()],
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecentStep {
    /// When it ended, after the start of the engine.
    pub at: Duration,
    /// How long it took.
    pub seconds: f32,
    /// Rows computed.
    pub rows: u32,
    /// Sequences they belonged to.
    pub sequences: u32,
    /// Tokens that came of it.
    pub outputs: u32,
    /// Tokens drafted.
    pub drafted: u32,
    /// Drafted tokens that were kept.
    pub accepted: u32,
}

/// Everything that is counted. Sums and histograms are since the start.
#[derive(Clone, Debug)]
pub struct Stats {
    /// How long the engine has run.
    pub uptime: Duration,
    /// Choices that have a place in the queue: those that are being prepared, wait or run.
    pub places: u32,
    /// Choices that hold no cache blocks.
    pub waiting: usize,
    /// Choices that hold some.
    pub running: usize,
    /// Blocks of each cache group: the model's, then the draft's.
    pub occupancy: Vec<batch::Occupancy>,
    /// What the scheduler counts.
    pub totals: batch::Totals,
    /// Seconds of each step.
    pub steps: Histogram,
    /// Rows of each step.
    pub rows: Histogram,
    /// Seconds from submission to the first token of each choice.
    pub first_token: Histogram,
    /// Seconds between tokens of a choice; those of one step share the time since the step before equally.
    pub inter_token: Histogram,
    /// Prompt tokens of accepted jobs.
    pub tokens_in: u64,
    /// Tokens generated.
    pub tokens_out: u64,
    /// Choices that ended.
    pub finished: Finished,
    /// Their speeds.
    pub goodput: Goodput,
    /// Tokens that the router gave to each expert, `[layers][experts]`; nothing for dense layers.
    pub expert_tokens: Vec<Vec<u64>>,
    /// Where the time went.
    pub spent: Spent,
    /// The last steps, oldest first.
    pub recent: VecDeque<RecentStep>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            uptime: Duration::ZERO,
            places: 0,
            waiting: 0,
            running: 0,
            occupancy: Vec::new(),
            totals: batch::Totals::default(),
            steps: Histogram::new(SECONDS),
            rows: Histogram::new(ROWS),
            first_token: Histogram::new(SECONDS),
            inter_token: Histogram::new(SECONDS),
            tokens_in: 0,
            tokens_out: 0,
            finished: Finished::default(),
            goodput: Goodput::default(),
            expert_tokens: Vec::new(),
            spent: Spent::default(),
            recent: VecDeque::with_capacity(RECENT),
        }
    }
}

impl Stats {
    /// Counts a step.
    pub(super) fn note_step(&mut self, step: RecentStep) {
        self.steps.note(step.seconds.into(), 1);
        self.rows.note(step.rows.into(), 1);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(step);
    }
}

/// When a choice's tokens came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    submitted: Instant,
    /// When the first and the latest came.
    came: Option<(Instant, Instant)>,
    /// Tokens until now, and of the first step.
    tokens: u32,
    first: u32,
}

impl Pace {
    pub fn new(submitted: Instant) -> Self {
        Self { submitted, came: None, tokens: 0, first: 0 }
    }

    /// It has so many tokens now.
    pub fn note(&mut self, tokens: u32, now: Instant, stats: &mut Stats) {
        let new = u64::from(tokens - self.tokens);
        if new == 0 {
            return;
        }
        self.tokens = tokens;
        stats.tokens_out += new;
        match &mut self.came {
            None => {
                stats.first_token.note((now - self.submitted).as_secs_f64(), 1);
                self.came = Some((now, now));
                self.first = tokens;
            }
            Some((_, last)) => {
                stats.inter_token.note((now - *last).as_secs_f64() / new as f64, new);
                *last = now;
            }
        }
    }

    /// The choice has ended.
    pub fn end(&self, stats: &mut Stats) {
        let Some((first, last)) = self.came.filter(|_| self.tokens > self.first) else { return };
        let speed = f64::from(self.tokens - self.first) / (last - first).as_secs_f64();
        stats.goodput.sequences += 1;
        for (fast, limit) in stats.goodput.fast.iter_mut().zip(READING_SPEEDS) {
            *fast += u64::from(speed >= limit);
        }
    }
}

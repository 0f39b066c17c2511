//! How many rows of prompts a step may have beside sequences that decode, so that nobody's next token is much late.
//!
//! A step is taken to last D(n) + p c: D is what n decoding sequences take alone, c what a row of a prompt adds. Both are learnt from the times
//! handed in; what was not measured for long is tried, by a step without prompts. The rows p are those whose time is a given share of D(n), or
//! with which the step lasts no longer than a reader takes. Where many prompts wait for few sequences that decode, it is more: to hold prompts back would leave the steps too small to be worth their time. A
//! long prompt counts less, since so many rows of it only bring one more sequence that decodes.

use crate::config::Pace;
use crate::costs::{Costs, bucket, follow};

/// Share of D for each prompt that waits beside as many sequences as decode.
const PRESSURE: f64 = 8.0;
/// Tokens from which a prompt counts as less than one.
const LONG: u32 = 1024;
/// Prompts that are looked at, at most: more would not change anything.
const MOST: usize = 64;
/// Rows that prompts always get.
const LEAST: u32 = 8;
/// After so many steps with prompts, one without.
const ALONE_EVERY: u32 = 128;

/// Learns what steps take, and says how many rows prompts may have.
#[derive(Debug)]
pub(crate) struct Pacer {
    pace: Pace,
    alone: Costs,
    /// By bucket of decoding sequences: steps with prompts since the last without.
    since: Vec<u32>,
    row: Option<f64>,
}

impl Pacer {
    pub fn new(pace: Pace) -> Self {
        Self { pace, alone: Costs::default(), since: Vec::new(), row: None }
    }

    /// Rows for prompts in a step with `decoding` sequences, when others lack so many tokens each.
    pub fn rows(&mut self, decoding: u32, lacking: impl Iterator<Item = u32>) -> u32 {
        let weight = |tokens: u32| f64::from(LONG) / f64::from(tokens.max(LONG));
        let prompts: f64 = lacking.take(MOST).map(weight).sum();
        if decoding == 0 || prompts == 0.0 {
            return u32::MAX;
        }
        let at = bucket(decoding);
        if self.since.len() <= at {
            self.since.resize(at + 1, ALONE_EVERY);
        }
        let since = &mut self.since[at];
        if *since >= ALONE_EVERY {
            *since = 0;
            return 0;
        }
        *since += 1;
        let (Some(alone), Some(row)) = (self.alone.at(decoding), self.row) else { return u32::MAX };
        let share = (f64::from(self.pace.percent) / 100.0).max(PRESSURE * prompts / f64::from(decoding));
        let seconds = (alone * share).max(self.pace.step as f64 / 1e6 - alone);
        ((seconds / row) as u32).max(LEAST)
    }

    /// A step of `decoding` sequences and so many rows of prompts took so long.
    pub fn measured(&mut self, decoding: u32, prompt_rows: u32, seconds: f64) {
        if !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        if prompt_rows == 0 {
            self.alone.note(decoding, seconds);
            if let Some(since) = self.since.get_mut(bucket(decoding)) {
                *since = 0;
            }
            return;
        }
        let rows = f64::from(prompt_rows);
        match (self.alone.at(decoding), &mut self.row) {
            (_, row @ None) => *row = Some(seconds / rows),
            // Few rows say little about one.
            (Some(alone), Some(row)) if decoding > 0 && prompt_rows >= LEAST => {
                follow(row, ((seconds - alone) / rows).max(seconds / rows / 16.0));
            }
            _ => {}
        }
    }
}

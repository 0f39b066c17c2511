//! How many tokens to draft: as many as make the most accepted tokens per second, by what was measured.
//!
//! A step with S decoding sequences and k drafts each is expected to give S (1 + a + ... + a^k) tokens, if a drafted token is accepted with
//! probability a, and to take T(S (k + 1)) + k D(S) seconds: T is the target's time by rows, D the draft model's time for one
//! proposal per sequence. Both are learnt from the times handed in. What was never measured is taken to be as cheap as it may be: more
//! rows cost no more than fewer, fewer cost in proportion. So it is tried, and then known.
//!
//! A sequence of its own record drafts fewer: a drafted row must be worth its price in tokens.

use crate::config::{Proposer, Speculation};
use crate::costs::{Costs, bucket};

/// A change must promise this much more, and the last one be this many steps ago.
const GAIN: f64 = 1.05;
const SETTLED: u32 = 8;
/// After so many steps without drafts, so many steps are drafted to see whether things have changed.
const PROBE_EVERY: u32 = 512;
const PROBE: u32 = 4;
/// A sequence that does not draft tries one token after so many steps.
const RETRY: u32 = 64;
/// How much of the record is kept per step: of a sequence's own, and of all.
const MEMORY: f32 = 0.9;
const SHARED_MEMORY: f32 = 0.99;
/// What is believed before anything is known: the acceptance, and the weight of what is shared in a sequence's own estimate.
const PRIOR: f32 = 0.7;
const PRIOR_WEIGHT: f32 = 2.0;

/// Drafts that were tried and accepted, fading.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    tried: f32,
    accepted: f32,
    /// Steps without a draft.
    idle: u32,
}

impl Record {
    fn note(&mut self, tried: u32, accepted: u32, memory: f32) {
        self.tried = self.tried * memory + tried as f32;
        self.accepted = self.accepted * memory + accepted as f32;
    }

    fn estimate(&self, prior: f32) -> f32 {
        (self.accepted + prior * PRIOR_WEIGHT) / (self.tried + PRIOR_WEIGHT)
    }
}

/// What was chosen for about so many sequences.
#[derive(Clone, Copy, Debug)]
struct Choice {
    k: u32,
    /// Steps since it changed; without drafts, since they were last tried.
    steps: u32,
}

/// The number of drafts of the step at hand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Drafts {
    /// For a sequence with a good record.
    pub most: u32,
    /// Probability of acceptance below which a drafted row is not worth its time.
    pub worth: f32,
}

/// Chooses, and learns from what came of it.
#[derive(Debug)]
pub(crate) struct Policy {
    config: Speculation,
    shared: Record,
    target: Costs,
    draft: Costs,
    choices: Vec<Choice>,
}

impl Policy {
    pub fn new(config: Speculation) -> Self {
        Self {
            config,
            shared: Record::default(),
            target: Costs::default(),
            draft: Costs::default(),
            choices: Vec::new(),
        }
    }

    pub fn proposer(&self) -> Proposer {
        self.config.proposer
    }

    /// How many tokens to draft for each of `sequences` decoding sequences when a step has room for `fits` each.
    pub fn choose(&mut self, sequences: u32, fits: u32) -> Drafts {
        let most = self.config.most.min(fits);
        if !self.config.adaptive {
            return Drafts { most, worth: 0.0 };
        }
        if sequences == 0 {
            // Whether the draft model follows a prompt.
            let few = self.choices.first().map_or(most, |choice| choice.k.min(most));
            return Drafts { most: few, worth: 0.0 };
        }
        let at = bucket(sequences);
        if self.choices.len() <= at {
            self.choices.resize(at + 1, Choice { k: self.config.most, steps: 0 });
        }
        let mut choice = self.choices[at];
        choice.steps += 1;
        if choice.k == 0 && choice.steps > PROBE_EVERY {
            self.choices[at] =
                Choice { k: 0, steps: if choice.steps < PROBE_EVERY + PROBE { choice.steps } else { 0 } };
            return Drafts { most: most.min(2), worth: 0.0 };
        }
        if choice.steps >= SETTLED {
            let now = self.rate(sequences, choice.k);
            let (rate, k) =
                (0..=most).map(|k| (self.rate(sequences, k), k)).fold((0.0, 0), |a, b| if b.0 > a.0 { b } else { a });
            if k != choice.k && rate > now * GAIN {
                choice = Choice { k, steps: 0 };
            }
        }
        self.choices[at] = choice;
        Drafts { most: choice.k.min(most), worth: self.price(sequences, choice.k.min(most)) }
    }

    /// Tokens to draft for a sequence with this record.
    pub fn share(&self, drafts: Drafts, record: &Record) -> u32 {
        if drafts.most == 0 || drafts.worth <= 0.0 {
            return drafts.most;
        }
        let each = record.estimate(self.shared.estimate(PRIOR));
        let mut chance = 1.0;
        let count = (0..drafts.most).take_while(|_| {
            chance *= each;
            chance >= drafts.worth
        });
        let count = count.count() as u32;
        if count == 0 && record.idle >= RETRY { 1 } else { count }
    }

    /// A sequence's drafts were verified; `drafted` may be 0.
    pub fn verified(&mut self, record: &mut Record, drafted: u32, accepted: u32) {
        if drafted == 0 {
            record.idle = record.idle.saturating_add(1);
            return;
        }
        // The first that differs was tried, those behind it were not.
        let tried = drafted.min(accepted + 1);
        record.note(tried, accepted, MEMORY);
        record.idle = 0;
        self.shared.note(tried, accepted, SHARED_MEMORY);
    }

    /// A step took so long that computed only `rows` rows of `sequences` decoding sequences, after at most `proposals` proposals each.
    pub fn measured(&mut self, rows: u32, seconds: f64, sequences: u32, proposals: u32, draft_seconds: f64) {
        let plausible = |seconds: f64| seconds.is_finite() && seconds > 0.0;
        if plausible(seconds) {
            self.target.note(rows, seconds);
        }
        if proposals > 0 && plausible(draft_seconds) {
            self.draft.note(sequences, draft_seconds / f64::from(proposals));
        }
    }

    fn seconds(&self, sequences: u32, k: u32) -> f64 {
        let target = self.target.at(sequences * (k + 1)).unwrap_or(1.0);
        target + f64::from(k) * self.draft.at(sequences).unwrap_or(0.0)
    }

    /// Expected tokens per second of each sequence.
    fn rate(&self, sequences: u32, k: u32) -> f64 {
        let each = f64::from(self.shared.estimate(PRIOR));
        let tokens: f64 = (0..=k).map(|i| each.powi(i as i32)).sum();
        tokens / self.seconds(sequences, k)
    }

    /// What a drafted row costs, in tokens that its time would give.
    fn price(&self, sequences: u32, k: u32) -> f32 {
        if k == 0 {
            return 0.0;
        }
        let more = (self.seconds(sequences, k) - self.seconds(sequences, 0)) / f64::from(k);
        ((more * self.rate(sequences, k)) as f32).clamp(0.02, 0.95)
    }
}

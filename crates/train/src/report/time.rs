//! Goodput: what became of the time of a run, from its `timing.jsonl`.
//!
//! The time of a run is that of its sessions (from a start to the last line before the next one) and of the gaps between them. Within a session
//! every line says how long what it is about took; what no line tells is `other`. A gap after an orderly end is `stopped`; after a kill nobody knows
//! how much of it was still work, and it is `unknown`. The parts are disjoint and add up to the whole.

use super::thinned::{Merge, Spread, Thinned};
use serde::{Deserialize, Serialize};

/// Points of a curve at most.
const POINTS: usize = 1000;

/// One line of `timing.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Entry {
    /// What happened; a step where nothing is said.
    pub event: Option<Event>,
    /// The step that it was about; of a start, the last one that was kept.
    #[serde(default)]
    pub step: u64,
    /// When the line was written, in seconds since 1970.
    pub time: f64,
    /// How long it took.
    #[serde(default)]
    pub seconds: f64,
    /// Of a step: how long it waited for a checkpoint to be written.
    #[serde(default)]
    pub stalled: f64,
    /// Of a save: whether a step went on meanwhile.
    #[serde(default)]
    pub beside: bool,
    /// Of a step: its rate.
    pub tokens_per_second: Option<f64>,
    /// Of a step: the share of the machine's peak.
    pub mfu: Option<f64>,
    /// Of a start: what runs, and on what.
    pub machine: Option<Machine>,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The run began, or went on from a checkpoint.
    Start,
    /// A checkpoint was written.
    Saved,
    /// Held-out text was measured.
    HeldOut,
    /// It was told to stop, and did.
    Interrupted,
    /// Its numbers could not be trusted any more.
    Diverged,
    /// It is done.
    Finished,
    /// Something that this program does not know.
    #[serde(other)]
    Unknown,
}

/// What a session ran, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Parameters of the model.
    pub parameters: u64,
    /// Those that one token computes with.
    pub active_parameters: u64,
    /// Floating-point operations that one token costs, forward and backward.
    pub flops_per_token: f64,
    /// 10^9 of them that the machine reaches in a second.
    pub peak_gflops: f64,
    /// Threads.
    pub threads: usize,
}

/// What became of the time, in seconds; all of it together is [`Parts::whole`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    /// Steps computed for the first time.
    pub productive: f64,
    /// Steps computed again, because what they had done was lost.
    pub replayed: f64,
    /// Checkpoints and the model, while nothing else was done.
    pub saving: f64,
    /// Steps that waited for a checkpoint.
    pub stalled: f64,
    /// Held-out text.
    pub measuring: f64,
    /// From the start of the program to its first step, every time.
    pub restarting: f64,
    /// What no line of a session tells.
    pub other: f64,
    /// From the last line before a kill to the next start: work that was lost, or nothing at all.
    pub unknown: f64,
    /// Between an orderly end and the next start.
    pub stopped: f64,
}

impl Parts {
    /// The parts by name, in the order in which they are told.
    pub fn named(&self) -> [(&'static str, f64); 9] {
        [
            ("productive", self.productive),
            ("replayed", self.replayed),
            ("saving", self.saving),
            ("stalled", self.stalled),
            ("measuring", self.measuring),
            ("restarting", self.restarting),
            ("other", self.other),
            ("unknown", self.unknown),
            ("stopped", self.stopped),
        ]
    }

    /// Their sum.
    pub fn whole(&self) -> f64 {
        self.named().iter().map(|(_, seconds)| seconds).sum()
    }

    /// The share of the whole in which the run got on, 0 to 1.
    pub fn goodput(&self) -> f64 {
        let whole = self.whole();
        if whole > 0.0 { self.productive / whole } else { 0.0 }
    }
}

/// From a start to the last line before the next.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Session {
    /// When the program began, in seconds since 1970.
    pub begun: f64,
    /// When it wrote its last line.
    pub ended: f64,
    /// The step that it went on from.
    pub from: u64,
    /// The last step that it did.
    pub to: u64,
    /// How it ended; killed, or still running, where nothing is said.
    pub end: Option<Event>,
    /// Steps that an earlier session had done already.
    pub replayed_steps: u64,
    /// Seconds that its lines tell of.
    #[serde(skip)]
    told: f64,
}

/// How fast steps were.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// The last step.
    pub step: u64,
    /// Tokens per second.
    pub tokens_per_second: Spread,
    /// Shares of the machine's peak.
    pub mfu: Spread,
}

impl Merge for Speed {
    fn merge(&mut self, next: Self) {
        self.step = next.step;
        self.tokens_per_second.merge(next.tokens_per_second);
        self.mfu.merge(next.mfu);
    }
}

/// What a run's clock says.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Its sessions, in order.
    pub sessions: Vec<Session>,
    /// The speed of steps done for the first time.
    pub speed: Thinned<Speed>,
    /// What ran last.
    pub machine: Option<Machine>,
    /// All but `other`.
    told: Parts,
    /// The last step that any session did.
    furthest: u64,
    /// Sums over steps done for the first time: MFU times seconds, tokens, and the seconds.
    mfu_seconds: f64,
    tokens: f64,
    seconds: f64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            sessions: Vec::new(),
            speed: Thinned::new(POINTS),
            machine: None,
            told: Parts::default(),
            furthest: 0,
            mfu_seconds: 0.0,
            tokens: 0.0,
            seconds: 0.0,
        }
    }
}

impl Timing {
    /// Takes in the next line.
    pub fn push(&mut self, entry: &Entry) {
        let seconds = length(entry.seconds);
        if entry.event == Some(Event::Start) || self.sessions.is_empty() {
            self.begin(entry, seconds);
        }
        let told = match entry.event {
            Some(Event::Start) => add(&mut self.told.restarting, seconds),
            Some(Event::HeldOut) => add(&mut self.told.measuring, seconds),
            // The line of the step that went on meanwhile tells this time.
            Some(Event::Saved) if entry.beside => 0.0,
            Some(Event::Saved | Event::Finished) => add(&mut self.told.saving, seconds),
            Some(_) => 0.0,
            None => self.step(entry, seconds),
        };
        if let Some(session) = self.sessions.last_mut() {
            session.told += told;
            session.ended = entry.time;
            let is_end = |event: &Event| matches!(event, Event::Interrupted | Event::Diverged | Event::Finished);
            session.end = entry.event.filter(is_end);
        }
    }

    /// A program began, so many seconds before this line.
    fn begin(&mut self, entry: &Entry, seconds: f64) {
        let begun = entry.time - seconds;
        if let Some(last) = self.sessions.last() {
            let gap = length(begun - last.ended);
            add(if last.end.is_some() { &mut self.told.stopped } else { &mut self.told.unknown }, gap);
        }
        let from = if entry.event.is_some() { entry.step } else { entry.step.saturating_sub(1) };
        self.sessions.push(Session { begun, ended: begun, from, to: from, end: None, replayed_steps: 0, told: 0.0 });
        self.machine = entry.machine.or(self.machine);
    }

    fn step(&mut self, entry: &Entry, seconds: f64) -> f64 {
        let is_new = entry.step > self.furthest;
        let stalled = length(entry.stalled).min(seconds);
        add(&mut self.told.stalled, stalled);
        let part = if is_new { &mut self.told.productive } else { &mut self.told.replayed };
        add(part, seconds - stalled);
        if let Some(session) = self.sessions.last_mut() {
            session.to = entry.step;
            session.replayed_steps += u64::from(!is_new);
        }
        if is_new {
            self.furthest = entry.step;
            let (rate, mfu) = (entry.tokens_per_second.unwrap_or(f64::NAN), entry.mfu.unwrap_or(f64::NAN));
            let (tokens_per_second, of_mfu) = (Spread::of([rate]), Spread::of([mfu]));
            self.speed.push(Speed { step: entry.step, tokens_per_second, mfu: of_mfu });
            if rate.is_finite() && mfu.is_finite() {
                self.mfu_seconds += mfu * seconds;
                self.tokens += rate * seconds;
                self.seconds += seconds;
            }
        }
        seconds
    }

    /// What became of the time.
    pub fn parts(&self) -> Parts {
        let other = |session: &Session| length(session.ended - session.begun - session.told);
        Parts { other: self.sessions.iter().map(other).sum(), ..self.told }
    }

    /// Tokens per second and share of the machine's peak, over all steps done for the first time.
    pub fn average(&self) -> Option<(f64, f64)> {
        (self.seconds > 0.0).then(|| (self.tokens / self.seconds, self.mfu_seconds / self.seconds))
    }

    /// Steps that were done again, each time counted.
    pub fn replayed_steps(&self) -> u64 {
        self.sessions.iter().map(|session| session.replayed_steps).sum()
    }
}

/// Adds, and gives back what was added.
fn add(part: &mut f64, seconds: f64) -> f64 {
    *part += seconds;
    seconds
}

/// A length of time; a clock that was set back makes none of less than nothing.
fn length(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn timing(entries: &[Value]) -> Timing {
        let mut timing = Timing::default();
        entries.iter().for_each(|entry| timing.push(&serde_json::from_value(entry.clone()).unwrap()));
        timing
    }

    fn start(step: u64, time: f64) -> Value {
        json!({ "event": "start", "step": step, "seconds": 2.0, "time": time })
    }

    fn step(step: u64, time: f64, stalled: f64) -> Value {
        json!({ "step": step, "seconds": 1.0, "stalled": stalled, "tokens_per_second": 100.0, "mfu": 0.5, "time": time })
    }

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    /// From 100 to 130: two starts, a kill after step 3 with a checkpoint of step 1, an orderly end.
    fn killed_and_resumed() -> Vec<Value> {
        vec![
            start(0, 102.0),
            step(1, 103.0, 0.0),
            // Written while step 2 went on, which waited for the last quarter of a second.
            json!({ "event": "saved", "step": 1, "seconds": 0.9, "beside": true, "time": 103.9 }),
            step(2, 104.0, 0.25),
            json!({ "event": "held_out", "step": 2, "seconds": 0.5, "time": 104.5 }),
            step(3, 105.5, 0.0),
            // Killed; started again at 110.
            start(1, 112.0),
            step(2, 113.0, 0.0),
            step(3, 114.0, 0.0),
            step(4, 115.5, 0.0),
            json!({ "event": "saved", "step": 4, "seconds": 1.5, "beside": false, "time": 117.0 }),
            json!({ "event": "interrupted", "step": 4, "time": 117.0 }),
            // Started again at 125.
            start(4, 127.0),
            step(5, 128.0, 0.0),
            json!({ "event": "saved", "step": 5, "seconds": 1.0, "beside": false, "time": 129.0 }),
            json!({ "event": "finished", "step": 5, "seconds": 1.0, "time": 130.0 }),
        ]
    }

    #[test]
    fn every_second_has_its_part() {
        let timing = timing(&killed_and_resumed());
        let parts = timing.parts();
        near(parts.productive, 4.75);
        near(parts.stalled, 0.25);
        near(parts.replayed, 2.0);
        near(parts.saving, 3.5);
        near(parts.measuring, 0.5);
        near(parts.restarting, 6.0);
        near(parts.other, 0.5);
        near(parts.unknown, 4.5);
        near(parts.stopped, 8.0);
        near(parts.whole(), 30.0);
        near(parts.goodput(), 4.75 / 30.0);
        assert_eq!(timing.replayed_steps(), 2);
        let ends: Vec<_> = timing.sessions.iter().map(|s| (s.from, s.to, s.end, s.replayed_steps)).collect();
        assert_eq!(ends, [(0, 3, None, 0), (1, 4, Some(Event::Interrupted), 2), (4, 5, Some(Event::Finished), 0)]);
        assert_eq!(timing.average(), Some((100.0, 0.5)));
        let steps: Vec<_> = timing.speed.entries().iter().map(|speed| speed.step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn parts_add_up_to_the_time_between_first_and_last_wherever_it_is_cut() {
        let all = killed_and_resumed();
        for cut in 1..=all.len() {
            let whole = all[cut - 1]["time"].as_f64().unwrap() - 100.0;
            let parts = timing(&all[..cut]).parts();
            assert!(parts.named().iter().all(|(_, seconds)| *seconds >= 0.0));
            // Within a step its checkpoint's line comes first: no more than that is not told yet.
            near(parts.whole(), whole);
        }
        assert_eq!(timing(&[]).parts().whole(), 0.0);
        assert_eq!(timing(&[]).parts().goodput(), 0.0);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_time_negative() {
        let parts = timing(&[start(0, 102.0), step(1, 103.0, 0.0), start(1, 52.0), step(2, 53.0, 9.0)]).parts();
        assert!(parts.named().iter().all(|(_, seconds)| *seconds >= 0.0), "{parts:?}");
        near(parts.productive + parts.stalled, 2.0);
        near(parts.unknown, 0.0);
    }

    #[test]
    fn lines_of_other_programs_and_of_no_start_are_borne() {
        let odd = json!({ "event": "migrated", "step": 3, "time": 20.0, "to": "elsewhere" });
        let timing = timing(&[step(7, 10.0, 0.0), odd]);
        assert_eq!((timing.sessions[0].from, timing.sessions[0].to), (6, 7));
        near(timing.parts().whole(), 11.0);
    }
}

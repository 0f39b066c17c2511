//! Who asks for what, when: Poisson arrivals, a day's curve, a trace, or users who ask again as soon as they are answered.

use serde::Deserialize;
use spec::random::{hash, unit};
use std::str::FromStr;
use thiserror::Error;

/// One request of a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Seconds after the beginning.
    pub at: f64,
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Tokens that it is answered with.
    pub output: u32,
    /// What its prompt begins with, if others begin with the same.
    pub prefix: Option<Prefix>,
}

/// A beginning that prompts share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Which.
    pub id: u64,
    /// Its tokens, no more than the prompt has.
    pub tokens: u32,
}

/// How long requests are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    /// Mean tokens of a prompt.
    pub prompt: u32,
    /// Mean tokens of an answer.
    pub output: u32,
    /// Standard deviation over mean, of both (log-normal); 0: all alike.
    pub spread: f64,
    /// Tokens that all prompts begin with.
    pub shared: u32,
    /// Prompt and answer together at most.
    pub most: u32,
}

/// When requests come.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// Independently of each other, so many a second.
    Poisson {
        /// Requests per second.
        rate: f64,
    },
    /// The same with a rate that follows a day: a cosine from the trough at 0 h to the peak at 12 h.
    Day {
        /// Requests per second at noon.
        peak: f64,
        /// Share of it at midnight.
        trough: f64,
    },
    /// So many users, each of whom asks again as soon as the answer is there.
    Users {
        /// How many.
        users: u32,
    },
    /// A file.
    Trace {
        /// Its path.
        path: String,
    },
}

/// A load that cannot be.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum TrafficError {
    /// Neither a pattern nor a file's name.
    #[error(
        "traffic `{text}`: {problem}; write poisson:RATE, day:PEAK or day:PEAK:TROUGH (requests per second, and the share of the peak at night), users:N, or \
         the path of a .jsonl file"
    )]
    Pattern {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A line of a trace that is not understood.
    #[error("line {line} of the trace: {problem}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// The field, and what is wrong with it.
        problem: String,
    },
    /// A trace of no requests.
    #[error("the trace has no requests")]
    Empty,
    /// Lengths that cannot be.
    #[error("{field} is {value}; {allowed}")]
    Length {
        /// Which.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What is allowed.
        allowed: String,
    },
}

const DAY: f64 = 86_400.0;
/// What random numbers are for.
const PURPOSE_GAP: u64 = 0x6761_7073;
const PURPOSE_LENGTH: u64 = 0x6c65_6e67;
/// A trace may be silent so long: beyond it a file is more likely cut together than a load.
const MOST_GAP: f64 = 7.0 * DAY;

impl FromStr for Pattern {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let wrong = |problem: String| TrafficError::Pattern { text: text.into(), problem };
        let number = |word: &str, name: &str| {
            let value = word.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
            value.ok_or_else(|| wrong(format!("{name} is `{word}`, but must be a number above 0")))
        };
        let words: Vec<&str> = text.split(':').collect();
        match words[..] {
            ["poisson", rate] => Ok(Self::Poisson { rate: number(rate, "the rate")? }),
            ["day", peak] => Ok(Self::Day { peak: number(peak, "the peak")?, trough: 0.3 }),
            ["day", peak, trough] => {
                let trough = number(trough, "the trough")?;
                if trough > 1.0 {
                    return Err(wrong(format!("the trough is {trough}, but is a share of the peak: above 0, up to 1")));
                }
                Ok(Self::Day { peak: number(peak, "the peak")?, trough })
            }
            ["users", users] => {
                let users = users.parse().ok().filter(|&users| users > 0);
                Ok(Self::Users {
                    users: users.ok_or_else(|| wrong("the number of users is no whole number above 0".into()))?,
                })
            }
            _ if text.ends_with(".jsonl") => Ok(Self::Trace { path: text.into() }),
            _ => Err(wrong("it is none of these".into())),
        }
    }
}

impl Lengths {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self) -> Result<(), TrafficError> {
        let wrong = |field, value: f64, allowed: String| Err(TrafficError::Length { field, value, allowed });
        if self.prompt == 0 {
            return wrong("prompt tokens", 0.0, "allowed is 1 or more".into());
        }
        if self.output == 0 {
            return wrong("output tokens", 0.0, "allowed is 1 or more".into());
        }
        let all = u64::from(self.prompt) + u64::from(self.output);
        if all > u64::from(self.most) {
            return wrong("prompt and output tokens", all as f64, format!("the context is {}", self.most));
        }
        if self.shared > self.prompt {
            return wrong("shared tokens", self.shared.into(), format!("a prompt has {}", self.prompt));
        }
        if !(0.0..=4.0).contains(&self.spread) {
            return wrong("spread", self.spread, "allowed is 0 (all alike) to 4".into());
        }
        Ok(())
    }

    /// The lengths of one request; a function of seed and number.
    fn draw(&self, seed: u64, number: u64) -> (u32, u32) {
        let draw = |mean: u32, which: u64, least: u32, most: u32| {
            if self.spread == 0.0 {
                return mean;
            }
            // Log-normal of this mean and spread, by a normal of Box and Muller.
            let (a, b) =
                (hash(seed, PURPOSE_LENGTH, number, 2 * which), hash(seed, PURPOSE_LENGTH, number, 2 * which + 1));
            let normal = (-2.0 * (1.0 - unit(a)).ln()).sqrt() * (std::f64::consts::TAU * unit(b)).cos();
            let variance = (1.0 + self.spread * self.spread).ln();
            let length = f64::from(mean) * (variance.sqrt() * normal - variance / 2.0).exp();
            (length.round() as u32).clamp(least, most)
        };
        let prompt = draw(self.prompt, 0, self.shared.max(1), self.most - 1);
        (prompt, draw(self.output, 1, 1, self.most - prompt).min(self.most - prompt))
    }

    fn arrival(&self, seed: u64, number: u64, at: f64) -> Arrival {
        let (prompt, output) = self.draw(seed, number);
        let prefix = (self.shared > 0).then_some(Prefix { id: 0, tokens: self.shared });
        Arrival { at, prompt, output, prefix }
    }
}

/// So many requests per second, in Poisson arrivals.
pub fn poisson(rate: f64, requests: usize, lengths: &Lengths, seed: u64) -> Vec<Arrival> {
    let mut at = 0.0;
    let arrivals = (0..requests as u64).map(|number| {
        at += gap(seed, number) / rate;
        lengths.arrival(seed, number, at)
    });
    arrivals.collect()
}

/// Poisson arrivals whose rate follows a day from `begin` seconds after midnight on, by thinning.
pub fn day(peak: f64, trough: f64, begin: f64, requests: usize, lengths: &Lengths, seed: u64) -> Vec<Arrival> {
    let (mut at, mut tried) = (0.0, 0);
    let arrivals = (0..requests as u64).map(|number| {
        loop {
            at += gap(seed, tried) / peak;
            tried += 1;
            if unit(hash(seed, PURPOSE_GAP, tried, 1)) < day_share(begin + at, trough) {
                return lengths.arrival(seed, number, at);
            }
        }
    });
    arrivals.collect()
}

/// Share of the peak at so many seconds after midnight.
pub fn day_share(seconds: f64, trough: f64) -> f64 {
    trough + (1.0 - trough) * (1.0 - (std::f64::consts::TAU * seconds / DAY).cos()) / 2.0
}

/// Requests of users who never wait between two: all at the beginning, to be submitted as others end.
pub fn users(requests: usize, lengths: &Lengths, seed: u64) -> Vec<Arrival> {
    (0..requests as u64).map(|number| lengths.arrival(seed, number, 0.0)).collect()
}

/// An exponentially distributed gap of mean 1.
fn gap(seed: u64, number: u64) -> f64 {
    -(1.0 - unit(hash(seed, PURPOSE_GAP, number, 0))).ln()
}

/// One line of a trace.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    arrival: f64,
    prompt: u32,
    output: u32,
    prefix: Option<u64>,
    prefix_tokens: Option<u32>,
}

/// Reads a trace: one JSON object per line with `arrival` (seconds, not before the line above), `prompt` and `output` (tokens), and, where prompts share a
/// beginning, `prefix` (a number that names it) and `prefix_tokens`. `most` is the context.
///
/// # Errors
/// The first line that is not understood, by its number and the field.
pub fn trace(text: &str, most: u32) -> Result<Vec<Arrival>, TrafficError> {
    let mut arrivals: Vec<Arrival> = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let wrong = |problem: String| TrafficError::Line { line: index + 1, problem };
        if text.trim().is_empty() {
            return Err(wrong("it is empty; every line is a request".into()));
        }
        let line: Line = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let before = arrivals.last().map_or(0.0, |arrival| arrival.at);
        if !line.arrival.is_finite() || line.arrival < 0.0 {
            return Err(wrong(format!("`arrival` is {}, but must be 0 seconds or later", line.arrival)));
        }
        if line.arrival < before {
            return Err(wrong(format!("`arrival` is {}, before the {before} of the line above", line.arrival)));
        }
        if line.arrival - before > MOST_GAP {
            let days = (line.arrival - before) / DAY;
            return Err(wrong(format!("`arrival` is {days:.1} days after the line above: a gap, or not in seconds")));
        }
        for (field, tokens) in [("prompt", line.prompt), ("output", line.output)] {
            if tokens == 0 {
                return Err(wrong(format!("`{field}` is 0, but must be at least 1 token")));
            }
        }
        if u64::from(line.prompt) + u64::from(line.output) > u64::from(most) {
            let (prompt, output) = (line.prompt, line.output);
            return Err(wrong(format!("`prompt` {prompt} and `output` {output} are more than the context of {most}")));
        }
        let prefix = match (line.prefix, line.prefix_tokens) {
            (None, None) => None,
            (Some(id), Some(tokens)) if tokens <= line.prompt => Some(Prefix { id, tokens }),
            (Some(_), Some(tokens)) => {
                return Err(wrong(format!("`prefix_tokens` is {tokens}, but `prompt` has {}", line.prompt)));
            }
            (Some(_), None) => return Err(wrong("`prefix` needs `prefix_tokens`".into())),
            (None, Some(_)) => return Err(wrong("`prefix_tokens` needs `prefix`".into())),
        };
        arrivals.push(Arrival { at: line.arrival, prompt: line.prompt, output: line.output, prefix });
    }
    if arrivals.is_empty() { Err(TrafficError::Empty) } else { Ok(arrivals) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: Lengths = Lengths { prompt: 100, output: 50, spread: 0.0, shared: 0, most: 4096 };

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let arrivals = poisson(4.0, 40_000, &LENGTHS, 1);
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        // Five standard errors.
        assert!((mean - 0.25).abs() < 5.0 * 0.25 / 200.0, "{mean}");
        assert!((deviation / mean - 1.0).abs() < 0.05, "{deviation}");
    }

    #[test]
    fn a_day_is_busy_at_noon_and_quiet_at_night() {
        assert!((day_share(0.0, 0.2) - 0.2).abs() < 1e-12 && (day_share(DAY / 2.0, 0.2) - 1.0).abs() < 1e-12);
        let arrivals = day(2.0, 0.2, 0.0, 60_000, &LENGTHS, 3);
        let within = |from: f64, to: f64| {
            arrivals.iter().filter(|arrival| (from..to).contains(&(arrival.at / 3600.0))).count() as f64
        };
        let (night, noon) = (within(0.0, 1.0), within(11.5, 12.5));
        assert!((noon / 3600.0 / 2.0 - 1.0).abs() < 0.06, "{noon}");
        assert!((night / 3600.0 / 2.0 - day_share(1800.0, 0.2)).abs() < 0.06, "{night}");
    }

    #[test]
    fn lengths_keep_their_mean_and_stay_within_the_context() {
        let lengths = Lengths { prompt: 300, output: 60, spread: 0.5, shared: 10, most: 4096 };
        let arrivals = users(20_000, &lengths, 7);
        let mean = |of: fn(&Arrival) -> u32| arrivals.iter().map(|a| f64::from(of(a))).sum::<f64>() / 20_000.0;
        assert!((mean(|a| a.prompt) / 300.0 - 1.0).abs() < 0.02 && (mean(|a| a.output) / 60.0 - 1.0).abs() < 0.02);
        assert!(arrivals.iter().all(|a| a.prompt >= 10 && a.prompt + a.output <= 4096 && a.output > 0));
        assert_eq!(arrivals, users(20_000, &lengths, 7));
        assert_ne!(arrivals, users(20_000, &lengths, 8));
    }

    #[test]
    fn a_line_that_is_wrong_is_named_with_its_field() {
        let good = r#"{"arrival": 1.0, "prompt": 5, "output": 2}"#;
        let refused = |line: &str, expected: &str| {
            let error = trace(&format!("{good}\n{line}\n"), 100).unwrap_err().to_string();
            assert!(error.starts_with("line 2 ") && error.contains(expected), "{error}");
        };
        refused(r#"{"arrival": 0.5, "prompt": 5, "output": 2}"#, "before the 1");
        refused(r#"{"arrival": 1e9, "prompt": 5, "output": 2}"#, "gap");
        refused(r#"{"arrival": -1, "prompt": 5, "output": 2}"#, "`arrival`");
        refused(r#"{"arrival": 2, "prompt": 0, "output": 2}"#, "`prompt`");
        refused(r#"{"arrival": 2, "prompt": 5, "output": 0}"#, "`output`");
        refused(r#"{"arrival": 2, "prompt": 99, "output": 2}"#, "context of 100");
        refused(r#"{"arrival": 2, "prompt": 5}"#, "output");
        refused(r#"{"arrival": 2, "prompt": 5, "output": 2, "user": 1}"#, "user");
        refused(r#"{"arrival": 2, "prompt": 5, "output": 2, "prefix": 1}"#, "prefix_tokens");
        refused(r#"{"arrival": 2, "prompt": 5, "output": 2, "prefix": 1, "prefix_tokens": 6}"#, "prefix_tokens");
        refused(r#"{"arrival": NaN, "prompt": 5, "output": 2}"#, "expected");
        refused("", "empty");
        assert_eq!(trace("", 100), Err(TrafficError::Empty));
        assert_eq!(trace(good, 100).unwrap()[0].prompt, 5);
    }

    #[test]
    fn patterns_say_what_is_allowed() {
        for text in ["poisson:-1", "poisson:x", "poisson:0", "poisson:nan", "day:3:2", "users:0", "burst:1"] {
            let error = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("users:N"), "{error}");
        }
        assert_eq!("day:3:0.5".parse(), Ok(Pattern::Day { peak: 3.0, trough: 0.5 }));
    }
}

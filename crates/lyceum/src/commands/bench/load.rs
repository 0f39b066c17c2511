//! A load on a server of the OpenAI API: clients that each wait for their answer before they ask again, or arrivals that wait for nobody.

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde::Deserialize;
use serde_json::{Value, json};
use spec::random::{below, hash, unit};
use std::io::{BufRead, BufReader};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use ureq::Agent;

/// Names this use among all uses of a seed.
const PURPOSE: u64 = 0x6c6f_6164;

/// What is asked of the server.
pub struct Load {
    /// Its API, up to and including `/v1`.
    pub url: String,
    /// Clients that ask at once; with `rate`, what is asked at once at most.
    pub clients: usize,
    /// Requests in all.
    pub requests: usize,
    /// Nothing is asked later than this.
    pub until: Option<Duration>,
    /// Arrivals per second, Poisson; `None`: a client asks when it has its answer.
    pub rate: Option<f64>,
    /// Tokens of each prompt, random ones.
    pub prompt_tokens: usize,
    /// How many of these are the same in all prompts.
    pub shared: usize,
    /// Tokens of each answer.
    pub gen_tokens: usize,
    /// Ids are below this.
    pub vocab: u64,
    /// Of prompts and arrivals.
    pub seed: u64,
}

/// What came of one request.
struct Answer {
    first: f64,
    /// Seconds between one part of the answer and the next.
    gaps: Vec<f64>,
    seconds: f64,
    prompt_tokens: u64,
    cached: u64,
    tokens: u64,
}

/// What came of all.
pub struct Figures {
    seconds: f64,
    answers: Vec<Answer>,
    errors: Vec<String>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    choices: Vec<Value>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Load {
    /// Asks everything; `progress` is told how much is answered.
    ///
    /// # Errors
    /// A server that cannot be reached or names no model. Requests that fail are counted instead.
    pub fn run(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Figures> {
        let agent = agent();
        let model = self.model(&agent)?;
        let (answers, errors) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Instant::now();
        let arrivals = self.arrivals();
        thread::scope(|scope| {
            for _ in 0..self.clients {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= self.requests || self.until.is_some_and(|until| start.elapsed() >= until) {
                            break;
                        }
                        if let Some(&arrival) = arrivals.get(index) {
                            thread::sleep(Duration::from_secs_f64(arrival).saturating_sub(start.elapsed()));
                        }
                        match self.ask(&agent, &model, index as u64) {
                            Ok(answer) => push(&answers, answer),
                            Err(error) => push(&errors, format!("{error:#}")),
                        }
                        progress(done.fetch_add(1, Ordering::Relaxed) + 1, self.requests);
                    }
                });
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        let unwrap = |error: std::sync::PoisonError<_>| error.into_inner();
        let errors = errors.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Figures { seconds, answers: answers.into_inner().unwrap_or_else(unwrap), errors })
    }

    /// Moments of arrival in seconds, if clients do not wait for answers.
    fn arrivals(&self) -> Vec<f64> {
        let Some(rate) = self.rate else { return Vec::new() };
        let gap = |i| -(1.0 - unit(hash(self.seed, PURPOSE, u64::MAX, i))).ln() / rate;
        let mut at = 0.0;
        let next = |i| {
            at += gap(i);
            at
        };
        (0..self.requests as u64).map(next).collect()
    }

    fn model(&self, agent: &Agent) -> Result<String> {
        let url = format!("{}/models", self.url);
        let answer = agent.get(&url).call().into_diagnostic().wrap_err_with(|| format!("no answer from {url}"))?;
        let list: Value = answer.into_body().read_json().into_diagnostic().wrap_err_with(|| url.clone())?;
        let name = list["data"][0]["id"].as_str().ok_or_else(|| miette!("{url} names no model"))?;
        Ok(name.to_owned())
    }

    fn prompt(&self, request: u64) -> Vec<u64> {
        let whose = |position: usize| if position < self.shared { u64::MAX - 1 } else { request };
        // Special tokens mostly have small ids.
        let low = self.vocab / 8;
        let id = |p: usize| low + below(hash(self.seed, PURPOSE, whose(p), p as u64), self.vocab - low);
        (0..self.prompt_tokens).map(id).collect()
    }

    fn ask(&self, agent: &Agent, model: &str, request: u64) -> Result<Answer> {
        let body = json!({
            "model": model,
            "prompt": self.prompt(request),
            "max_tokens": self.gen_tokens,
            "temperature": 0,
            "ignore_eos": true,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let start = Instant::now();
        let response = agent.post(format!("{}/completions", self.url)).send_json(&body).into_diagnostic()?;
        if !response.status().is_success() {
            let status = response.status();
            return Err(miette!("{status}: {}", response.into_body().read_to_string().unwrap_or_default()));
        }
        let mut answer = Answer { first: 0.0, gaps: Vec::new(), seconds: 0.0, prompt_tokens: 0, cached: 0, tokens: 0 };
        let mut last = None;
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.into_diagnostic()?;
            let Some(data) = line.strip_prefix("data:").map(str::trim).filter(|data| *data != "[DONE]") else {
                continue;
            };
            let part: Part = serde_json::from_str(data).into_diagnostic().wrap_err_with(|| data.to_owned())?;
            if let Some(error) = part.error {
                return Err(miette!("{error}"));
            }
            if let Some(usage) = part.usage {
                answer.tokens = usage.completion_tokens;
                answer.prompt_tokens = usage.prompt_tokens;
                answer.cached = usage.prompt_tokens_details.and_then(|d| d.cached_tokens).unwrap_or(0);
            }
            if !part.choices.is_empty() {
                let now = start.elapsed().as_secs_f64();
                match last.replace(now) {
                    None => answer.first = now,
                    Some(before) => answer.gaps.push(now - before),
                }
            }
        }
        answer.seconds = start.elapsed().as_secs_f64();
        if answer.tokens == 0 {
            return Err(miette!("the stream ended without saying how many tokens it had"));
        }
        Ok(answer)
    }
}

/// With a connection for each request: some servers close one after a few requests without saying so.
fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .no_delay(true)
        .build()
        .into()
}

fn push<T>(list: &Mutex<Vec<T>>, value: T) {
    list.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(value);
}

/// The value that a fraction `p` of sorted values does not exceed.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let index = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(index.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

impl Figures {
    fn sorted(&self, of: impl Fn(&Answer) -> Vec<f64>) -> Vec<f64> {
        let mut all: Vec<f64> = self.answers.iter().flat_map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// As one object; times in seconds.
    pub fn json(&self) -> Value {
        let (first, gaps) = (self.sorted(|a| vec![a.first]), self.sorted(|a| a.gaps.clone()));
        let speed = self.sorted(|a| vec![a.tokens as f64 / a.seconds]);
        let total = |of: fn(&Answer) -> u64| self.answers.iter().map(of).sum::<u64>();
        let spread = |sorted: &[f64]| json!({ "p50": percentile(sorted, 0.5), "p90": percentile(sorted, 0.9), "p95": percentile(sorted, 0.95), "p99": percentile(sorted, 0.99), "max": percentile(sorted, 1.0) });
        json!({
            "answered": self.answers.len(),
            "failed": self.errors.len(),
            "first_error": self.errors.first(),
            "seconds": self.seconds,
            "output_tokens": total(|a| a.tokens),
            "output_tokens_per_s": total(|a| a.tokens) as f64 / self.seconds,
            "prompt_tokens": total(|a| a.prompt_tokens),
            "cached_tokens": total(|a| a.cached),
            "first_token_s": spread(&first),
            "between_parts_s": spread(&gaps),
            "tokens_per_s_of_a_request": spread(&speed),
        })
    }

    /// For people.
    pub fn text(&self) -> Vec<(String, String)> {
        let figures = self.json();
        let ms = |what: &str, p: &str| figures[what][p].as_f64().unwrap_or(0.0) * 1e3;
        let spread = |what: &str| {
            format!("{:.1} ms median, {:.1} p90, {:.1} p99", ms(what, "p50"), ms(what, "p90"), ms(what, "p99"))
        };
        let mut rows = vec![
            ("Answered".to_owned(), format!("{} of {}", self.answers.len(), self.answers.len() + self.errors.len())),
            ("Output".to_owned(), format!("{:.1} tokens/s", figures["output_tokens_per_s"].as_f64().unwrap_or(0.0))),
            ("First token after".to_owned(), spread("first_token_s")),
            ("Between tokens".to_owned(), spread("between_parts_s")),
            (
                "From the cache".to_owned(),
                format!("{} of {} prompt tokens", figures["cached_tokens"], figures["prompt_tokens"]),
            ),
        ];
        rows.extend(self.errors.first().map(|error| ("First error".to_owned(), error.clone())));
        rows
    }
}

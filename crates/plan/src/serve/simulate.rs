//! Simulated time: requests go to copies of a model, and each does what it does until the next request comes.

use super::replica::{Measured, Replica};
use super::service::Service;
use super::traffic::Arrival;
use batch::{ConfigError, Refusal, Totals};
use std::collections::VecDeque;
use thiserror::Error;

/// Requests and when they come.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// Each at its time.
    Open(Vec<Arrival>),
    /// So many users; each asks again as soon as it is answered.
    Closed {
        /// Users who ask.
        users: usize,
        /// What they ask for.
        requests: Vec<Arrival>,
    },
}

/// A simulation that cannot go on.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SimulationError {
    /// The scheduler cannot be.
    #[error(transparent)]
    Scheduler(#[from] ConfigError),
    /// A request that can never be served.
    #[error("request {number} can never be served: {refusal}")]
    Refused {
        /// Which, from 0.
        number: usize,
        /// Why.
        refusal: Refusal,
    },
    /// Nobody to serve.
    #[error("there is no copy of the model to send requests to")]
    Nobody,
}

/// Copies of a model and what they measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulated {
    /// One per copy.
    pub measured: Vec<Measured>,
    /// The schedulers' sums, one per copy.
    pub totals: Vec<Totals>,
    /// Seconds from the beginning to the last event.
    pub seconds: f64,
}

/// Serves a load. Each request goes to the copy with the fewest requests for its weight (`weights`: requests that a copy can hold per
/// second, say; all alike if empty), the first of several.
///
/// # Errors
/// A request that can never be served.
pub fn simulate(services: &[&Service], weights: &[f64], load: &Load, seed: u64) -> Result<Simulated, SimulationError> {
    let mut replicas = services.iter().map(|service| Replica::new(service, seed)).collect::<Result<Vec<_>, _>>()?;
    if replicas.is_empty() {
        return Err(SimulationError::Nobody);
    }
    // In a closed load, when the next request of each user who waits for nothing comes to the scheduler; none else waits for anybody.
    let overhead = |which: usize| services[which].roofline.efficiency().request_seconds;
    let (requests, mut ready) = match load {
        Load::Open(requests) => (requests, VecDeque::new()),
        Load::Closed { users, requests } => (requests, std::iter::repeat_n(overhead(0), *users).collect()),
    };
    let (mut next, mut now) = (0, 0.0f64);
    loop {
        let (at, which) = replicas.iter().enumerate().fold((f64::INFINITY, 0), |(at, which), (i, replica)| {
            let event = replica.next_event();
            if event < at { (event, i) } else { (at, which) }
        });
        let arrival = requests.get(next);
        let arrives = match load {
            Load::Open(_) => arrival.map(|arrival| arrival.at),
            Load::Closed { .. } => arrival.and(ready.front().copied()),
        };
        match (arrival, arrives) {
            (Some(arrival), Some(time)) if time <= at => {
                now = now.max(time);
                let chosen = route(&replicas, weights);
                let arrival = Arrival { at: time, ..*arrival };
                replicas[chosen]
                    .submit(&arrival, next as u64, time)
                    .map_err(|refusal| SimulationError::Refused { number: next, refusal })?;
                next += 1;
                ready.pop_front();
            }
            _ if at.is_finite() => {
                now = at;
                for _ in 0..replicas[which].advance() {
                    let comes = now + overhead(which);
                    ready.insert(ready.partition_point(|time| *time <= comes), comes);
                }
            }
            _ => break,
        }
    }
    Ok(Simulated {
        measured: replicas.iter().map(|replica| replica.measured().clone()).collect(),
        totals: replicas.iter().map(Replica::totals).collect(),
        seconds: now,
    })
}

/// The copy with the fewest requests for its weight.
fn route(replicas: &[Replica<'_>], weights: &[f64]) -> usize {
    let load = |i: usize| (replicas[i].outstanding() as f64 + 1.0) / weights.get(i).copied().unwrap_or(1.0);
    (1..replicas.len()).fold(0, |best, i| if load(i) < load(best) { i } else { best })
}

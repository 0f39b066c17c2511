//! Several clusters and a day's demand: which of them serve in which hour, and what it is worth to shut the others down or to lend them.

use super::report::{Answers, Spread};
use super::service::Service;
use super::simulate::{Load, SimulationError, simulate};
use super::steady::Steady;
use super::traffic::{Lengths, day_share, poisson};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Hours of a day.
pub const HOURS: usize = 24;
/// Clusters at most: every set of them is considered in every hour.
const MOST_CLUSTERS: usize = 8;
/// A simulation of so many requests at least.
const REQUESTS: usize = 1000;
/// ... and of so many times those that run at once, so that it reaches its steady state.
const TURNS: usize = 3;
/// Rates are found to this share.
const PRECISE: f64 = 0.02;

/// Users of one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Requests per second at its busiest.
    pub peak: f64,
    /// Share of it when it is quietest.
    pub trough: f64,
    /// Hour (UTC) of the peak.
    pub peak_hour: f64,
}

/// What is promised to users.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// Seconds that 95 of 100 first tokens do not pass.
    pub ttft_p95: f64,
    /// Seconds that 95 of 100 gaps between tokens do not pass.
    pub itl_p95: f64,
    /// Share of what a cluster can serve that is planned for.
    pub headroom: f64,
}

/// One cluster.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub service: Service,
    /// Seconds that the network adds to a first token.
    pub network: f64,
    /// US dollars that an hour of the whole cluster earns or saves when it does not serve.
    pub idle_value: f64,
    /// Whether that is by lending it; it is shut down otherwise.
    pub lent: bool,
    /// Seconds until it serves again.
    pub start: f64,
}

/// A fleet that cannot be planned.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum FleetError {
    /// A value out of range.
    #[error("{field} is {value}; {allowed}")]
    Value {
        /// Which.
        field: String,
        /// What it is.
        value: f64,
        /// What is allowed.
        allowed: String,
    },
    /// A cluster that breaks the promise even for a single request.
    #[error(
        "cluster `{name}` cannot keep the promise: alone on it a request has its first token after {ttft:.3} s and the next ones every {itl:.4} s"
    )]
    Slow {
        /// Which.
        name: String,
        /// Seconds.
        ttft: f64,
        /// Seconds.
        itl: f64,
    },
    /// A simulation that cannot go on.
    #[error(transparent)]
    Simulation(#[from] SimulationError),
}

/// What a cluster can serve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Capacity {
    /// Its name.
    pub name: String,
    /// Requests per second that keep the promise.
    pub rate: f64,
    /// US dollars for 1000 requests at that rate.
    pub dollars_per_1k_requests: f64,
}

/// One hour of the plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hour {
    /// Which (UTC).
    pub hour: usize,
    /// Requests per second.
    pub demand: f64,
    /// Clusters that serve, by name.
    pub serving: Vec<String>,
    /// Share of what they can serve; above 1 where all of them are not enough.
    pub utilisation: f64,
    /// US dollars.
    pub dollars: f64,
    /// Time to the first token as simulated, network apart.
    pub ttft: Spread,
    /// Time between tokens as simulated.
    pub itl: Spread,
}

/// A day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Day {
    /// What each cluster can serve.
    pub capacities: Vec<Capacity>,
    /// Hour by hour.
    pub hours: Vec<Hour>,
    /// US dollars of a day with all clusters serving.
    pub always_on: f64,
    /// US dollars of the planned day, starts included.
    pub planned: f64,
    /// US dollars of that which starts cost.
    pub starts: f64,
    /// Hours in which all clusters together are not enough.
    pub short: Vec<usize>,
}

impl Promise {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self) -> Result<(), FleetError> {
        let above = "allowed is a number above 0".to_owned();
        positive("promise.ttft_p95", self.ttft_p95, &above)?;
        positive("promise.itl_p95", self.itl_p95, &above)?;
        match self.headroom > 0.0 && self.headroom <= 1.0 {
            true => Ok(()),
            false => Err(value("promise.headroom", self.headroom, "allowed is above 0, up to 1")),
        }
    }
}

impl Region {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self) -> Result<(), FleetError> {
        positive("regions.peak", self.peak, "allowed is a number of requests per second above 0")?;
        if !(0.0..=1.0).contains(&self.trough) {
            return Err(value("regions.trough", self.trough, "it is a share of the peak: allowed is 0 to 1"));
        }
        match (0.0..24.0).contains(&self.peak_hour) {
            true => Ok(()),
            false => Err(value("regions.peak_hour", self.peak_hour, "allowed is 0 to below 24")),
        }
    }

    fn demand(&self, hour: usize) -> f64 {
        // The curve peaks at noon.
        let at = (hour as f64 + 0.5 - self.peak_hour + 12.0).rem_euclid(24.0);
        self.peak * day_share(at * 3600.0, self.trough)
    }
}

fn value(field: &str, value: f64, allowed: &str) -> FleetError {
    FleetError::Value { field: field.into(), value, allowed: allowed.into() }
}

fn positive(field: &str, given: f64, allowed: &str) -> Result<(), FleetError> {
    if given.is_finite() && given > 0.0 { Ok(()) } else { Err(value(field, given, allowed)) }
}

/// Plans a day: what each cluster can serve by simulation, the cheapest set of clusters for each hour (starts included), and each hour simulated.
///
/// # Errors
/// Values out of range, clusters that are too slow for the promise, requests that can never be served.
pub fn plan_day(
    sites: &[Site],
    regions: &[Region],
    promise: &Promise,
    lengths: &Lengths,
    seed: u64,
) -> Result<Day, FleetError> {
    promise.validate()?;
    regions.iter().try_for_each(Region::validate)?;
    if sites.is_empty() || sites.len() > MOST_CLUSTERS {
        let allowed = format!("allowed are 1 to {MOST_CLUSTERS}");
        return Err(value("the number of clusters", sites.len() as f64, &allowed));
    }
    let rates = sites.iter().map(|site| capacity(site, promise, lengths, seed)).collect::<Result<Vec<_>, _>>()?;
    let demand: Vec<f64> = (0..HOURS).map(|hour| regions.iter().map(|region| region.demand(hour)).sum()).collect();
    let sets = choose(sites, &rates, &demand, promise.headroom);
    let mut hours = Vec::with_capacity(HOURS);
    for (hour, (&set, &demand)) in sets.iter().zip(&demand).enumerate() {
        let (ttft, itl) = simulate_hour(sites, &rates, set, demand, lengths, seed ^ hour as u64)?;
        hours.push(Hour {
            hour,
            demand,
            serving: members(sites, set).map(|(_, site)| site.name.clone()).collect(),
            utilisation: demand / members(sites, set).map(|(index, _)| rates[index]).sum::<f64>(),
            dollars: hourly(sites, set),
            ttft,
            itl,
        });
    }
    let starts: f64 = (0..HOURS).map(|hour| start_cost(sites, sets[(hour + HOURS - 1) % HOURS], sets[hour])).sum();
    let all: f64 = sites.iter().map(|site| site.service.dollars_per_hour).sum();
    Ok(Day {
        capacities: sites
            .iter()
            .zip(&rates)
            .map(|(site, &rate)| Capacity {
                name: site.name.clone(),
                rate,
                dollars_per_1k_requests: site.service.dollars_per_hour / 3600.0 / rate * 1000.0,
            })
            .collect(),
        always_on: all * HOURS as f64,
        planned: hours.iter().map(|hour| hour.dollars).sum::<f64>() + starts,
        starts,
        short: hours.iter().filter(|hour| hour.utilisation > promise.headroom * (1.0 + 1e-9)).map(|h| h.hour).collect(),
        hours,
    })
}

/// Requests per second at which a cluster keeps the promise, within [`PRECISE`].
fn capacity(site: &Site, promise: &Promise, lengths: &Lengths, seed: u64) -> Result<f64, FleetError> {
    let service = &site.service;
    let run = |rate: f64, requests: usize| {
        let load = Load::Open(poisson(rate, requests, lengths, seed));
        simulate(&[service], &[], &load, seed).map(|simulated| Answers::of(&[service], &simulated))
    };
    let keeps = |answers: &Answers| {
        let ttft = answers.ttft.p95.is_none_or(|seconds| seconds + site.network <= promise.ttft_p95);
        ttft && answers.itl.p95.is_none_or(|seconds| seconds <= promise.itl_p95)
    };
    // So rare that nobody meets anybody.
    let alone = run(1e-4, 20)?;
    if !keeps(&alone) {
        let (ttft, itl) = (alone.ttft.p95.unwrap_or(0.0) + site.network, alone.itl.p95.unwrap_or(0.0));
        return Err(FleetError::Slow { name: site.name.clone(), ttft, itl });
    }
    let scheduler = service.scheduler();
    let requests = REQUESTS.max(TURNS * scheduler.max_running as usize);
    let batch = u64::from(scheduler.max_running) / service.roofline.layout().pipeline as u64;
    let context = f64::from(lengths.prompt) + f64::from(lengths.output) / 2.0;
    // No faster than if all of it decoded.
    let most = Steady::of(&service.roofline, batch.max(1), context).tokens_per_second / f64::from(lengths.output);
    let (mut yes, mut no) = (0.0, most * 1.05);
    while no - yes > PRECISE * no {
        let middle = (yes + no) / 2.0;
        if keeps(&run(middle, requests)?) {
            yes = middle;
        } else {
            no = middle;
        }
    }
    if yes > 0.0 {
        return Ok(yes);
    }
    Err(FleetError::Slow {
        name: site.name.clone(),
        ttft: alone.ttft.p95.unwrap_or(0.0) + site.network,
        itl: alone.itl.p95.unwrap_or(0.0),
    })
}

/// The clusters of a set of bits.
fn members(sites: &[Site], set: usize) -> impl Iterator<Item = (usize, &Site)> {
    sites.iter().enumerate().filter(move |(index, _)| set >> index & 1 == 1)
}

/// US dollars of an hour in which a set serves and the rest earns what it earns.
fn hourly(sites: &[Site], set: usize) -> f64 {
    let cost = |(index, site): (usize, &Site)| {
        site.service.dollars_per_hour - if set >> index & 1 == 1 { 0.0 } else { site.idle_value }
    };
    sites.iter().enumerate().map(cost).sum()
}

/// What is not earned while clusters start.
fn start_cost(sites: &[Site], before: usize, now: usize) -> f64 {
    members(sites, now & !before).map(|(_, site)| site.idle_value * site.start / 3600.0).sum()
}

/// The set of each hour: enough for the demand, cheapest over a day that repeats.
fn choose(sites: &[Site], rates: &[f64], demand: &[f64], headroom: f64) -> Vec<usize> {
    let sets = 1usize << sites.len();
    let rate = |set: usize| members(sites, set).map(|(index, _)| rates[index]).sum::<f64>();
    // All of them, where not even they are enough; none never.
    let enough = |set: usize, demand: f64| set == sets - 1 || (set > 0 && rate(set) * headroom >= demand);
    // Three days, of which the second neither knows its beginning nor its end.
    let days: Vec<f64> = demand.iter().copied().cycle().take(3 * HOURS).collect();
    let mut best = vec![0.0; sets];
    let mut origins: Vec<Vec<usize>> = Vec::with_capacity(days.len());
    for &demand in &days {
        let step = (0..sets).map(|now| {
            if !enough(now, demand) {
                return (f64::INFINITY, 0);
            }
            let from = (0..sets).map(|before| (best[before] + start_cost(sites, before, now), before));
            let (cost, before) = from.fold((f64::INFINITY, 0), |a, b| if b.0 < a.0 { b } else { a });
            (cost + hourly(sites, now), before)
        });
        let (costs, before): (Vec<f64>, Vec<usize>) = step.unzip();
        (best, _) = (costs, origins.push(before));
    }
    let mut set = (0..sets).fold(sets - 1, |a, b| if best[b] < best[a] { b } else { a });
    let mut path = Vec::with_capacity(days.len());
    for before in origins.iter().rev() {
        path.push(set);
        set = before[set];
    }
    path.reverse();
    path[HOURS..2 * HOURS].to_vec()
}

/// A piece of an hour, simulated: requests go to the clusters that serve, in proportion to what they can.
fn simulate_hour(
    sites: &[Site],
    rates: &[f64],
    set: usize,
    demand: f64,
    lengths: &Lengths,
    seed: u64,
) -> Result<(Spread, Spread), FleetError> {
    let services: Vec<&Service> = members(sites, set).map(|(_, site)| &site.service).collect();
    let weights: Vec<f64> = members(sites, set).map(|(index, _)| rates[index]).collect();
    if demand <= 0.0 {
        return Ok(Default::default());
    }
    let running: usize = services.iter().map(|service| service.scheduler().max_running as usize).sum();
    let load = Load::Open(poisson(demand, REQUESTS.max(TURNS * running), lengths, seed));
    let answers = Answers::of(&services, &simulate(&services, &weights, &load, seed)?);
    Ok((answers.ttft, answers.itl))
}

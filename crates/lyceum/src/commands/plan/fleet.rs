//! `lyceum plan serve --fleet`: several clusters and a day's demand.

use super::serve::{dollars, spread};
use super::subject;
use crate::failure::misuse;
use crate::output;
use miette::{Context, IntoDiagnostic, Result};
use plan::serve::fleet::{Day, Promise, Region, Site, plan_day};
use plan::serve::{Deployment, Lengths, Shape};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// A fleet's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    requests: Requests,
    promise: Promise,
    regions: Vec<Region>,
    clusters: Vec<Cluster>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requests {
    prompt_tokens: u32,
    output_tokens: u32,
    #[serde(default)]
    spread: f64,
    #[serde(default)]
    shared_tokens: u32,
}

/// One cluster: as many devices as one copy of the model takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    name: String,
    hardware: String,
    /// US dollars for an hour of one device.
    price: Option<f64>,
    /// Seconds that the network adds to a first token.
    #[serde(default)]
    network: f64,
    /// US dollars for an hour of one device that somebody else (training, say) pays while it does not serve.
    lend: Option<f64>,
    /// US dollars for an hour of one device that are saved while it is shut down.
    #[serde(default)]
    saved: f64,
    /// Seconds until it serves again.
    #[serde(default)]
    start: f64,
    deployment: Deployment,
}

/// Plans the day of the fleet that `file` describes.
pub fn run(file: &Path, shape: &Shape, seed: u64, json: bool) -> Result<()> {
    let text = subject::read(file)?;
    let fleet: File = toml::from_str(&text).into_diagnostic().wrap_err_with(|| file.display().to_string())?;
    let lengths = Lengths {
        prompt: fleet.requests.prompt_tokens,
        output: fleet.requests.output_tokens,
        spread: fleet.requests.spread,
        shared: fleet.requests.shared_tokens,
        most: shape.context,
    };
    lengths.validate().into_diagnostic()?;
    let typical = lengths.prompt + lengths.output;
    let sites = fleet.clusters.iter().map(|cluster| {
        cluster.site(shape, typical).wrap_err_with(|| format!("{}: cluster `{}`", file.display(), cluster.name))
    });
    let sites = sites.collect::<Result<Vec<_>>>()?;
    let day = plan_day(&sites, &fleet.regions, &fleet.promise, &lengths, seed).into_diagnostic()?;
    if json { output::json(&json!(day)) } else { print(&day, &sites) }
}

impl Cluster {
    fn site(&self, shape: &Shape, typical: u32) -> Result<Site> {
        let (profile, cluster) = subject::hardware(&self.hardware)?;
        let devices = cluster.devices;
        let price = match (self.price, &profile.device.price_per_hour) {
            (Some(price), _) => price,
            (None, Some(figure)) => figure.value,
            (None, None) => {
                return Err(misuse(format!("nobody says what `{}` costs: give `price`", profile.device.id)));
            }
        };
        for (field, value) in [
            ("price", price),
            ("network", self.network),
            ("lend", self.lend.unwrap_or(0.0)),
            ("saved", self.saved),
            ("start", self.start),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(misuse(format!("`{field}` is {value}; it must be 0 or more")));
            }
        }
        if self.saved > price {
            return Err(misuse(format!("`saved` is {}, more than the price of {price}", self.saved)));
        }
        if self.deployment.copies(devices).into_diagnostic()? != 1 {
            return Err(misuse(format!(
                "{devices} devices hold several copies of the model: give each a cluster of {} devices",
                self.deployment.layout().devices()
            )));
        }
        let service = self.deployment.service(shape, &profile, None, typical, price).into_diagnostic()?;
        let lend = self.lend.unwrap_or(0.0);
        Ok(Site {
            name: self.name.clone(),
            service,
            network: self.network,
            idle_value: lend.max(self.saved) * devices as f64,
            lent: lend > self.saved,
            start: self.start,
        })
    }
}

fn print(day: &Day, sites: &[Site]) -> Result<()> {
    let capacity = day.capacities.iter().zip(sites).map(|(capacity, site)| {
        let idle = if site.lent { "lent" } else { "shut down" };
        let text = format!(
            "{:.2} requests/s keep the promise, ${} per 1k requests; {idle} it is worth ${} an hour",
            capacity.rate,
            dollars(capacity.dollars_per_1k_requests),
            dollars(site.idle_value)
        );
        (capacity.name.clone(), text)
    });
    output::facts(&capacity.collect::<Vec<_>>())?;
    output::line("")?;
    let hours = day.hours.iter().map(|hour| {
        let text = format!(
            "{:7.2} requests/s  {:5.1}% of {:<28} ${:<8} first token {}",
            hour.demand,
            100.0 * hour.utilisation,
            hour.serving.join(", "),
            dollars(hour.dollars),
            spread(&hour.ttft)
        );
        (format!("{:02}:00", hour.hour), text)
    });
    output::facts(&hours.collect::<Vec<_>>())?;
    output::line("")?;
    let mut rows = vec![
        ("All serving, a day".to_owned(), format!("${}", dollars(day.always_on))),
        ("As planned".to_owned(), format!("${}, ${} of it for starts", dollars(day.planned), dollars(day.starts))),
        (
            "Saved".to_owned(),
            format!(
                "${} ({:.1}%)",
                dollars(day.always_on - day.planned),
                100.0 * (1.0 - day.planned / day.always_on.max(f64::MIN_POSITIVE))
            ),
        ),
    ];
    if !day.short.is_empty() {
        let hours = day.short.iter().map(|hour| format!("{hour:02}:00")).collect::<Vec<_>>().join(", ");
        rows.push(("Not enough".to_owned(), format!("all clusters together are too few at {hours}")));
    }
    output::facts(&rows)
}

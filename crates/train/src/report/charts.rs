//! The curves of a report, as data for whoever draws them.

use super::Report;
use super::steps::{HeldOut, Loads, Steps};
use super::thinned::{Merge, Spread};
use super::time::Speed;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Curves over the same steps, in one frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// In what, and how to read it.
    pub about: String,
    /// Its curves.
    pub series: Vec<Series>,
    /// A height to compare with, and its name.
    pub line: Option<(f64, &'static str)>,
    /// Whether the first values may lie above the frame, so that the rest can be seen.
    pub settles: bool,
    /// Steps that were skipped.
    pub marks: Vec<u64>,
}

/// One curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Steps.
    pub x: Vec<u64>,
    /// Means; nothing where there is nothing.
    pub y: Vec<Option<f64>>,
    /// The least and the largest, where they are told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub low: Vec<Option<f64>>,
    /// The largest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub high: Vec<Option<f64>>,
    /// Whether its points are measured apart from each other.
    pub points: bool,
    /// Which colour, counted from 0; what belongs together has the same.
    pub hue: usize,
}

/// The experts' loads in time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeatMap {
    /// Steps, a column each.
    pub x: Vec<u64>,
    /// By layer: how many experts, and their [`code`]s as two hexadecimal digits each, column by column.
    pub layers: Vec<(usize, String)>,
    /// By layer: the codes of the last steps together.
    pub latest: Vec<String>,
}

/// Everything that is drawn.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Charts {
    /// Frames in order.
    pub charts: Vec<Chart>,
    /// In a sparse model.
    pub loads: Option<HeatMap>,
}

impl Charts {
    /// Of a report.
    pub fn of(report: &Report) -> Self {
        let steps = report.log.steps.entries();
        let mut charts = vec![loss(report), gradient_norm(report)];
        charts.push(chart("Learning rate", "of a step", vec![series("learning rate", steps, |step| step.lr)]));
        charts.push(chart("Batch", "tokens of a step", vec![series("batch", steps, |step| step.batch)]));
        let loads = report.log.loads.as_ref().map(|loads| heat_map(loads.entries()));
        if loads.is_some() {
            charts.extend(experts(steps));
        }
        charts.extend(speed(report.timing.speed.entries()));
        charts.retain(|chart| !chart.series.is_empty());
        Self { charts, loads }
    }
}

fn chart(title: &'static str, about: &str, series: Vec<Series>) -> Chart {
    let series = series.into_iter().filter(|series| series.y.iter().any(Option::is_some)).collect();
    Chart { title, about: about.into(), series, line: None, settles: false, marks: Vec::new() }
}

fn loss(report: &Report) -> Chart {
    let (steps, held_out) = (report.log.steps.entries(), report.log.held_out.entries());
    let learned = steps.iter().flat_map(|step| step.sources.keys());
    let measured = held_out.iter().flat_map(|measured| measured.losses.keys());
    let names: BTreeSet<_> = learned.chain(measured).collect();
    let mut all = vec![with_range(series("all", steps, |step| step.loss), steps, |step| step.loss)];
    for (number, name) in names.iter().copied().enumerate() {
        // A single source is all there is.
        let hue = if names.len() > 1 { number + 1 } else { 0 };
        if names.len() > 1 {
            let of_source = series(name, steps, |step| step.sources.get(name).copied().unwrap_or_default());
            all.push(Series { hue, ..of_source });
        }
        let of = |measured: &HeldOut| measured.losses.get(name).copied().unwrap_or_default();
        let measured = points(&format!("{name}, held out"), held_out, |measured| measured.step, of);
        all.push(Series { points: true, hue, ..measured });
    }
    let about = "nats per token; the shade is the range of the batches that a point stands for";
    Chart { settles: true, marks: marks(report), ..chart("Loss", about, all) }
}

fn gradient_norm(report: &Report) -> Chart {
    let steps = report.log.steps.entries();
    let norm = with_range(series("gradient norm", steps, |step| step.gradient_norm), steps, |step| step.gradient_norm);
    let clip = report.recipe.as_ref().map(|recipe| recipe.train.clip).filter(|clip| *clip > 0.0);
    let about = "global, before clipping";
    let line = clip.map(|clip| (clip, "clip"));
    Chart { line, settles: true, marks: marks(report), ..chart("Gradient norm", about, vec![norm]) }
}

fn marks(report: &Report) -> Vec<u64> {
    report.log.skipped.iter().map(|skipped| skipped.step).collect()
}

fn experts(steps: &[Steps]) -> Vec<Chart> {
    let ends = |f: fn(&Spread) -> f64, of: fn(&Steps) -> Spread| move |step: &Steps| Spread::of([f(&of(step))]);
    let load = vec![
        series("most loaded", steps, ends(|spread| spread.max, |step| step.most)),
        Series { hue: 1, ..series("least loaded", steps, ends(|spread| spread.min, |step| step.least)) },
    ];
    let about = "of all layers and experts, the one with the most and the one with the fewest choices";
    let load = Chart { line: Some((1.0, "even")), ..chart("Expert load", about, load) };
    let share = |step: &Steps| Spread::of((step.choices > 0).then(|| step.dropped as f64 / step.choices as f64));
    let entropies =
        vec![with_range(series("router", steps, |step| step.router_entropy), steps, |step| step.router_entropy)];
    let about = "nats of the router's probabilities, mean over layers; the shade is the range of the layers";
    let entropy = chart("Router entropy", about, entropies);
    let evenness = with_range(series("loads", steps, |step| step.load_entropy), steps, |step| step.load_entropy);
    let about = "entropy of the experts' loads over that of even ones, mean and range of the layers; 1 is even";
    let evenness = Chart { line: Some((1.0, "even")), ..chart("Evenness of loads", about, vec![evenness]) };
    let z = Series { hue: 1, ..series("z", steps, |step| step.z) };
    let auxiliary = vec![series("balance", steps, |step| step.balance), z];
    let auxiliary = chart("Auxiliary losses", "coefficients apart; a balance of 1 is even", auxiliary);
    let dropped = chart("Dropped", "share of the choices that no expert took", vec![series("dropped", steps, share)]);
    let drops = steps.iter().any(|step| step.dropped > 0);
    let mut all = vec![load, evenness, entropy, auxiliary];
    all.extend(drops.then_some(dropped));
    all
}

fn speed(speed: &[Speed]) -> [Chart; 2] {
    let of = |name: &str, f: fn(&Speed) -> Spread| points(name, speed, |speed| speed.step, f);
    [
        chart(
            "Speed",
            "tokens per second of steps done for the first time",
            vec![of("tokens/s", |speed| speed.tokens_per_second)],
        ),
        chart(
            "MFU",
            "percent of the machine's peak that the model's arithmetic alone comes to",
            vec![of("MFU", |speed| Spread::of(speed.mfu.mean().map(|mfu| 100.0 * mfu)))],
        ),
    ]
}

fn series(name: &str, steps: &[Steps], of: impl Fn(&Steps) -> Spread) -> Series {
    points(name, steps, |step| step.step, of)
}

fn points<T>(name: &str, entries: &[T], x: impl Fn(&T) -> u64, of: impl Fn(&T) -> Spread) -> Series {
    Series {
        name: name.into(),
        x: entries.iter().map(x).collect(),
        y: entries.iter().map(|entry| of(entry).mean().map(short)).collect(),
        ..Series::default()
    }
}

fn with_range(series: Series, steps: &[Steps], of: impl Fn(&Steps) -> Spread) -> Series {
    let end = |f: fn(&Spread) -> f64| {
        let value = |step| Some(f(&of(step))).filter(|value| value.is_finite()).map(short);
        steps.iter().map(value).collect()
    };
    Series { low: end(|spread| spread.min), high: end(|spread| spread.max), ..series }
}

/// Five digits: more cannot be seen.
fn short(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

fn heat_map(loads: &[Loads]) -> HeatMap {
    let layers = loads.first().map_or(0, |first| first.layers.len());
    let by_layer = |layer: usize| {
        let experts = loads.iter().filter_map(|load| load.layers.get(layer)).map(Vec::len).max().unwrap_or(0);
        let columns = loads.iter().map(|load| codes(load.layers.get(layer).map_or(&[][..], Vec::as_slice), experts));
        (experts, columns.collect())
    };
    let latest = latest(loads);
    HeatMap {
        x: loads.iter().map(|load| load.step).collect(),
        layers: (0..layers).map(by_layer).collect(),
        latest: latest.layers.iter().map(|layer| codes(layer, layer.len())).collect(),
    }
}

/// The last steps: two columns, of which the last may hold few.
pub(super) fn latest(loads: &[Loads]) -> Loads {
    let mut last = Loads::default();
    loads[loads.len().saturating_sub(2)..].iter().for_each(|load| last.merge(load.clone()));
    last
}

/// Each expert's load over an even share; nothing where nothing was chosen.
pub(super) fn shares(load: &[u64]) -> Option<Vec<f64>> {
    let total: u64 = load.iter().sum();
    (total > 0).then(|| load.iter().map(|&n| n as f64 * load.len() as f64 / total as f64).collect())
}

/// The codes of a column of experts.
fn codes(load: &[u64], experts: usize) -> String {
    let shares = shares(load).unwrap_or_default();
    (0..experts).fold(String::new(), |mut text, expert| {
        let _ = write!(text, "{:02x}", shares.get(expert).map_or(0xff, |&share| code(share)));
        text
    })
}

/// A share as a byte: 0 for none at all, 128 for an even one, 24 more or less for each doubling or halving; 255 says that it is not known.
fn code(share: f64) -> u8 {
    if share > 0.0 { (128.0 + 24.0 * share.log2()).round().clamp(1.0, 254.0) as u8 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_a_dead_expert_from_a_starved_one() {
        assert_eq!([0.0, 1e-9, 0.5, 1.0, 2.0, 16.0, 1e9].map(code), [0, 1, 104, 128, 152, 224, 254]);
        assert_eq!(codes(&[0, 10, 10, 20], 4), "00808098");
        assert_eq!(codes(&[0, 0], 3), "ffffff");
    }

    #[test]
    fn five_digits_are_kept() {
        assert_eq!([0.0, 1.0 / 3.0, 12345.678, -2e-7 / 3.0].map(short), [0.0, 0.33333, 12346.0, -6.6667e-8]);
    }
}

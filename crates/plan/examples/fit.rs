//! Fits the training constants of each accelerator on the published runs that are marked `fit`, and prints them with the ledgers of all runs. Three constants
//! are fitted: the rows are too few to tell more apart.
//!
//!     cargo run --release -p plan --example fit
//!     cargo run --release -p plan --example fit ledger     # no fitting
//!     cargo run --release -p plan --example fit parts      # nor ledgers: the parts of each step

use plan::train::published::{Predicted, PublishedError, Run, memory_ledger, runs};
use plan::{Catalogue, Efficiency, Training};
use std::collections::BTreeMap;

/// Constants are tried in these steps, one after the other, until none gets better.
const STEPS: [f64; 3] = [0.08, 0.02, 0.005];
const MICROSECONDS: f64 = 1e-6;

/// Devices that have the constants of another, whose chip they are.
const SAME: [(&str, &str); 3] = [("a100-40g", "a100-80g"), ("h100-96g", "h100"), ("h800", "h100")];

fn main() -> Result<(), PublishedError> {
    let (catalogue, runs) = (Catalogue::embedded()?, runs()?);
    let known = Efficiency::embedded().unwrap_or_default();
    let mut constants: BTreeMap<String, Training> = known.into_iter().map(|(id, known)| (id, known.training)).collect();
    match std::env::args().nth(1).as_deref() {
        Some("parts") => return parts(&catalogue, &runs),
        Some("ledger") => {}
        _ => fit(&catalogue, &runs, &mut constants)?,
    }
    let of = |run: &Run| constants.get(run.hardware()).copied().unwrap_or_default();
    let predicted = runs.iter().filter_map(|run| run.predict(&catalogue, of(run)).transpose());
    show(&predicted.collect::<Result<Vec<_>, _>>()?);
    show(&memory_ledger(&catalogue)?);
    Ok(())
}

fn parts(catalogue: &Catalogue, runs: &[Run]) -> Result<(), PublishedError> {
    for run in runs.iter().filter(|run| run.step_seconds.is_some()) {
        let step = run.step(catalogue, Efficiency::of(run.hardware()).unwrap_or_default().training)?;
        println!(
            "{:28} {:.3} s of {:.3}, {} micro-batches",
            run.id,
            step.seconds,
            run.step_seconds.unwrap_or(0.0),
            step.micro_batches
        );
        let parts = step.parts().map(|(part, seconds)| format!("{part} {:.1}%", 100.0 * seconds / step.seconds));
        println!("    {}", parts.join(", "));
    }
    Ok(())
}

fn fit(catalogue: &Catalogue, runs: &[Run], constants: &mut BTreeMap<String, Training>) -> Result<(), PublishedError> {
    let mut devices: Vec<_> = runs.iter().filter(|run| run.fit).map(Run::hardware).collect();
    devices.dedup();
    for device in devices {
        let fit: Vec<_> = runs.iter().filter(|run| run.fit && run.hardware() == device).collect();
        let loss = |efficiency: Training| -> Result<f64, PublishedError> {
            if (Efficiency { training: efficiency, ..Efficiency::default() }).validate(device).is_err() {
                return Ok(f64::INFINITY);
            }
            let error =
                |run: &&Run| Ok(run.predict(catalogue, efficiency)?.map_or(0.0, |row| (1.0 + row.error).ln().powi(2)));
            fit.iter().map(error).sum()
        };
        let mut best = Efficiency::of(device).unwrap_or_default().training;
        let mut least = loss(best)?;
        for step in STEPS {
            loop {
                let before = least;
                for change in changes(step) {
                    let changed = change(best);
                    let loss = loss(changed)?;
                    if loss < least {
                        (least, best) = (loss, changed);
                    }
                }
                if least >= before {
                    break;
                }
            }
        }
        println!("[{device}]  # on {} rows, mean square {:.4}\n{best:#?}", fit.len(), least / fit.len() as f64);
        constants.insert(device.to_owned(), best);
        for (same, _) in SAME.iter().filter(|(_, of)| *of == device) {
            constants.insert((*same).to_owned(), best);
        }
    }
    Ok(())
}

type Change = Box<dyn Fn(Training) -> Training>;

/// The constants that are fitted, a step up and a step down.
fn changes(step: f64) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    for by in [step, -step] {
        all.push(Box::new(move |e| Training { products: e.products + by, ..e }));
        all.push(Box::new(move |e| Training { bandwidth: e.bandwidth + by, ..e }));
        let seconds = by * 5000.0 * MICROSECONDS;
        all.push(Box::new(move |e| Training { expert_layer_seconds: e.expert_layer_seconds + seconds, ..e }));
    }
    all
}

fn show(rows: &[Predicted]) {
    for row in rows {
        let kind = if row.fit { "fit" } else { "" };
        println!(
            "{:27} {:9} {:16} {:9.3}, measured {:9.3}, {:+6.1}% {kind}",
            row.id,
            row.hardware,
            row.what,
            row.predicted,
            row.measured,
            100.0 * row.error
        );
    }
    let mut scored: Vec<f64> = rows.iter().filter(|row| !row.fit).map(|row| row.error.abs()).collect();
    scored.sort_by(f64::total_cmp);
    if let (Some(median), Some(worst)) = (scored.get(scored.len() / 2), scored.last()) {
        println!("{} scored: median {:.1}%, worst {:.1}%", scored.len(), 100.0 * median, 100.0 * worst);
    }
}

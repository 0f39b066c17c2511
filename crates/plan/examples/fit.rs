//! Fits the training constants of each accelerator on the published runs that are marked `fit`, and prints them with the ledger of all runs.
//!
//!     cargo run --release -p plan --example fit
//!     cargo run --release -p plan --example fit ledger     # no fitting

use plan::train::published::{PublishedError, Run, ledger, runs};
use plan::{Catalogue, Efficiency};

fn main() -> Result<(), PublishedError> {
    let (catalogue, runs) = (Catalogue::embedded()?, runs()?);
    let mut devices: Vec<_> = runs.iter().map(Run::hardware).collect();
    devices.dedup();
    if std::env::args().nth(1).as_deref() == Some("ledger") {
        devices.clear();
    }
    for device in devices {
        let fit: Vec<_> = runs.iter().filter(|run| run.fit && run.hardware() == device).collect();
        let loss = |efficiency: Efficiency| -> Result<f64, PublishedError> {
            let errors = fit.iter().map(|run| Ok((1.0 + run.predict(&catalogue, efficiency)?.error).ln().powi(2)));
            errors.sum()
        };
        let known = Efficiency::of(device)?;
        let mut best = (f64::INFINITY, known);
        // Three constants alone, the others as they are: the rows are few.
        for products in (25..=47).map(|n| f64::from(n) / 50.0) {
            for activations in (3..=9).map(|n| f64::from(n) / 10.0) {
                for overlap in [0.0, 0.3, 0.5, 0.7, 0.9] {
                    let efficiency = Efficiency { products, activations, overlap, ..known };
                    let loss = loss(efficiency)?;
                    best = if loss < best.0 { (loss, efficiency) } else { best };
                }
            }
        }
        println!("[{device}]  # on {} rows, mean square {:.4}\n{:#?}", fit.len(), best.0 / fit.len() as f64, best.1);
    }
    // With the constants of catalogue/efficiency.toml.
    for row in ledger(&catalogue)? {
        let kind = if row.fit { "fit" } else { "" };
        println!(
            "{:20} {:10} {:9.3} s, measured {:9.3} s, {:+6.1}% {kind}",
            row.id,
            row.hardware,
            row.predicted,
            row.measured,
            100.0 * row.error
        );
    }
    Ok(())
}

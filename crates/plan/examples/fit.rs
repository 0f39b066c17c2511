//! Fits the training constants of each accelerator on the published runs that are marked `fit`, and prints them with the ledger of all runs.
//!
//!     cargo run --release -p plan --example fit

use plan::Catalogue;
use plan::train::Efficiency;
use plan::train::published::{PublishedError, Run, ledger, runs};

fn main() -> Result<(), PublishedError> {
    let (catalogue, runs) = (Catalogue::embedded()?, runs()?);
    let mut devices: Vec<_> = runs.iter().map(Run::hardware).collect();
    devices.dedup();
    for device in devices {
        let fit: Vec<_> = runs.iter().filter(|run| run.fit && run.hardware() == device).collect();
        let loss = |efficiency: Efficiency| -> Result<f64, PublishedError> {
            let errors = fit.iter().map(|run| Ok((1.0 + run.predict(&catalogue, efficiency)?.error).ln().powi(2)));
            errors.sum()
        };
        let mut best = (f64::INFINITY, Efficiency::default());
        // Two constants alone: the rows are few.
        for products in (50..=95).map(|n| f64::from(n) / 100.0) {
            for overlap in (0..=18).map(|n| f64::from(n) / 20.0) {
                let efficiency = Efficiency { products, overlap, ..Efficiency::default() };
                let loss = loss(efficiency)?;
                best = if loss < best.0 { (loss, efficiency) } else { best };
            }
        }
        println!("[{device}]  # on {} rows, mean square {:.4}\n{:#?}", fit.len(), best.0 / fit.len() as f64, best.1);
    }
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

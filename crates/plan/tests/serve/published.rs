//! Others' measurements: the ledger of errors must not get worse.

use plan::serve::published::{Entry, ledger};

fn median(mut errors: Vec<f64>) -> f64 {
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

fn of<'a>(entries: &'a [Entry], run: &'a str, metric: &'a str) -> Vec<f64> {
    entries.iter().filter(|e| e.run.starts_with(run) && e.metric.contains(metric)).map(|e| e.error().abs()).collect()
}

#[test]
fn the_ledger_does_not_get_worse() {
    let entries = ledger().unwrap();
    for entry in &entries {
        let Entry { run, metric, users, fit, measured, predicted } = entry;
        println!("{run} {metric} {users:?} fit {fit}: {measured:.2} {predicted:.2} {:+.1}%", 100.0 * entry.error());
        assert!(predicted.is_finite() && *predicted > 0.0);
    }
    // At most half of the six published rows are for fitting.
    let mut rows: Vec<(&str, bool)> = entries.iter().map(|e| (&e.run[..3], e.fit)).collect();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!((rows.len(), rows.iter().filter(|row| row.1).count()), (6, 3));
    let worst = entries.iter().filter(|e| !e.fit).map(|e| e.error().abs()).fold(0.0, f64::max);
    let scored: Vec<f64> = entries.iter().filter(|e| !e.fit).map(|e| e.error().abs()).collect();
    let scored = median(scored);
    println!("scored: median {scored:.3}, worst {worst:.3}");
    assert!(scored <= 0.084 && worst <= 0.841, "median {scored:.3}, worst {worst:.3}");
    for (run, metric, most) in LEDGER {
        let found = median(of(&entries, run, metric));
        println!("{run} {metric}: {found:.3}");
        assert!(found <= most, "{run} {metric}: the median error is {found:.3}, it was {most}");
    }
}

/// Median absolute errors by row and kind of number. To be lowered as the planner learns, never raised.
const LEDGER: [(&str, &str, f64); 9] = [
    ("I01", "prefill", 0.083),
    ("I01", "decode", 0.034),
    ("I02", "ms", 0.079),
    ("I03", "ms", 0.120),
    ("I04", "ms", 0.015),
    ("I05", "output token", 0.079),
    ("I05", "first token", 0.231),
    ("I06", "output token", 0.056),
    ("I06", "first token", 0.697),
];

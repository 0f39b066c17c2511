//! One request at a time, all alike: an M/D/1 queue, whose mean wait is known (Pollaczek and Khinchine).

use crate::common::{LENGTHS, LIMITS, service};
use plan::serve::traffic::{Lengths, poisson, users};
use plan::serve::{Layout, Limits, Load, simulate};

#[test]
fn one_at_a_time_waits_as_pollaczek_and_khinchine_say() {
    let limits = Limits { step_sequences: 1, ..LIMITS };
    let service = service(2, Layout::ONE, limits);
    let lengths = Lengths { prompt: 64, output: 8, spread: 0.0, ..LENGTHS };
    // Alone, a request takes this long: its first token after `first`, its last after `whole`.
    let alone = simulate(&[&service], &[], &Load::Closed { users: 1, requests: users(1, &lengths, 1) }, 1).unwrap();
    let whole = alone.seconds - service.roofline.efficiency().request_seconds;
    let first = alone.measured[0].ttft.mean().unwrap();
    for load in [0.3, 0.6, 0.8] {
        let expected = load * whole / (2.0 * (1.0 - load));
        let requests = 10_000;
        let means: Vec<f64> = (0..8)
            .map(|seed| {
                let arrivals = poisson(load / whole, requests, &lengths, seed);
                let simulated = simulate(&[&service], &[], &Load::Open(arrivals), seed).unwrap();
                simulated.measured[0].ttft.mean().unwrap() - first
            })
            .collect();
        let mean = means.iter().sum::<f64>() / 8.0;
        let variance = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / 7.0;
        // Five standard errors of the mean of eight independent runs, and the microsecond in which the scheduler counts.
        let error = 5.0 * (variance / 8.0).sqrt() + 1e-6;
        assert!((mean - expected).abs() < error, "load {load}: {mean} instead of {expected}, error {error}");
        assert!(error < 0.25 * expected, "the test tells nothing: {error} of {expected}");
    }
}

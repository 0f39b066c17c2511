//! Conservation and determinism.

use crate::common::{LENGTHS, LIMITS, drafting, roofline, service};
use plan::serve::traffic::{Arrival, Lengths, poisson, users};
use plan::serve::{Answers, Formats, Layout, Limits, Load, Roofline, Service, Simulated, simulate};
use plan::{Accelerator, Efficiency, Precision};

/// Every request ends once, with all its tokens and no others.
fn assert_conserved(load: &[Arrival], simulated: &Simulated) {
    let sum = |of: fn(&plan::serve::Measured) -> u64| simulated.measured.iter().map(of).sum::<u64>();
    assert_eq!(sum(|m| m.finished), load.len() as u64);
    assert_eq!(sum(|m| m.output_tokens), load.iter().map(|a| u64::from(a.output)).sum::<u64>());
    assert_eq!(sum(|m| m.prompt_tokens), load.iter().map(|a| u64::from(a.prompt)).sum::<u64>());
    // Each request has one first token; all others have one before them.
    assert_eq!(sum(|m| m.ttft.count()), load.len() as u64);
    assert_eq!(sum(|m| m.itl.count()), sum(|m| m.output_tokens) - load.len() as u64);
    let generated: u64 = simulated.totals.iter().map(|totals| totals.generated).sum();
    assert_eq!(generated, sum(|m| m.output_tokens));
}

fn services() -> Vec<(&'static str, Service)> {
    let pipeline = Layout { tensor: 2, pipeline: 4, first_layers: Some(1), ..Layout::ONE };
    vec![
        ("one device", service(4, Layout::ONE, LIMITS)),
        ("pipeline", service(8, pipeline, LIMITS)),
        ("experts", service(4, Layout { expert: 4, overlap: true, ..Layout::ONE }, LIMITS)),
        ("drafts", drafting(4, 0.7, false)),
        ("adaptive drafts", drafting(4, 0.7, true)),
        ("little memory", small_cache()),
    ]
}

/// A device whose cache holds a few sequences only: they preempt each other.
fn small_cache() -> Service {
    let mut device: Accelerator = crate::common::h100();
    let shape = crate::common::shape(4);
    // 1024 bytes a token in four layers of 256 16-bit numbers... and room for some 1500 tokens.
    device.memory.value = (shape.parameters * 2.0 + 1500.0 * 4.0 * 512.0) / plan::serve::layout::MEMORY_SHARE;
    let formats = Formats::of(Precision::Bf16);
    let roofline = Roofline::new(&shape, Layout::ONE, formats, &device, Efficiency::default()).unwrap();
    Service::new(roofline, None, Limits { context: 1024, ..LIMITS }, 2.0).unwrap()
}

#[test]
fn every_request_ends_once_with_the_tokens_it_asked_for() {
    for (name, service) in services() {
        let lengths = Lengths { most: service.scheduler().context, ..LENGTHS };
        let load = poisson(40.0, 400, &lengths, 5);
        let simulated = simulate(&[&service], &[], &Load::Open(load.clone()), 5).unwrap();
        assert_conserved(&load, &simulated);
        if name == "little memory" {
            assert!(simulated.totals[0].preemptions > 0, "the cache was never short");
        }
        let busy = simulated.measured[0].busy / service.roofline.layout().pipeline as f64;
        assert!(busy <= simulated.seconds * (1.0 + 1e-9), "{name}: busy {busy} of {}", simulated.seconds);
        let measured = &simulated.measured[0];
        let parts = measured.parts.seconds() + measured.draft_seconds;
        assert!((parts / measured.busy - 1.0).abs() < 1e-9, "{name}: the parts are {parts} of {}", measured.busy);
        let split = measured.prompt_seconds + measured.output_seconds;
        assert!((split / measured.busy - 1.0).abs() < 1e-9, "{name}: prompts and output are {split}");
    }
}

#[test]
fn equal_seeds_give_equal_results() {
    for (name, service) in services() {
        let lengths = Lengths { most: service.scheduler().context, ..LENGTHS };
        let run = |seed| simulate(&[&service], &[], &Load::Open(poisson(30.0, 200, &lengths, seed)), seed).unwrap();
        assert_eq!(run(1), run(1), "{name}");
        assert_ne!(run(1), run(2), "{name}");
    }
}

#[test]
fn money_is_conserved_and_no_number_is_missing() {
    let service = service(4, Layout::ONE, LIMITS);
    let load = Load::Open(poisson(30.0, 300, &LENGTHS, 9));
    let simulated = simulate(&[&service], &[], &load, 9).unwrap();
    let answers = Answers::of(&[&service], &simulated);
    let dollars = answers.dollars;
    let spent = dollars.per_1k_prompt.unwrap() * answers.prompt_tokens as f64 / 1000.0
        + dollars.per_1k_output.unwrap() * answers.output_tokens as f64 / 1000.0;
    assert!((spent / dollars.total - 1.0).abs() < 1e-9, "{spent} of {}", dollars.total);
    assert!((answers.time.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(answers.ttft.p50 <= answers.ttft.p95 && answers.itl.p95 <= answers.itl.p99);
    // Whoever reads fast reads along, too.
    assert!(answers.readers[0].users >= answers.readers[1].users);
    let json = serde_json::to_string(&answers).unwrap();
    assert!(!json.contains("null") || answers.accepted.is_none(), "{json}");
    assert!(!json.to_lowercase().contains("nan"), "{json}");
}

#[test]
fn nothing_to_do_is_no_division_by_zero() {
    let service = service(4, Layout::ONE, LIMITS);
    let simulated = simulate(&[&service], &[], &Load::Open(Vec::new()), 0).unwrap();
    let answers = Answers::of(&[&service], &simulated);
    assert_eq!((answers.requests, answers.dollars.per_1k_output), (0, None));
    let numbers = [answers.busy, answers.flops_share, answers.prefix_hits, answers.output_tokens_per_second];
    assert!(numbers.iter().all(|number| *number == 0.0), "{numbers:?}");
}

#[test]
fn users_who_ask_again_are_always_as_many() {
    let service = service(4, Layout::ONE, LIMITS);
    let lengths = Lengths { spread: 0.0, ..LENGTHS };
    let requests = users(90, &lengths, 3);
    let simulated = simulate(&[&service], &[], &Load::Closed { users: 9, requests: requests.clone() }, 3).unwrap();
    assert_conserved(&requests, &simulated);
    // All alike, so that they take turns: Little's law with nine in the system.
    let throughput = 90.0 / simulated.seconds;
    let whole = simulated.measured[0].whole.mean().unwrap();
    assert!((throughput * whole / 9.0 - 1.0).abs() < 0.02, "{}", throughput * whole);
}

#[test]
fn a_shared_beginning_is_computed_once() {
    let service = service(4, Layout::ONE, LIMITS);
    let run = |shared| {
        let lengths = Lengths { prompt: 512, shared, spread: 0.0, ..LENGTHS };
        let simulated = simulate(&[&service], &[], &Load::Open(poisson(20.0, 100, &lengths, 1)), 1).unwrap();
        (simulated.measured[0].cached_tokens, simulated.totals[0].rows, simulated.measured[0].ttft.mean())
    };
    let (none, shared) = (run(0), run(320));
    assert_eq!(none.0, 0);
    // All but the first find it.
    assert_eq!(shared.0, 99 * 320);
    assert_eq!(none.1 - shared.1, 99 * 320);
    assert!(shared.2 < none.2);
}

#[test]
fn drafts_change_when_tokens_come_and_nothing_else() {
    let load = Load::Open(poisson(2.0, 200, &LENGTHS, 4));
    let run = |service: &Service| simulate(&[service], &[], &load, 4).unwrap();
    let (plain, never, mostly) =
        (run(&service(4, Layout::ONE, LIMITS)), run(&drafting(4, 0.0, false)), run(&drafting(4, 0.9, false)));
    assert_eq!(plain.measured[0].output_tokens, never.measured[0].output_tokens);
    assert_eq!(plain.measured[0].output_tokens, mostly.measured[0].output_tokens);
    assert_eq!(never.totals[0].accepted, 0);
    // Of four drafts that are each right with probability a, given those before, a + a^2 + a^3 + a^4 are accepted.
    let share = mostly.totals[0].accepted as f64 / mostly.totals[0].drafted as f64;
    let expected = (0.9 + 0.81 + 0.729 + 0.6561) / 4.0;
    assert!((share / expected - 1.0).abs() < 0.03, "{share} of {expected}");
    assert!(never.measured[0].itl.mean() > plain.measured[0].itl.mean());
}

#[test]
fn more_load_makes_nobody_faster() {
    let service = service(4, Layout::ONE, LIMITS);
    let lengths = Lengths { spread: 0.0, ..LENGTHS };
    let ttft = |rate| {
        let simulated = simulate(&[&service], &[], &Load::Open(poisson(rate, 2000, &lengths, 2)), 2).unwrap();
        simulated.measured[0].ttft.mean().unwrap()
    };
    let waits: Vec<f64> = [1.0, 20.0, 60.0, 400.0].into_iter().map(ttft).collect();
    assert!(waits.is_sorted(), "{waits:?}");
}

#[test]
fn two_copies_share_what_one_cannot_serve() {
    let service = service(4, Layout::ONE, LIMITS);
    let load = poisson(150.0, 2000, &LENGTHS, 6);
    let run = |copies: usize| {
        let services = vec![&service; copies];
        let simulated = simulate(&services, &[], &Load::Open(load.clone()), 6).unwrap();
        assert_conserved(&load, &simulated);
        simulated
    };
    let (one, two) = (run(1), run(2));
    assert!(two.seconds <= one.seconds);
    let shares: Vec<u64> = two.measured.iter().map(|m| m.finished).collect();
    assert!(shares.iter().all(|&share| share > 900), "{shares:?}");
}

#[test]
fn a_full_pipeline_is_paced_by_its_slowest_stage() {
    let layout = Layout { pipeline: 4, ..Layout::ONE };
    let limits = Limits { step_sequences: 8, ..LIMITS };
    let service = service(8, layout, limits);
    let lengths = Lengths { prompt: 1, output: 400, spread: 0.0, ..LENGTHS };
    let requests = users(32, &lengths, 1);
    let simulated = simulate(&[&service], &[], &Load::Closed { users: 32, requests }, 1).unwrap();
    let itl = simulated.measured[0].itl.percentile(0.5).unwrap();
    let steady = plan::serve::steady::Steady::of(&roofline(8, layout), 8, 200.0);
    assert!((itl / steady.seconds_per_token - 1.0).abs() < 0.02, "{itl} and {}", steady.seconds_per_token);
}

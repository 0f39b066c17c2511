//! The roofline's limits and its monotonicity.

use crate::common::{h100, shape};
use plan::serve::steady::{Steady, batch_at_speed, turning_rows, turning_rows_with_cache};
use plan::serve::{Formats, KvSplit, LayerShape, Layout, Roofline, Shape, Work};
use plan::{Catalogue, Efficiency, Precision};
use proptest::prelude::*;

fn ideal(layout: Layout) -> Roofline {
    Roofline::new(&shape(4), layout, Formats::of(Precision::Bf16), &h100(), Efficiency::IDEAL).unwrap()
}

#[test]
fn one_row_reads_the_active_weights_and_many_rows_multiply_at_the_peak() {
    let (roofline, shape, device) = (ideal(Layout::ONE), shape(4), h100());
    let one = roofline.price(&Work::decode(&[None], 1.0, 1.0));
    let active: f64 = shape.layers.iter().map(LayerShape::active).sum::<f64>() + shape.head;
    let least = active * 2.0 / device.bandwidth.value;
    assert!(one.latency() >= least && one.latency() < 1.01 * least, "{} and {least}", one.latency());

    let mut many = Work::empty(1);
    many.add(&[None], 0, 8192, 8192);
    let price = roofline.price(&many);
    let pairs = 8192.0 * 8193.0 / 2.0;
    let flops = 8192.0 * shape.row_flops() + 4.0 * pairs * 8192.0;
    assert!((price.flops / flops - 1.0).abs() < 1e-12, "{} and {flops}", price.flops);
    assert!(price.latency() >= flops / device.peak(Precision::Bf16));
}

#[test]
fn experts_are_touched_as_the_law_of_expectation_says() {
    let layer = &shape(1).layers[0];
    assert!((layer.experts_touched(1.0) - 2.0).abs() < 1e-12);
    // Of 16 experts, 8 tokens with 2 each leave (1 - 1/8)^8 of them idle: 34.4%.
    let wide = LayerShape { experts: 16, ..layer.clone() };
    assert!((wide.experts_touched(8.0) - 16.0 * (1.0 - 0.875f64.powi(8))).abs() < 1e-12);
    assert!((wide.experts_touched(1e6) - 16.0).abs() < 1e-9);
}

#[test]
fn the_turning_batch_of_a_dense_layer_is_the_ridge() {
    let mut dense: Shape = shape(2);
    for layer in &mut dense.layers {
        (layer.expert, layer.experts, layer.top_k) = (0.0, 0, 0);
    }
    let device = h100();
    let formats = Formats::of(Precision::Bf16);
    let roofline = Roofline::new(&dense, Layout::ONE, formats, &device, Efficiency::IDEAL).unwrap();
    // 2 FLOPs and 2 bytes an element: as many rows as FLOPs a byte.
    let ridge = device.peak(Precision::Bf16) / device.bandwidth.value;
    assert_eq!(turning_rows(&roofline), Some(ridge.ceil() as u64));
    // All of eight experts are read for two of eight rows' work: four times the rows.
    let sparse = turning_rows(&ideal(Layout::ONE)).unwrap() as f64;
    assert!(sparse > 1.5 * ridge && sparse < 4.0 * ridge, "{sparse}");
    // Each row's cache takes longer to read than its attention to compute, so that a long context never turns.
    let many_heads = Shape {
        layers: dense.layers.iter().map(|l| LayerShape { kv: 4096.0, kv_heads: 16, ..l.clone() }).collect(),
        ..dense.clone()
    };
    let roofline = Roofline::new(&many_heads, Layout::ONE, formats, &device, Efficiency::IDEAL).unwrap();
    assert_eq!(turning_rows_with_cache(&roofline, 100_000.0), None);
}

#[test]
fn users_at_a_speed_are_the_last_batch_that_reaches_it() {
    let roofline = crate::common::roofline(8, Layout { pipeline: 2, ..Layout::ONE });
    for speed in [8.33, 33.33, 200.0] {
        let batch = batch_at_speed(&roofline, speed, 1000.0, 1 << 20);
        assert!(Steady::of(&roofline, batch, 1000.0).tokens_per_second_each >= speed);
        assert!(Steady::of(&roofline, batch + 1, 1000.0).tokens_per_second_each < speed);
    }
    assert_eq!(batch_at_speed(&roofline, 1e9, 1000.0, 1 << 20), 0);
}

#[test]
fn multi_query_caches_are_copied_or_split() {
    let formats = Formats::of(Precision::Bf16);
    let tokens = |kv| {
        let layout = Layout { tensor: 8, kv, ..Layout::ONE };
        layout.cache_tokens(&shape(4), formats, &h100(), 1000, None).unwrap() as f64
    };
    let ratio = tokens(KvSplit::Batch) / tokens(KvSplit::Heads);
    assert!((ratio - 8.0).abs() < 1e-3, "{ratio}");
}

#[test]
fn layers_are_divided_over_stages_without_loss() {
    for layers in 1..40 {
        for pipeline in 1..=layers {
            let stages = Layout { pipeline, ..Layout::ONE }.stage_layers(layers).unwrap();
            assert_eq!((stages.iter().sum::<usize>(), stages.len()), (layers, pipeline));
            assert!(stages[1..].iter().all(|&count| count >= stages[0] && count <= stages[0] + 2), "{stages:?}");
        }
    }
    let report = Layout { pipeline: 16, ..Layout::ONE }.stage_layers(120).unwrap();
    assert_eq!((report[0], report.iter().max()), (7, Some(&8)));
    let bytes = |layout: Layout| layout.weight_bytes(&shape(8), Precision::Bf16).unwrap().iter().sum::<f64>();
    let whole = shape(8).parameters * 2.0;
    assert!((bytes(Layout { pipeline: 4, ..Layout::ONE }) / whole - 1.0).abs() < 1e-9);
    assert!((bytes(Layout { tensor: 4, ..Layout::ONE }) * 4.0 / whole - 1.0).abs() < 1e-9);
}

#[test]
fn what_does_not_divide_or_fit_is_named() {
    let refused = |layout: Layout, expected: &str| {
        let error = layout.validate(&shape(4)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(Layout { tensor: 3, ..Layout::ONE }, "tensor is 3; it must divide the 16 heads: 1, 2, 4, 8, 16");
    refused(Layout { expert: 3, ..Layout::ONE }, "expert is 3; it must divide the 8 experts: 1, 2, 4, 8");
    refused(Layout { pipeline: 5, ..Layout::ONE }, "pipeline is 5; the model has 4 layers");
    refused(Layout { pipeline: 4, first_layers: Some(2), ..Layout::ONE }, "first_layers is 2");
    let large = shape(500);
    let fits = |layout: Layout| layout.cache_tokens(&large, Formats::of(Precision::Bf16), &h100(), 1000, None);
    let error = fits(Layout::ONE).unwrap_err().to_string();
    assert!(error.contains("does not fit") && error.contains("GB too little") && error.contains("--pp 2"), "{error}");
    assert!(fits(Layout { pipeline: 2, ..Layout::ONE }).is_ok());
}

#[test]
fn a_window_bounds_what_is_read_and_what_is_kept() {
    let window = Some(100);
    // Row by row the same as all at once.
    for (position, len) in [(0, 50), (0, 300), (80, 40), (500, 7), (99, 1), (100, 2)] {
        let mut chunk = Work::empty(1);
        chunk.add(&[window], position, len, 0);
        let pairs: f64 = (position..position + len).map(|p| f64::from((p + 1).min(100))).sum();
        let found = chunk.attended[0].prompt_pairs + chunk.attended[0].decode_pairs;
        assert!((found - pairs).abs() < 1e-6, "{position} {len}: {found} {pairs}");
        let first = (position + 1).saturating_sub(100);
        assert_eq!(chunk.attended[0].positions, f64::from(position + len - first), "{position} {len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn more_work_never_takes_less_time(
        rows in 1u32..4000, more in 0u32..1000, position in 0u32..4000, tensor in 0u32..4, pipeline in 1usize..4, batch in any::<bool>(),
        device in 0usize..9,
    ) {
        let kv = if batch { KvSplit::Batch } else { KvSplit::Heads };
        let layout = Layout { tensor: 1 << tensor, pipeline, kv, ..Layout::ONE };
        let catalogue = Catalogue::embedded().unwrap();
        let device = catalogue.iter().nth(device).unwrap();
        let new = |efficiency| Roofline::new(&shape(4), layout, Formats::of(Precision::Bf16), device, efficiency).unwrap();
        let (real, ideal) = (new(Efficiency::default()), new(Efficiency::IDEAL));
        let work = |rows, position| {
            let mut work = Work::empty(1);
            work.add(&[None], position, rows, 1);
            work
        };
        let (base, longer, later) = (work(rows, position), work(rows + more, position), work(rows, position + more));
        let seconds = |roofline: &Roofline, work: &Work| roofline.price(work).latency();
        prop_assert!(seconds(&real, &longer) >= seconds(&real, &base));
        prop_assert!(rows == 1 || seconds(&real, &later) >= seconds(&real, &base));
        // No kernel passes the roof, and no device its two limits.
        prop_assert!(seconds(&real, &base) > seconds(&ideal, &base));
        let price = ideal.price(&base);
        let stages = pipeline as f64;
        let least = (price.flops / ideal.peak()).max(price.bytes / ideal.bandwidth()) * stages;
        prop_assert!(seconds(&ideal, &base) >= least * 0.999, "{} and {least}", seconds(&ideal, &base));
        prop_assert!(price.stages.iter().all(|seconds| seconds.is_finite() && *seconds > 0.0));
    }
}

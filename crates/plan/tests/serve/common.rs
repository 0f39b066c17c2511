//! Small models, and devices to lay them over.

use plan::serve::{Draft, Formats, LayerShape, Layout, Lengths, Limits, Roofline, Service, Shape};
use plan::{Accelerator, Catalogue, Efficiency, Precision};

/// `layers` layers of 8 experts, top-2, Multi-Query; some 100M parameters a layer.
pub fn shape(layers: usize) -> Shape {
    let layer = LayerShape {
        shared: 4e6,
        expert: 12e6,
        experts: 8,
        top_k: 2,
        kv: 256.0,
        kv_heads: 1,
        pair_flops: 4.0 * 2048.0,
        decode_pair_flops: None,
        window: None,
        reductions: 2,
    };
    let head = 32_000.0 * 2048.0;
    let parameters = layers as f64 * layer.elements() + 2.0 * head;
    Shape {
        hidden: 2048.0,
        head,
        heads: 16,
        parameters,
        outside: 2.0 * head,
        layers: vec![layer; layers],
        context: 8192,
    }
}

pub fn h100() -> Accelerator {
    Catalogue::embedded().unwrap().get("h100").unwrap().clone()
}

pub fn roofline(layers: usize, layout: Layout) -> Roofline {
    Roofline::new(&shape(layers), layout, Formats::of(Precision::Bf16), &h100(), Efficiency::default()).unwrap()
}

pub const LIMITS: Limits = Limits { step_tokens: 512, step_sequences: 32, context: 8192, typical: 512 };

pub fn service(layers: usize, layout: Layout, limits: Limits) -> Service {
    Service::new(roofline(layers, layout), None, limits, 2.0 * layout.devices() as f64).unwrap()
}

pub fn drafting(layers: usize, acceptance: f64, adaptive: bool) -> Service {
    let draft = Draft { roofline: roofline(1, Layout::ONE), acceptance, most: 4, adaptive };
    Service::new(roofline(layers, Layout::ONE), Some(draft), LIMITS, 2.0).unwrap()
}

pub const LENGTHS: Lengths = Lengths { prompt: 200, output: 60, spread: 0.6, shared: 0, most: 8192 };

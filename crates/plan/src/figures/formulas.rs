//! How does each claim's value follow?

use super::Inputs;
use super::decode::price;
use crate::hardware::Precision::{Bf16, Int8, Tf32};
use crate::train::{Failures, Storage};
use spec::DecoderConfig;

/// A claim's computation.
pub(super) struct Formula {
    pub id: &'static str,
    pub text: &'static str,
    /// `None` where nothing can be computed.
    pub compute: Option<fn(&Inputs) -> f64>,
}

/// Every formula.
pub(super) fn all() -> Vec<Formula> {
    [model(), data(), training(), layout(), speed(), serving(), context()].into_iter().flatten().collect()
}

fn by(id: &'static str, text: &'static str, compute: fn(&Inputs) -> f64) -> Formula {
    Formula { id, text, compute: Some(compute) }
}

fn none(id: &'static str) -> Formula {
    Formula { id, text: "-", compute: None }
}

const DAY: f64 = 86_400.0;

fn model() -> Vec<Formula> {
    vec![
        by("P01", "sum of the parameter table", Inputs::parameters),
        by("P02", "parameters / GPT-3's", |i| i.parameters() / i.given("gpt3_parameters")),
        by("P03", "parameters less unvisited experts and embedding rows", Inputs::active),
        by("P04", "2 x active", |i| 2.0 * i.active()),
        by("P05", "2 x parameters", |i| 2.0 * i.parameters()),
        by("P06", "layers / GPT-3's", |i| i.job.config.layers.len() as f64 / i.given("gpt3_layers")),
        by("P07", "GPT-3's parameters", |i| i.given("gpt3_parameters")),
        none("P08"),
        by("P09", "active / GPT-3's parameters", |i| i.active() / i.given("gpt3_parameters")),
        by("P10", "attention + experts x expert + embedding, routers, norms", |i| {
            let outside = i.count.embedding + i.count.head + i.job.config.hidden_size as u64;
            let layers = i.count.layers.iter().map(|layer| layer.attention + layer.ffn);
            (outside + layers.sum::<u64>()) as f64
        }),
    ]
}

fn data() -> Vec<Formula> {
    vec![
        by("D01", "20 x active", |i| i.given("chinchilla_ratio") * i.active()),
        by("D02", "tokens less those of the two crawls", |i| {
            let sources = &i.recipe.data.sources;
            let weight = |named: fn(&str) -> bool| {
                sources.iter().filter(|s| named(&s.name)).filter_map(|s| s.weight).sum::<f64>()
            };
            let crawled = weight(|name| matches!(name, "commoncrawl" | "refinedweb"));
            i.tokens() * (1.0 - crawled / weight(|_| true)) / 1e12
        }),
        by("D03", "Chinchilla's tokens / parameters", |i| {
            i.given("chinchilla_tokens") / i.given("chinchilla_parameters")
        }),
        by("D04", "vision tokens / tokens: 6 x active is the same in both", |i| i.given("vision_tokens") / i.tokens()),
        by("D05", "bytes of a vision token / of a text token", |i| {
            i.given("vision_token_bytes") / i.given("text_token_bytes")
        }),
        by("B01", "batch x visited / experts", |i| i.batch() * i.visited() / i.experts()),
        by("B02", "batch / context", |i| i.batch() / i.context()),
        by("B03", "tokens / batch", |i| i.tokens() / i.batch()),
    ]
}

fn training() -> Vec<Formula> {
    fn utilisation(i: &Inputs, days: f64) -> f64 {
        i.compute() / (i.devices() * i.a100().peak(Bf16) * DAY * days)
    }
    vec![
        by("T01", "6 x active x tokens", Inputs::compute),
        by("T02_90d", "compute / (devices x peak x 90 days)", |i| utilisation(i, i.given("days_fast"))),
        by("T02_100d", "compute / (devices x peak x 100 days)", |i| utilisation(i, i.given("days_slow"))),
        by("T03", "devices x 24 h x middle of the days x price", |i| {
            i.devices() * 24.0 * (i.given("days_fast") + i.given("days_slow")) / 2.0 * price(i.a100())
        }),
        by("T04", "devices x 24 h x days x price", |i| {
            i.given("h100_devices") * 24.0 * i.given("h100_days") * price(&i.h100)
        }),
        by("T05", "compute / (devices x days x bf16 peak)", |i| {
            i.compute() / (i.given("h100_devices") * i.given("h100_days") * DAY * i.h100.peak(Bf16))
        }),
        by("T06", "reported T04 / reported T03", |i| i.reported("T04") / i.reported("T03")),
        none("T07"),
    ]
}

fn layout() -> Vec<Formula> {
    vec![
        by("L01", "devices / (tensor x pipeline)", |i| i.devices() / i.replica()),
        by("L02", "2 bytes x parameters / (tensor x pipeline)", |i| 2.0 * i.parameters() / i.replica()),
        by("L03", "weights + gradients + optimiser / replicas + activations + buffers", |i| i.memory().total()),
        by("L04", "(p - 1) / (m + p - 1)", |i| {
            let others = i.layout.recipe.pipeline as f64 - 1.0;
            others / (i.micro_batches() + others)
        }),
        by("L05", "kernels x 3/4 (recomputing) x m / (m + (p - 1) / 4 chunks) x goodput", |i| {
            let others = i.layout.recipe.pipeline as f64 - 1.0;
            let pipeline = i.micro_batches() / (i.micro_batches() + others / i.given("interleave"));
            i.given("kernel_share") * i.given("recompute_share") * pipeline * i.given("goodput")
        }),
        by("L06", "24 h / (failures a device-day x devices)", |i| {
            let per_day = i.a100().failures_per_day.as_ref().map(|figure| figure.value);
            Failures::new(i.parameters(), i.cluster.devices, per_day, Storage::default()).between / 3600.0
        }),
        by("L07", "2 x gradient bytes x (d - 1) / d / (share of the node's link)", |i| {
            let replicas = i.layout.data as f64;
            let link = i.given("node_bits") / 8.0 / i.a100().devices_per_node as f64 * i.given("network_share");
            2.0 * i.gradient_bytes() * (replicas - 1.0) / replicas / link
        }),
        by("L08", "devices that share NVLink", |i| i.a100().devices_per_node as f64),
    ]
}

fn speed() -> Vec<Formula> {
    fn node_bandwidth(i: &Inputs) -> f64 {
        i.h100.devices_per_node as f64 * i.h100.bandwidth.value
    }
    vec![
        by("I01", "words a minute / 60 x tokens a word", |i| i.given("words_slow") / 60.0 * i.given("tokens_per_word")),
        by("I02", "words a minute / 60 x tokens a word", |i| i.given("words_fast") / 60.0 * i.given("tokens_per_word")),
        by("I03", "words a minute / 60", |i| i.given("words_slow") / 60.0),
        by("I04", "8 x bandwidth / weight bytes", |i| {
            node_bandwidth(i) / (i.given("dense_parameters") * i.given("dense_bytes"))
        }),
        by("I05", "2 x parameters x tokens a second / (8 x peak)", |i| {
            let peak = i.h100.devices_per_node as f64 * i.h100.peak(Bf16);
            2.0 * i.given("dense_parameters") * i.given("slow_speed") / peak
        }),
        by("I06", "8 x bandwidth x share / tokens a second / bytes", |i| {
            node_bandwidth(i) * i.given("limit_share") / i.given("limit_speed") / i.given("limit_bytes")
        }),
        by("I07", "stated FLOP/s / stated bytes/s", |i| i.given("stated_flops") / i.given("stated_bandwidth")),
        by("I08", "2 x batch / bytes of a parameter", |i| {
            2.0 * i.given("intensity_batch") / i.given("intensity_bytes")
        }),
        by("I09", "K and V of PaLM with full attention x batch x context", palm_kv),
        by("I10", "that / 2 bytes x parameters", |i| palm_kv(i) / (2.0 * i.given("palm_parameters"))),
        by("I11", "8 x visited / experts", |i| i.given("small_batch") * i.visited() / i.experts()),
        by("I12", "4096 x visited / experts", |i| i.given("large_batch") * i.visited() / i.experts()),
    ]
}

/// Bytes of K and V of the report's batch, counted on a decoder with PaLM's attention.
fn palm_kv(i: &Inputs) -> f64 {
    let layer = i.job.config.layers[0].clone();
    let palm = DecoderConfig {
        layers: vec![layer; i.given("palm_layers") as usize],
        kv_heads: i.given("palm_heads") as usize,
        head_dim: i.given("palm_head_dim") as usize,
        ..i.job.config.clone()
    };
    palm.kv_bytes_per_token(2, 0) as f64 * i.given("palm_batch") * i.given("palm_context")
}

fn serving() -> Vec<Formula> {
    /// Sequences of `context` tokens whose K and V fit a device, as many as stages hold at once.
    fn sequences(i: &Inputs, context: f64) -> f64 {
        let usable = i.a100().memory.value * i.given("memory_share") - i.given("serve_reserve");
        let weights = 2.0 * i.parameters() / i.serving();
        (usable - weights) / (context * i.kv_bytes() / i.given("serve_pipeline"))
    }
    /// Dollars for a thousand prompt tokens: the layers and attention, no head.
    fn prefill(i: &Inputs) -> f64 {
        let flops = (i.job.flops.layers + i.job.flops.attention) as f64;
        let rate = i.a100().peak(Bf16) * i.given("prefill_share");
        1000.0 * flops / rate / 3600.0 * price(i.a100())
    }
    vec![
        by("I13", "tensor x pipeline", Inputs::serving),
        by("I14", "parameters / 15 nodes", |i| i.parameters() / i.given("full_nodes")),
        by("I15", "parameters / devices", |i| i.parameters() / i.serving()),
        by("I16", "2 bytes x parameters / devices", |i| 2.0 * i.parameters() / i.serving()),
        by("I17", "(92% of memory - weights - 2 GB) / K and V of 8k tokens", |i| sequences(i, i.context())),
        by("I18", "the same of 32k tokens", |i| sequences(i, i.given("long_context"))),
        by("I19", "devices x price / tokens a second: roofline, f16, 61% of bandwidth", |i| {
            i.decode_a100().dollars(i, price(i.a100()))
        }),
        by("I20", "devices x price / tokens a second: roofline, fp8, 80% of bandwidth", |i| {
            i.decode_h100().dollars(i, price(&i.h100))
        }),
        by("I21", "price ratio x bandwidth ratio x 2 (fp8)", |i| {
            let bandwidth = i.h100.bandwidth.value / i.a100().bandwidth.value;
            let bytes = i.decode_a100().precision.bytes() / i.decode_h100().precision.bytes();
            bandwidth * bytes * price(i.a100()) / price(&i.h100)
        }),
        by("I22", "100 x dollars", |i| 100.0 * i.decode_a100().dollars(i, price(i.a100()))),
        by("I23", "1 / (stages x weight bytes / bandwidth)", |i| {
            let stage = 2.0 * i.parameters() / i.serving() / i.a100().bandwidth.value;
            1.0 / (i.given("serve_pipeline") * stage)
        }),
        by("I24", "reported I19 / 3", |i| i.reported("I19") / i.given("davinci_ratio")),
        by("I25", "price of output / reported I19", |i| i.given("price_output") / i.reported("I19")),
        by("I26", "1 / utilisation", |i| 1.0 / i.given("utilisation")),
        by("I27", "(1 - a^(k + 1)) / (1 - a)", |i| {
            let (a, k) = (i.given("acceptance"), i.given("drafted"));
            (1.0 - a.powf(k + 1.0)) / (1.0 - a)
        }),
        by("I28", "a^k", |i| i.given("acceptance").powf(i.given("drafted"))),
        by("I29", "reported I19 / prefill at half the peak", |i| i.reported("I19") / prefill(i)),
        by("I30", "int8 peak / tf32 peak", |i| i.a100().peak(Int8) / i.a100().peak(Tf32)),
        by("I31", "layer FLOPs / active matrix elements", |i| {
            let elements = i.count.layers.iter().map(|layer| layer.active_matrices).sum::<u64>();
            i.job.flops.layers as f64 / elements as f64
        }),
        by("I32", "reported T03 / reported I19 x 1000", |i| i.reported("T03") / i.reported("I19") * 1000.0),
        by("I33", "a published measurement", |i| i.given("measured_mfu")),
    ]
}

fn context() -> Vec<Formula> {
    vec![
        by("X01", "(long / short)^2", |i| (i.given("context_long") / i.given("context_short")).powi(2)),
        none("X02"),
        by("X03", "0.73 x peak", |i| i.given("flash_share") * i.a100().peak(Bf16) / 1e12),
        by("X04", "225 TFLOP/s / peak", |i| i.given("flash_training") / i.a100().peak(Bf16)),
        none("X05"),
        none("X06"),
        by("X07", "a published model", |i| i.given("storywriter_context")),
        none("X08"),
        none("U01"),
        none("U02"),
        none("U03"),
        by("U04", "books x 100k + papers x 8k", |i| {
            i.given("books") * i.given("book_tokens") + i.given("papers") * i.given("paper_tokens")
        }),
    ]
}

//! How fast each kernel is, with the machine's limits beside it.
//!
//! `cargo bench -p tensor`, with a filter as criterion takes it: `-- matmul/int8`. `THREADS=1` fixes the number of threads. Products count
//! two operations per weight and row as elements (Gelem/s is GFLOP/s or Gop/s) and the weights they read as bytes.

use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use std::hint::black_box;
use std::time::Duration;
use tensor::{
    AttentionSpec, Chunk, Device, Dispatch, Expert, Format, Gating, KV_BLOCK, KvCache, KvFormat, Matrix, MatrixSource,
    QkTransform, Routing, Tensor, machine,
};

/// Weights rotated over, so that none is found in a cache.
const COLD_BYTES: usize = 256 << 20;

fn device() -> Device {
    let threads = std::env::var("THREADS").ok().and_then(|t| t.parse().ok());
    Device::new(threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())))
}

/// Numbers in -1..1 that repeat only after many.
fn value(i: usize) -> f32 {
    ((i as u32).wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

fn tensor(rows: usize, cols: usize) -> Tensor {
    let mut tensor = Tensor::zeros(rows, cols);
    for r in 0..rows {
        tensor.row_mut(r).iter_mut().enumerate().for_each(|(c, x)| *x = value(r * cols + c));
    }
    tensor
}

/// A matrix that costs little to make: codes and values without a meaning.
struct Weights {
    rows: usize,
    cols: usize,
    format: Format,
}

impl MatrixSource for Weights {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn format(&self) -> Format {
        self.format
    }
    fn read_f32(&self, row: usize, out: &mut [f32]) {
        out.iter_mut().enumerate().for_each(|(c, x)| *x = value(row * self.cols + c) * 0.03);
    }
    fn read_codes(&self, row: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
        let mask = if matches!(self.format, Format::Int4 | Format::Mxfp4) { 0x0f } else { 0x7b };
        codes.iter_mut().enumerate().for_each(|(c, x)| *x = (row * 31 + c * 7) as u8 & mask);
        scales.fill(1.0 / 64.0);
        true
    }
}

fn weights(device: &mut Device, format: Format, rows: usize, cols: usize) -> Matrix {
    Matrix::pack(device, &Weights { rows, cols, format }, format).unwrap_or_else(|e| panic!("{e}"))
}

fn group<'a>(c: &'a mut Criterion, name: String) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.sampling_mode(SamplingMode::Flat);
    group
}

fn limits(_: &mut Criterion) {
    let mut device = device();
    let limits = machine::measure(&mut device);
    println!(
        "limits of {} threads: {:.0} GFLOP/s in f32, {:.0} Gop/s in int8, {:.1} GB/s read (median {:.1})",
        device.threads(),
        limits.fma_gflops,
        limits.int8_gops,
        limits.read_gb_s,
        limits.read_gb_s_median
    );
}

fn matmul(c: &mut Criterion) {
    let mut device = device();
    let (n, k) = (5632, 1024);
    for format in Format::ALL {
        let mut group = group(c, format!("matmul/{format}"));
        let mut copies = Vec::new();
        for m in [1, 2, 4, 8, 64, 512] {
            let (x, mut out) = (tensor(m, k), Tensor::zeros(m, n));
            let bytes = tensor::packed_bytes(format, n, k);
            group.throughput(Throughput::ElementsAndBytes { elements: (2 * n * k * m) as u64, bytes: bytes as u64 });
            group.bench_function(format!("M={m}"), |b| {
                while copies.len() * bytes < COLD_BYTES {
                    copies.push(weights(&mut device, format, n, k));
                }
                let mut turn = 0;
                b.iter(|| {
                    turn = (turn + 1) % copies.len();
                    device.matmul(&copies[turn], &x, m, None, false, &mut out);
                });
            });
        }
    }
}

/// Sixteen experts, two to a token, in several layers, so that the weights are cold.
fn expert_ffn(c: &mut Criterion) {
    const EXPERTS: usize = 16;
    let mut device = device();
    let (hidden, ffn) = (1024, 1408);
    for format in [Format::Bf16, Format::Fp8, Format::Int8, Format::Int4] {
        let mut group = group(c, format!("expert_ffn/{format}"));
        let mut layers: Vec<Vec<Expert>> = Vec::new();
        for tokens in [1, 8, 32, 512] {
            let (x, mut out) = (tensor(tokens, hidden), Tensor::zeros(2 * tokens, hidden));
            let mut routing = Routing { top_k: 2, ..Routing::default() };
            for i in 0..tokens {
                let first = (i * 7 + 3) % EXPERTS;
                routing.experts.extend([first as u32, ((first + 1 + i % 5) % EXPERTS) as u32]);
            }
            let mut dispatch = Dispatch::default();
            dispatch.from_routing(&routing, EXPERTS);
            let visited = dispatch.offsets.windows(2).filter(|w| w[0] < w[1]).count();
            let bytes = tensor::packed_bytes(format, 2 * ffn, hidden) + tensor::packed_bytes(format, hidden, ffn);
            group.throughput(Throughput::ElementsAndBytes {
                elements: (2 * tokens * 2 * 3 * hidden * ffn) as u64,
                bytes: (visited * bytes) as u64,
            });
            group.bench_function(format!("tokens={tokens}"), |b| {
                while layers.len() * EXPERTS * bytes < COLD_BYTES {
                    let expert = |_| Expert {
                        gate_up: weights(&mut device, format, 2 * ffn, hidden),
                        gate_up_bias: None,
                        down: weights(&mut device, format, hidden, ffn),
                        down_bias: None,
                    };
                    layers.push((0..EXPERTS).map(expert).collect());
                }
                let mut turn = 0;
                b.iter(|| {
                    turn = (turn + 1) % layers.len();
                    device.expert_ffn(&layers[turn], Gating::SwiGlu, &dispatch, &x, &mut out);
                });
            });
        }
    }
}

const HEADS: usize = 16;
const HEAD_DIM: usize = 64;
const CONTEXT: usize = 4096;

/// Multi-query attention: one token over 4096 positions (in several layers), and a prompt of 512.
fn attention(c: &mut Criterion) {
    let mut device = device();
    let blocks: Vec<u32> = (0..(CONTEXT / KV_BLOCK) as u32).rev().collect();
    let scale = (HEAD_DIM as f32).powf(-0.5);
    let spec = AttentionSpec { heads: HEADS, scale, window: None, sinks: None, alibi_slopes: None };
    let transform = QkTransform { heads: HEADS, norms: None, rope: None };
    let width = (HEADS + 2) * HEAD_DIM;
    for format in KvFormat::ALL {
        let mut group = group(c, format!("attention/{}", format.name()));
        let layers = 1 + COLD_BYTES / KvCache::bytes_of(format, 1, blocks.len(), 1, HEAD_DIM);
        let mut cache = KvCache::new(format, layers, blocks.len(), 1, HEAD_DIM);
        let prompt = Chunk { row: 0, len: CONTEXT, position: 0, block_table: &blocks };
        let mut qkv = tensor(CONTEXT, width);
        (0..layers).for_each(|layer| device.store_kv(&mut cache, layer, &transform, &[prompt], &mut qkv));
        for (name, chunk) in [
            ("decode 4096", Chunk { len: 1, position: CONTEXT - 1, ..prompt }),
            ("prefill 512", Chunk { len: 512, ..prompt }),
        ] {
            let mut out = Tensor::zeros(chunk.len, HEADS * HEAD_DIM);
            let seen = chunk.len * (chunk.position + 1) + chunk.len * (chunk.len - 1) / 2;
            group.throughput(Throughput::Elements((4 * seen * HEADS * HEAD_DIM) as u64));
            group.bench_function(name, |b| {
                let mut turn = 0;
                b.iter(|| {
                    turn = (turn + 1) % layers;
                    device.attention(&cache, turn, &spec, &[chunk], &qkv, black_box(&mut out));
                });
            });
        }
    }
}

criterion_group!(kernels, limits, matmul, expert_ffn, attention);
criterion_main!(kernels);

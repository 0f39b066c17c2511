//! Attention over the block cache: against softmax in f64, and the law that a token's result is its own.

mod common;

use common::{Random, assert_close, assert_same_bits};
use proptest::prelude::*;
use tensor::{AttentionSpec, Chunk, Device, KV_BLOCK, KvCache, KvFormat, QkTransform, Tensor};

/// A layer: heads, head_dim and extras.
#[derive(Clone, Debug)]
struct Shape {
    format: KvFormat,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    sinks: Option<Vec<f32>>,
    alibi: Option<Vec<f32>>,
}

impl Shape {
    fn plain(format: KvFormat, heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { format, heads, kv_heads, head_dim, window: None, sinks: None, alibi: None }
    }

    fn with_extras(mut self, window: usize, random: &mut Random) -> Self {
        self.window = Some(window);
        self.sinks = Some(random.values(self.heads));
        self.alibi = Some((1..=self.heads).map(|h| 2f32.powi(-(h as i32))).collect());
        self
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).powf(-0.5)
    }

    fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Query, key or value head `head` (counted over the whole row) of a token.
    fn head<'a>(&self, qkv: &'a [f32], head: usize) -> &'a [f32] {
        &qkv[head * self.head_dim..][..self.head_dim]
    }

    /// What the cache keeps of a key or value.
    fn stored(&self, x: &[f32]) -> Vec<f64> {
        let scale = x.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        x.iter()
            .map(|&x| match self.format {
                KvFormat::F32 => f64::from(x),
                KvFormat::Bf16 => half::bf16::from_f32(x).to_f64(),
                KvFormat::Int8 => f64::from((x * inverse).round_ties_even()) * f64::from(scale),
            })
            .collect()
    }

    /// The definition, in f64: the output of the token at `position` and query head `head`.
    fn reference(&self, qkv: &[Vec<f32>], position: usize, head: usize) -> Vec<f64> {
        let kv_head = head / (self.heads / self.kv_heads);
        let query = self.head(&qkv[position], head);
        let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let scores: Vec<f64> = (first..=position)
            .map(|p| {
                let key = self.stored(self.head(&qkv[p], self.heads + kv_head));
                let dot: f64 = query.iter().zip(&key).map(|(q, k)| f64::from(*q) * k).sum();
                let slope = self.alibi.as_ref().map_or(0.0, |s| f64::from(s[head]));
                dot * f64::from(self.scale()) - slope * (position - p) as f64
            })
            .collect();
        let sink = self.sinks.as_ref().map_or(0.0, |s| f64::from(s[head]).exp());
        let total: f64 = scores.iter().map(|s| s.exp()).sum::<f64>() + sink;
        let mut out = vec![0.0; self.head_dim];
        for (p, score) in (first..=position).zip(&scores) {
            let value = self.stored(self.head(&qkv[p], self.heads + self.kv_heads + kv_head));
            out.iter_mut().zip(value).for_each(|(o, v)| *o += score.exp() / total * v);
        }
        out
    }
}

/// The tokens of one sequence and where they are cached.
#[derive(Clone)]
struct Sequence {
    qkv: Vec<Vec<f32>>,
    blocks: Vec<u32>,
}

/// Sequences of these lengths, their blocks drawn from `0..16` in a random order.
fn sequences(shape: &Shape, lengths: &[usize], seed: u64) -> Vec<Sequence> {
    let mut random = Random(seed);
    let mut free: Vec<u32> = (0..BLOCKS as u32).collect();
    lengths
        .iter()
        .map(|&len| {
            let qkv = (0..len).map(|_| random.values(shape.qkv_width())).map(|mut row| {
                // Large enough scores for the softmax to have something to choose.
                row.iter_mut().for_each(|x| *x *= 3.0);
                row
            });
            let qkv = qkv.collect();
            let blocks = (0..len.div_ceil(KV_BLOCK)).map(|_| free.swap_remove(random.below(free.len()))).collect();
            Sequence { qkv, blocks }
        })
        .collect()
}

const BLOCKS: usize = 16;
const LAYER: usize = 1;

/// A cache whose every block holds NaN, left by somebody else.
fn dirty_cache(device: &mut Device, shape: &Shape) -> KvCache {
    let mut cache = KvCache::new(shape.format, 2, BLOCKS, shape.kv_heads, shape.head_dim);
    let blocks: Vec<u32> = (0..BLOCKS as u32).collect();
    let chunk = Chunk { row: 0, len: BLOCKS * KV_BLOCK, position: 0, block_table: &blocks };
    let mut qkv = Tensor::zeros(chunk.len, shape.qkv_width());
    (0..chunk.len).for_each(|r| qkv.row_mut(r).fill(f32::NAN));
    let transform = QkTransform { heads: shape.heads, norms: None, rope: None };
    (0..2).for_each(|layer| device.store_kv(&mut cache, layer, &transform, &[chunk], &mut qkv));
    cache
}

/// Feeds the sequences, each step a list of (sequence, tokens), and returns the outputs of every token of every sequence.
fn run(device: &mut Device, shape: &Shape, all: &[Sequence], steps: &[Vec<(usize, usize)>]) -> Vec<Vec<Vec<f32>>> {
    let mut cache = dirty_cache(device, shape);
    let spec = AttentionSpec {
        heads: shape.heads,
        scale: shape.scale(),
        window: shape.window,
        sinks: shape.sinks.as_deref(),
        alibi_slopes: shape.alibi.as_deref(),
    };
    let mut outputs: Vec<Vec<Vec<f32>>> = all.iter().map(|_| Vec::new()).collect();
    for step in steps {
        let (mut chunks, mut rows): (Vec<Chunk<'_>>, Vec<&[f32]>) = (Vec::new(), Vec::new());
        for &(s, len) in step {
            let position = outputs[s].len();
            chunks.push(Chunk { row: rows.len(), len, position, block_table: &all[s].blocks });
            rows.extend(all[s].qkv[position..position + len].iter().map(|r| &r[..]));
        }
        let mut qkv = Tensor::from_rows(shape.qkv_width(), &rows);
        let transform = QkTransform { heads: shape.heads, norms: None, rope: None };
        device.store_kv(&mut cache, LAYER, &transform, &chunks, &mut qkv);
        let mut out = Tensor::zeros(rows.len(), shape.heads * shape.head_dim);
        device.attention(&cache, LAYER, &spec, &chunks, &qkv, &mut out);
        for (&(s, len), chunk) in step.iter().zip(&chunks) {
            outputs[s].extend((chunk.row..chunk.row + len).map(|r| out.row(r).to_vec()));
        }
    }
    outputs
}

/// Everything in one step.
fn whole(all: &[Sequence]) -> Vec<Vec<(usize, usize)>> {
    vec![all.iter().enumerate().map(|(s, x)| (s, x.qkv.len())).collect()]
}

/// Steps that feed random chunks of the sequences until all are through.
fn random_steps(all: &[Sequence], random: &mut Random, most: usize) -> Vec<Vec<(usize, usize)>> {
    let mut left: Vec<usize> = all.iter().map(|s| s.qkv.len()).collect();
    let mut steps = Vec::new();
    while left.iter().any(|&l| l > 0) {
        let mut step = Vec::new();
        for (s, left) in left.iter_mut().enumerate().filter(|(_, l)| **l > 0) {
            if random.below(3) > 0 {
                let len = (1 + random.below(most)).min(*left);
                *left -= len;
                step.insert(random.below(step.len() + 1), (s, len));
            }
        }
        steps.push(step);
    }
    steps
}

#[track_caller]
fn assert_same(a: &[Vec<Vec<f32>>], b: &[Vec<Vec<f32>>], what: &dyn std::fmt::Display) {
    for (s, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.len(), b.len());
        for (p, (a, b)) in a.iter().zip(b).enumerate() {
            assert_same_bits(a, b, &format!("{what}, sequence {s}, position {p}"));
        }
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let heads = prop::sample::select(vec![(1, 1), (16, 1), (7, 1), (4, 2), (12, 4), (3, 3)]);
    let extras = (prop::option::of(1..90usize), any::<bool>(), any::<bool>());
    let format = prop::sample::select(KvFormat::ALL.to_vec());
    (format, heads, prop::sample::select(vec![8usize, 20, 24, 64, 80]), extras).prop_map(
        |(format, (heads, kv_heads), head_dim, (window, sinks, alibi))| {
            let all = Shape::plain(format, heads, kv_heads, head_dim).with_extras(1, &mut Random(heads as u64));
            Shape {
                window,
                sinks: all.sinks.clone().filter(|_| sinks),
                alibi: all.alibi.clone().filter(|_| alibi),
                ..all
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_is_its_definition(shape in shapes(), len in 1..140usize, seed: u64) {
        let all = sequences(&shape, &[len], seed);
        let out = run(&mut Device::new(1), &shape, &all, &whole(&all));
        for position in [0, len / 3, len / 2, len - 1] {
            for head in 0..shape.heads {
                let got = shape.head(&out[0][position], head);
                assert_close(got, &shape.reference(&all[0].qkv, position, head), 1e-5, &format!("{position} {head}"));
            }
        }
    }

    #[test]
    fn a_token_does_not_know_its_step(shape in shapes(), lengths in prop::collection::vec(1..120usize, 1..4), seed: u64) {
        let all = sequences(&shape, &lengths, seed);
        let together = run(&mut Device::new(1), &shape, &all, &whole(&all));
        assert_same(&run(&mut Device::portable(1), &shape, &all, &whole(&all)), &together, &"portable");
        let mut random = Random(seed ^ 1);
        for (threads, most) in [(1, 1), (1, 40), (2, 7), (3, 90)] {
            let steps = random_steps(&all, &mut random, most);
            let cut = run(&mut Device::new(threads), &shape, &all, &steps);
            assert_same(&cut, &together, &format!("{threads} threads, {steps:?}"));
        }
        for (s, sequence) in all.iter().enumerate() {
            // Alone, and in other blocks.
            let mut moved = sequence.clone();
            moved.blocks = (0..sequence.blocks.len() as u32).map(|b| BLOCKS as u32 - 1 - b).collect();
            let alone = [moved];
            assert_same(&run(&mut Device::new(1), &shape, &alone, &whole(&alone)), &together[s..=s], &"alone");
        }
    }
}

#[test]
fn a_long_context_is_close_to_the_definition() {
    for format in KvFormat::ALL {
        let shape = Shape::plain(format, 16, 1, 64);
        let all = sequences(&shape, &[BLOCKS * KV_BLOCK], 4);
        let out = run(&mut Device::new(2), &shape, &all, &whole(&all));
        for head in 0..16 {
            let expected = shape.reference(&all[0].qkv, BLOCKS * KV_BLOCK - 1, head);
            assert_close(shape.head(&out[0][BLOCKS * KV_BLOCK - 1], head), &expected, 1e-5, &format.name());
        }
    }
}

#[test]
fn large_scores_neither_overflow_nor_vanish() {
    let shape = Shape::plain(KvFormat::F32, 2, 1, 16);
    let mut all = sequences(&shape, &[70], 9);
    for row in &mut all[0].qkv {
        row[..3 * 16].iter_mut().for_each(|x| *x *= 300.0);
    }
    let out = run(&mut Device::new(1), &shape, &all, &whole(&all));
    for head in 0..2 {
        // The scores reach 10^6, of which f32 keeps a tenth: the winner takes all, exactly.
        let got = shape.head(&out[0][69], head);
        assert!(got.iter().all(|x| x.is_finite()));
        assert!((0..70).any(|p| shape.head(&all[0].qkv[p], 3) == got), "{got:?}");
    }
}

#[test]
fn nan_shows_where_it_is_seen_and_only_there() {
    let mut random = Random(8);
    for format in KvFormat::ALL {
        for shape in [Shape::plain(format, 4, 2, 24), Shape::plain(format, 4, 2, 24).with_extras(20, &mut random)] {
            let mut all = sequences(&shape, &[50, 9], 6);
            let steps: Vec<_> = (0..50).map(|i| if i < 9 { vec![(0, 1), (1, 1)] } else { vec![(0, 1)] }).collect();
            let clean = run(&mut Device::new(1), &shape, &all, &steps);
            for (part, heads) in [(0, 0..1), (4, 0..2), (6, 0..2)] {
                // A query, a key, a value of the token at 25.
                let before = all[0].qkv[25][part * 24 + 5];
                all[0].qkv[25][part * 24 + 5] = f32::NAN;
                let out = run(&mut Device::new(1), &shape, &all, &steps);
                all[0].qkv[25][part * 24 + 5] = before;
                assert_same(&out[1..], &clean[1..], &"the other sequence");
                for position in 0..50 {
                    for head in 0..4 {
                        let got = shape.head(&out[0][position], head);
                        let sees = position >= 25 && position < 25 + shape.window.unwrap_or(50);
                        let touched = heads.contains(&head) && if part == 0 { position == 25 } else { sees };
                        // NaN values stay in blocks that the window still touches; other blocks are never read.
                        let may = heads.contains(&head) && part > 0 && position >= 25;
                        if touched {
                            let nan = got.iter().filter(|x| x.is_nan()).count();
                            assert!(nan == 24 || part == 6 && nan >= 1, "{format:?} {part} {position} {head}: {got:?}");
                        } else if !may {
                            assert_same_bits(got, shape.head(&clean[0][position], head), &"before");
                        }
                    }
                }
            }
        }
    }
}

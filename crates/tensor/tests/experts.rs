//! Routing, expert feed-forward and combination.

mod common;

use common::{Random, WeightRow, assert_close, assert_same_bits, gather, pack};
use proptest::prelude::*;
use tensor::{
    Choice, DenseSource, Device, Dispatch, Expert, Format, Gating, Interleaved, Matrix, RouterKind, Routing, Tensor,
};

/// One expert in plain numbers.
struct Plain {
    /// `[ffn, hidden]`, `[ffn, hidden]`, `[hidden, ffn]`.
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
    /// Biases of the three.
    biases: Option<[Vec<f32>; 3]>,
    hidden: usize,
    ffn: usize,
}

impl Plain {
    fn new(random: &mut Random, hidden: usize, ffn: usize, biased: bool) -> Self {
        let [gate, up, down] = [0; 3].map(|_| random.values(hidden * ffn));
        let biases = biased.then(|| [ffn, ffn, hidden].map(|n| random.values(n)));
        Self { gate, up, down, biases, hidden, ffn }
    }

    fn packed(&self, device: &mut Device, format: Format) -> Expert {
        let source = |values| DenseSource { values, cols: self.hidden, format };
        let (first, second) = (source(&self.gate), source(&self.up));
        let gate_up = Matrix::pack(device, &Interleaved { first: &first, second: &second }, format).unwrap();
        let gate_up_bias = self.biases.as_ref().map(|[gate, up, _]| {
            let mut bias = vec![0.0; gate_up.rows()];
            for i in 0..self.ffn {
                bias[i / 16 * 32 + i % 16] = gate[i];
                bias[i / 16 * 32 + 16 + i % 16] = up[i];
            }
            bias
        });
        let down = pack(device, &self.down, self.ffn, format);
        Expert { gate_up, gate_up_bias, down, down_bias: self.biases.as_ref().map(|b| b[2].clone()) }
    }

    /// The network in f64, but for the two products, which are the kernel's own arithmetic (`tests/matmul.rs` holds it to account).
    fn reference(&self, format: Format, gating: Gating, x: &[f32]) -> Vec<f64> {
        let row = |values: &[f32], i: usize, x: &[f32]| {
            f64::from(WeightRow::new(format, &values[i * x.len()..][..x.len()]).dot(x))
        };
        let bias = |which: usize, i: usize| self.biases.as_ref().map_or(0.0, |b| f64::from(b[which][i]));
        let activated: Vec<f32> = (0..self.ffn)
            .map(|i| {
                let (gate, up) = (row(&self.gate, i, x) + bias(0, i), row(&self.up, i, x) + bias(1, i));
                activate(gating, gate, up) as f32
            })
            .collect();
        (0..self.hidden).map(|i| row(&self.down, i, &activated) + bias(2, i)).collect()
    }
}

fn activate(gating: Gating, gate: f64, up: f64) -> f64 {
    match gating {
        Gating::SwiGlu => gate / (1.0 + (-gate).exp()) * up,
        Gating::ClampedSwiGlu { alpha, limit } => {
            let (alpha, limit) = (f64::from(alpha), f64::from(limit));
            let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
            gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
        }
    }
}

const GATINGS: [Gating; 2] = [Gating::SwiGlu, Gating::ClampedSwiGlu { alpha: 1.702, limit: 1.5 }];

/// Distinct experts for each of `rows` rows.
fn random_routing(random: &mut Random, rows: usize, experts: usize, top_k: usize) -> Routing {
    let mut routing = Routing { top_k, ..Routing::default() };
    for _ in 0..rows {
        let first = random.below(experts);
        for j in 0..top_k {
            routing.experts.push(((first + j) % experts) as u32);
            routing.weights.push(random.value());
        }
    }
    routing
}

/// The outputs per slot.
fn ffn(device: &mut Device, experts: &[Expert], gating: Gating, routing: &Routing, x: &Tensor) -> Tensor {
    let mut dispatch = Dispatch::default();
    dispatch.from_routing(routing, experts.len());
    let mut out = Tensor::zeros(routing.experts.len(), x.cols());
    device.expert_ffn(experts, gating, &dispatch, x, &mut out);
    out
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_expert_is_its_definition(
        format in formats(),
        gating in prop::sample::select(GATINGS.to_vec()),
        hidden in prop::sample::select(vec![8usize, 32, 40, 96]),
        ffn_width in prop::sample::select(vec![1usize, 16, 24, 48, 96, 129]),
        biased: bool,
        rows in 1..9usize,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let mut device = Device::new(1);
        let plain: Vec<Plain> = (0..3).map(|_| Plain::new(&mut random, hidden, ffn_width, biased)).collect();
        let experts: Vec<Expert> = plain.iter().map(|p| p.packed(&mut device, format)).collect();
        let x = random.tensor(rows, hidden);
        let routing = random_routing(&mut random, rows, 3, 2);
        let out = ffn(&mut device, &experts, gating, &routing, &x);
        let portable = ffn(&mut Device::portable(2), &experts, gating, &routing, &x);
        for (slot, &e) in routing.experts.iter().enumerate() {
            let expected = plain[e as usize].reference(format, gating, x.row(slot / 2));
            let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
            // An activation may round to the next integer code, where there are codes.
            let tolerance = if format.multiplies_integers() { 0.03 } else { 1e-5 } * (largest + 1.0);
            assert_close(out.row(slot), &expected, tolerance, &format);
            assert_same_bits(out.row(slot), portable.row(slot), &format);
        }
    }
}

#[test]
fn a_token_does_not_know_the_routing_of_others() {
    for format in Format::ALL {
        let mut random = Random(21);
        let (experts, hidden, rows) = (4, 72, 300);
        let mut device = Device::new(1);
        let experts: Vec<Expert> =
            (0..experts).map(|_| Plain::new(&mut random, hidden, 96, true).packed(&mut device, format)).collect();
        let x = random.tensor(rows, hidden);
        let routing = random_routing(&mut random, rows, experts.len(), 2);
        let alone: Vec<Tensor> = (0..rows)
            .map(|r| {
                let own = Routing { experts: routing.experts[2 * r..2 * r + 2].to_vec(), ..routing.clone() };
                ffn(&mut device, &experts, Gating::SwiGlu, &own, &gather(&x, &[r]))
            })
            .collect();
        for threads in 1..=3 {
            let mut device = Device::new(threads);
            for batch in [300, 1, 2, 5, 17, 64] {
                let picked: Vec<usize> = (0..batch).map(|i| (i * 37 + batch) % rows).collect();
                let chosen = picked.iter().flat_map(|&r| routing.experts[2 * r..2 * r + 2].to_vec()).collect();
                let batch_routing = Routing { experts: chosen, ..routing.clone() };
                let out = ffn(&mut device, &experts, Gating::SwiGlu, &batch_routing, &gather(&x, &picked));
                for (i, &r) in picked.iter().enumerate() {
                    for j in 0..2 {
                        assert_same_bits(
                            out.row(2 * i + j),
                            alone[r].row(j),
                            &format!("{format}, batch {batch}, row {r}"),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn nan_stays_with_its_token() {
    for format in Format::ALL {
        let mut random = Random(2);
        let mut device = Device::new(1);
        let experts = [Plain::new(&mut random, 40, 48, false).packed(&mut device, format)];
        for gating in GATINGS {
            let mut x = random.tensor(5, 40);
            let mut dispatch = Dispatch::default();
            let mut routing = Routing::default();
            routing.all_to_one(5);
            dispatch.from_routing(&routing, 1);
            let (mut clean, mut out) = (Tensor::zeros(5, 40), Tensor::zeros(5, 40));
            device.expert_ffn(&experts, gating, &dispatch, &x, &mut clean);
            x.row_mut(2)[7] = f32::NAN;
            device.expert_ffn(&experts, gating, &dispatch, &x, &mut out);
            assert!(out.row(2).iter().all(|x| x.is_nan()), "{format}");
            [0, 1, 3, 4].iter().for_each(|&r| assert_same_bits(out.row(r), clean.row(r), &format));
        }
    }
}

#[test]
fn combination_adds_the_choices_best_first() {
    let mut random = Random(4);
    let y = random.tensor(60, 33);
    let before = random.tensor(20, 33);
    let routing = random_routing(&mut random, 20, 5, 3);
    for threads in 1..=3 {
        let mut out = gather(&before, &(0..20).collect::<Vec<_>>());
        Device::new(threads).combine(&routing, &y, 20, &mut out);
        for r in 0..20 {
            let expected: Vec<f32> = (0..33)
                .map(|c| (0..3).fold(before.row(r)[c], |o, j| o + routing.weights[3 * r + j] * y.row(3 * r + j)[c]))
                .collect();
            assert_same_bits(out.row(r), &expected, &"combine");
        }
    }
}

#[test]
fn dispatch_sorts_by_expert_and_keeps_the_order_of_rows() {
    let routing = Routing { top_k: 2, experts: vec![2, 0, 0, 3, 2, 3], weights: vec![0.5; 6] };
    let mut dispatch = Dispatch::default();
    dispatch.from_routing(&routing, 4);
    assert_eq!(dispatch.offsets, [0, 2, 2, 4, 6]);
    assert_eq!(dispatch.slots, [1, 2, 0, 4, 3, 5]);
    assert_eq!(dispatch.rows, [0, 1, 0, 2, 1, 2]);
}

fn route(logits: &[f32], kind: RouterKind, top_k: usize) -> Routing {
    route_biased(logits, kind, top_k, None)
}

fn route_biased(logits: &[f32], kind: RouterKind, top_k: usize, bias: Option<&[f32]>) -> Routing {
    let mut routing = Routing::default();
    let choice = Choice { kind, top_k, bias };
    Device::new(1).route(&Tensor::from_rows(logits.len(), &[logits]), logits.len(), 1, choice, &mut routing);
    routing
}

const KINDS: [RouterKind; 3] = [
    RouterKind::SoftmaxTopK { renormalise: true },
    RouterKind::SoftmaxTopK { renormalise: false },
    RouterKind::TopKSoftmax,
];

#[test]
fn the_router_is_its_definition() {
    let mut random = Random(13);
    for kind in KINDS {
        for top_k in [1, 2, 4, 16] {
            let logits: Vec<f32> = random.values(16).iter().map(|x| x * 8.0).collect();
            let routing = route(&logits, kind, top_k);
            let mut sorted: Vec<usize> = (0..16).collect();
            sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let exp = |e: usize| f64::from(logits[e]).exp();
            let over = if kind == (RouterKind::SoftmaxTopK { renormalise: false }) { 16 } else { top_k };
            let sum: f64 = sorted[..over].iter().map(|&e| exp(e)).sum();
            let expected: Vec<f64> = sorted[..top_k].iter().map(|&e| exp(e) / sum).collect();
            assert!(routing.experts.iter().zip(&sorted).all(|(&a, &b)| a as usize == b));
            assert_eq!(routing.experts.len(), top_k);
            assert_close(&routing.weights, &expected, 1e-6, &format!("{kind:?}, {top_k}"));
        }
    }
}

#[test]
fn of_equal_logits_the_lower_expert_wins() {
    for kind in KINDS {
        assert_eq!(route(&[1.0, 3.0, 3.0, 0.0, 3.0], kind, 2).experts, [1, 2]);
        assert_eq!(route(&[0.0; 8], kind, 3).experts, [0, 1, 2]);
    }
    assert_eq!(route(&[5.0; 4], KINDS[0], 2).weights, [0.5, 0.5]);
    assert_eq!(route(&[5.0; 4], KINDS[1], 2).weights, [0.25, 0.25]);
}

/// By the definition: the k largest of probability plus bias, weighted by the probabilities alone.
#[test]
fn a_bias_decides_the_choice_and_not_the_weights() {
    let mut random = Random(29);
    for kind in KINDS {
        let mut changed = 0;
        for _ in 0..40 {
            let logits: Vec<f32> = random.values(8).iter().map(|x| x * 3.0).collect();
            let bias: Vec<f32> = random.values(8).iter().map(|x| x * 0.3).collect();
            let routing = route_biased(&logits, kind, 3, Some(&bias));
            let exps: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp()).collect();
            let total: f64 = exps.iter().sum();
            let score = |e: usize| exps[e] / total + f64::from(bias[e]);
            let mut order: Vec<usize> = (0..8).collect();
            order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
            let chosen: Vec<usize> = routing.experts.iter().map(|&e| e as usize).collect();
            assert_eq!(chosen, order[..3]);
            let over: f64 = match kind {
                RouterKind::SoftmaxTopK { renormalise: false } => total,
                _ => chosen.iter().map(|&e| exps[e]).sum(),
            };
            for (&e, &weight) in chosen.iter().zip(&routing.weights) {
                assert!((f64::from(weight) - exps[e] / over).abs() < 1e-6);
            }
            changed += usize::from(route(&logits, kind, 3).experts != routing.experts);
            // A bias that is the same for all changes nothing.
            assert_eq!(route_biased(&logits, kind, 3, Some(&[0.25; 8])).experts, route(&logits, kind, 3).experts);
        }
        assert!(changed > 10, "{changed}");
    }
}

/// Token by token: who comes first to an expert that has room stays.
#[test]
fn a_limit_keeps_the_first_rows_of_each_expert() {
    let mut random = Random(31);
    for (experts, top_k) in [(4, 2), (5, 1), (8, 3)] {
        let routing = random_routing(&mut random, 50, experts, top_k);
        let mut dropless = Dispatch::default();
        dropless.from_routing(&routing, experts);
        for capacity in [0, 1, 7, 20, 50] {
            let mut room = vec![capacity; experts];
            let mut kept = vec![Vec::new(); experts];
            let mut dropped = 0;
            for (slot, &e) in routing.experts.iter().enumerate() {
                match room[e as usize] {
                    0 => dropped += 1,
                    _ => {
                        room[e as usize] -= 1;
                        kept[e as usize].push(slot as u32);
                    }
                }
            }
            let mut dispatch = dropless.clone();
            assert_eq!(dispatch.limit(capacity), dropped);
            for (e, kept) in kept.iter().enumerate() {
                let entries = dispatch.offsets[e]..dispatch.offsets[e + 1];
                assert_eq!(&dispatch.slots[entries.clone()], kept);
                let rows: Vec<u32> = kept.iter().map(|slot| slot / top_k as u32).collect();
                assert_eq!(dispatch.rows[entries], rows);
            }
            assert_eq!((dispatch.rows.len(), dispatch.slots.len()), (50 * top_k - dropped, 50 * top_k - dropped));
        }
    }
}

//! Operations on rows: normalisation, rotary embedding, lookup.

mod common;

use common::{Random, WeightRow, assert_close, assert_same_bits, pack, rows_of};
use tensor::{Chunk, Device, Format, KvCache, KvFormat, QkTransform, RopeTable, Tensor};

fn normalised(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * factor * f64::from(w)).collect()
}

#[test]
fn rms_norm_is_its_definition_for_every_width_and_batch() {
    let mut random = Random(1);
    for width in [1, 7, 8, 20, 64, 100, 257] {
        let (x, weight) = (random.tensor(30, width), random.values(width));
        let mut whole = Tensor::zeros(30, width);
        Device::new(2).rms_norm(&x, &weight, 1e-5, 30, &mut whole);
        for (device, rows) in [(Device::new(1), 3), (Device::new(3), 17), (Device::portable(1), 30)] {
            let (mut device, mut out) = (device, Tensor::zeros(30, width));
            device.rms_norm(&x, &weight, 1e-5, rows, &mut out);
            for r in 0..rows {
                assert_same_bits(out.row(r), whole.row(r), &width);
                assert_close(out.row(r), &normalised(x.row(r), &weight, 1e-5), 2e-6, &width);
            }
        }
    }
}

#[test]
fn rms_norm_passes_nan_on() {
    let mut x = Random(1).tensor(2, 20);
    x.row_mut(1)[19] = f32::NAN;
    let mut out = Tensor::zeros(2, 20);
    Device::new(1).rms_norm(&x, &[1.0; 20], 1e-5, 2, &mut out);
    assert!(out.row(0).iter().all(|x| x.is_finite()) && out.row(1).iter().all(|x| x.is_nan()));
}

#[test]
fn embedding_looks_rows_up() {
    let mut random = Random(6);
    let mut device = Device::new(2);
    let values = random.values(50 * 40);
    for format in Format::ALL {
        let table = pack(&mut device, &values, 40, format);
        let ids = [3, 49, 0, 3, 17, 16, 15, 31, 32];
        let mut out = Tensor::zeros(ids.len(), 40);
        device.embed(&table, &ids, &mut out);
        for (row, id) in rows_of(&out, ids.len()).iter().zip(ids) {
            assert_same_bits(row, &WeightRow::new(format, &values[id as usize * 40..][..40]).values, &format);
        }
    }
}

/// Two heads of queries and one of keys and values, normalised and rotated, against the formulas in f64.
#[test]
fn queries_and_keys_are_normalised_then_rotated() {
    for (head_dim, rotated) in [(20, 20), (24, 24), (64, 64), (64, 16), (80, 20)] {
        let mut random = Random(head_dim as u64);
        let half = rotated / 2;
        let frequencies: Vec<f32> = (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect();
        let factor = 1.25;
        let rope = RopeTable::new(&frequencies, factor, 200);
        let (q_norm, k_norm) = (random.values(head_dim), random.values(head_dim));
        let before = random.tensor(70, 4 * head_dim);
        let mut qkv = Tensor::from_rows(4 * head_dim, &(0..70).map(|r| before.row(r)).collect::<Vec<_>>());
        let mut device = Device::new(2);
        let mut cache = KvCache::new(KvFormat::Bf16, 1, 8, 1, head_dim);
        let transform = QkTransform { heads: 2, norms: Some((&q_norm, &k_norm, 1e-6)), rope: Some(&rope) };
        let chunk = Chunk { row: 0, len: 70, position: 121, block_table: &[1, 7, 2, 3, 6, 4] };
        device.store_kv(&mut cache, 0, &transform, &[chunk], &mut qkv);
        for r in 0..70 {
            for head in 0..3 {
                let part = |tensor: &Tensor| tensor.row(r)[head * head_dim..][..head_dim].to_vec();
                let x = normalised(&part(&before), if head < 2 { &q_norm } else { &k_norm }, 1e-6);
                let mut expected = x.clone();
                for (i, &frequency) in frequencies.iter().enumerate() {
                    let angle = f64::from((121 + r) as f32 * frequency);
                    let (sin, cos) = (angle.sin() * f64::from(factor), angle.cos() * f64::from(factor));
                    expected[i] = x[i] * cos - x[i + half] * sin;
                    expected[i + half] = x[i + half] * cos + x[i] * sin;
                }
                assert_close(&part(&qkv), &expected, 5e-6, &format!("{head_dim}, row {r}, head {head}"));
            }
            assert_same_bits(&qkv.row(r)[3 * head_dim..], &before.row(r)[3 * head_dim..], &"values");
        }
        let mut portable = Tensor::from_rows(4 * head_dim, &(0..70).map(|r| before.row(r)).collect::<Vec<_>>());
        Device::portable(1).store_kv(&mut cache, 0, &transform, &[chunk], &mut portable);
        (0..70).for_each(|r| assert_same_bits(portable.row(r), qkv.row(r), &"portable"));
    }
}

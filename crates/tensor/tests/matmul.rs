//! Packing and products: each format against its definition, and the law that a row's result is its own.

mod common;

use common::{Random, WeightRow, assert_same_bits, gather, pack, rows_of};
use proptest::prelude::*;
use tensor::format::dequantise_row;
use tensor::{
    DenseSource, Device, Format, Interleaved, Matrix, MatrixSource, PackError, Stacked, Tensor, packed_bytes,
};

fn product(device: &mut Device, matrix: &Matrix, x: &Tensor, rows: usize) -> Tensor {
    let mut out = Tensor::zeros(rows, matrix.rows());
    device.matmul(matrix, x, rows, None, false, &mut out);
    out
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn packing_holds_exactly_what_the_format_says(format in formats(), n in 1..50usize, k in 1..300usize, seed: u64) {
        let values = Random(seed).values(n * k);
        let matrix = pack(&mut Device::new(1), &values, k, format);
        prop_assert_eq!(matrix.bytes(), packed_bytes(format, n, k));
        let mut row = vec![0.0; k];
        for (i, values) in values.chunks(k).enumerate() {
            matrix.read_row(i, &mut row);
            assert_same_bits(&row, &WeightRow::new(format, values).values, &format);
        }
    }

    #[test]
    fn a_product_is_its_definition(format in formats(), n in 1..50usize, k in 1..300usize, m in 1..11usize, seed: u64) {
        let mut random = Random(seed);
        let values = random.values(n * k);
        let x = random.tensor(m, k);
        let mut device = Device::new(1);
        let matrix = pack(&mut device, &values, k, format);
        let out = product(&mut device, &matrix, &x, m);
        let mut portable = Device::portable(1);
        let plain = product(&mut portable, &matrix, &x, m);
        for (j, values) in values.chunks(k).enumerate() {
            let row = WeightRow::new(format, values);
            for i in 0..m {
                let (reference, bound) = row.reference(x.row(i));
                let got = out.row(i)[j];
                assert_same_bits(&[got, plain.row(i)[j]], &[row.dot(x.row(i)); 2], &format);
                prop_assert!((f64::from(got) - reference).abs() <= bound, "{format}: {got} for {reference} +- {bound}");
            }
        }
    }
}

#[test]
fn a_row_does_not_know_its_batch() {
    for format in Format::ALL {
        let mut random = Random(7);
        let (n, k) = (16 * 9 + 3, 136);
        let mut device = Device::new(1);
        let matrix = pack(&mut device, &random.values(n * k), k, format);
        let x = random.tensor(200, k);
        let alone: Vec<Vec<f32>> =
            (0..200).map(|i| product(&mut device, &matrix, &gather(&x, &[i]), 1).row(0).to_vec()).collect();
        for threads in 1..=3 {
            let mut device = Device::new(threads);
            for m in (1..=40).chain([95, 96, 97, 200]) {
                let order: Vec<usize> = (0..m).map(|i| (i * 77 + m) % 200).collect();
                let out = product(&mut device, &matrix, &gather(&x, &order), m);
                for (row, &i) in rows_of(&out, m).iter().zip(&order) {
                    assert_same_bits(row, &alone[i], &format!("{format}, {m} rows, {threads} threads"));
                }
            }
        }
    }
}

#[test]
fn bias_and_accumulation_are_added_after_the_product() {
    let mut random = Random(3);
    let mut device = Device::new(2);
    let matrix = pack(&mut device, &random.values(20 * 40), 40, Format::Bf16);
    let (x, bias, before) = (random.tensor(9, 40), random.values(20), random.tensor(9, 20));
    let plain = product(&mut device, &matrix, &x, 9);
    for (with_bias, accumulate) in [(true, false), (false, true), (true, true)] {
        let mut out = gather(&before, &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
        device.matmul(&matrix, &x, 9, with_bias.then_some(&bias), accumulate, &mut out);
        for r in 0..9 {
            let expected: Vec<f32> = (0..20)
                .map(|j| {
                    let y = plain.row(r)[j] + if with_bias { bias[j] } else { 0.0 };
                    if accumulate { before.row(r)[j] + y } else { y }
                })
                .collect();
            assert_same_bits(out.row(r), &expected, &"bias");
        }
    }
}

#[test]
fn what_is_not_a_number_shows_in_its_row_and_nowhere_else() {
    for format in Format::ALL {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut random = Random(5);
            let mut device = Device::new(1);
            let matrix = pack(&mut device, &random.values(32 * 64), 64, format);
            let mut x = random.tensor(7, 64);
            let clean = product(&mut device, &matrix, &x, 7);
            x.row_mut(3)[41] = bad;
            let out = product(&mut device, &matrix, &x, 7);
            for r in 0..7 {
                if r == 3 {
                    // A weight of zero times infinity is NaN too.
                    assert!(out.row(r).iter().all(|y| !y.is_finite()), "{format}, {bad}: {:?}", out.row(r));
                } else {
                    assert_same_bits(out.row(r), clean.row(r), &format);
                }
            }
        }
    }
}

#[test]
fn weights_that_are_no_finite_numbers_are_refused() {
    let mut device = Device::new(2);
    for format in Format::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = Random(1).values(40 * 33);
            values[21 * 33 + 32] = bad;
            values[37 * 33] = bad;
            let packed = Matrix::pack(&mut device, &DenseSource { values: &values, cols: 33, format }, format);
            assert_eq!(packed.err(), Some(PackError::NotFinite { row: 21 }), "{format}");
        }
    }
    // Finite, but not in the format.
    for (format, large) in [(Format::F16, 1e6), (Format::Bf16, f32::MAX), (Format::Int8, 1e7), (Format::Int4, 1e7)] {
        let packed = Matrix::pack(&mut device, &DenseSource { values: &[1.0, large], cols: 1, format }, format);
        assert_eq!(packed.err(), Some(PackError::NotFinite { row: 1 }), "{format}");
    }
}

/// Codes as a file holds them.
struct Codes {
    format: Format,
    cols: usize,
    codes: Vec<u8>,
    scale: f32,
}

impl MatrixSource for Codes {
    fn rows(&self) -> usize {
        self.codes.len() / self.cols
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn format(&self) -> Format {
        self.format
    }
    fn read_f32(&self, row: usize, out: &mut [f32]) {
        let scales = vec![self.scale; self.cols.div_ceil(self.format.group())];
        dequantise_row(self.format, &self.codes[row * self.cols..][..self.cols], &scales, out);
    }
    fn read_codes(&self, row: usize, codes: &mut [u8], scales: &mut [f32]) -> bool {
        codes.copy_from_slice(&self.codes[row * self.cols..][..self.cols]);
        scales.fill(self.scale);
        true
    }
}

#[test]
fn codes_of_a_file_are_kept_exactly() {
    let mut device = Device::new(1);
    for (format, codes) in [
        (Format::Int8, (0..=255).collect::<Vec<u8>>()),
        (Format::Int4, (0..16).collect()),
        (Format::Mxfp4, (0..16).collect()),
        (Format::Fp8, (0..=255).filter(|c| c & 0x7f != 0x7f).collect()),
    ] {
        let cols = codes.len();
        for scale in [1.0, 2f32.powi(-9), 2f32.powi(7)] {
            let source = Codes { format, cols, codes: codes.clone(), scale };
            let matrix = Matrix::pack(&mut device, &source, format).unwrap();
            let (mut expected, mut got) = (vec![0.0; cols], vec![0.0; cols]);
            source.read_f32(0, &mut expected);
            matrix.read_row(0, &mut got);
            assert_same_bits(&got, &expected, &format);
            if format == Format::Fp8 {
                let x = Random(2).tensor(1, cols);
                let dot = expected.iter().zip(x.row(0)).fold(0f32, |sum, (w, x)| x.mul_add(*w, sum));
                assert_same_bits(product(&mut device, &matrix, &x, 1).row(0), &[dot], &"fp8");
            }
        }
    }
}

#[test]
fn codes_and_scales_that_stand_for_no_number_are_refused() {
    let mut device = Device::new(1);
    for (code, scale) in [(0x7f, 1.0), (0xff, 1.0), (1, f32::NAN), (1, f32::INFINITY), (1, 1e3)] {
        let source = Codes { format: Format::Fp8, cols: 2, codes: vec![0, 0, 1, code], scale };
        let packed = Matrix::pack(&mut device, &source, Format::Fp8);
        let row = usize::from(scale == 1.0);
        assert_eq!(packed.err(), Some(PackError::NotFinite { row }), "code {code}, scale {scale}");
    }
}

#[test]
fn stacked_and_interleaved_sources_give_the_rows_of_their_parts() {
    let mut random = Random(11);
    let mut device = Device::new(1);
    let (a, b) = (random.values(20 * 33), random.values(20 * 33));
    for format in Format::ALL {
        let [first, second] = [&a, &b].map(|values| DenseSource { values, cols: 33, format });
        let stacked = Matrix::pack(&mut device, &Stacked(&[&first, &second]), format).unwrap();
        let pairs = Matrix::pack(&mut device, &Interleaved { first: &first, second: &second }, format).unwrap();
        assert_eq!((stacked.rows(), pairs.rows()), (40, 64));
        let row = |matrix: &Matrix, i: usize| {
            let mut row = vec![0.0; 33];
            matrix.read_row(i, &mut row);
            row
        };
        for i in 0..20 {
            let [x, y] = [&a, &b].map(|v| WeightRow::new(format, &v[i * 33..][..33]).values);
            assert_same_bits(&row(&stacked, i), &x, &format);
            assert_same_bits(&row(&stacked, 20 + i), &y, &format);
            let at = i / 16 * 32 + i % 16;
            assert_same_bits(&row(&pairs, at), &x, &format);
            assert_same_bits(&row(&pairs, at + 16), &y, &format);
        }
        assert!(row(&pairs, 32 + 4).iter().chain(&row(&pairs, 63)).all(|&x| x == 0.0));
    }
}

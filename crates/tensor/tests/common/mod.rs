//! What the tests of the kernels share: random numbers, the definition of a product, comparisons.

// Each test program uses a part of it.
#![allow(dead_code)]

use tensor::format::quantise_row;
use tensor::{DenseSource, Device, Format, Matrix, Tensor};

/// A small generator (SplitMix64), so that a failure names a seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in -1..1 whose magnitude varies over a few octaves, as that of weights and activations does.
    pub fn value(&mut self) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        unit * [1.0, 1.0, 0.5, 0.125][self.below(4)]
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    pub fn tensor(&mut self, rows: usize, cols: usize) -> Tensor {
        let mut tensor = Tensor::zeros(rows, cols);
        (0..rows).for_each(|r| tensor.row_mut(r).copy_from_slice(&self.values(cols)));
        tensor
    }
}

/// `values` (`[rows, cols]`) packed in `format`.
pub fn pack(device: &mut Device, values: &[f32], cols: usize, format: Format) -> Matrix {
    Matrix::pack(device, &DenseSource { values, cols, format: Format::F32 }, format).unwrap()
}

/// The first `rows` rows as lists.
pub fn rows_of(tensor: &Tensor, rows: usize) -> Vec<Vec<f32>> {
    (0..rows).map(|r| tensor.row(r).to_vec()).collect()
}

/// The rows `rows` of `x`, in this order, as a tensor.
pub fn gather(x: &Tensor, rows: &[usize]) -> Tensor {
    let rows: Vec<&[f32]> = rows.iter().map(|&r| x.row(r)).collect();
    Tensor::from_rows(x.cols(), &rows)
}

#[track_caller]
pub fn assert_same_bits(a: &[f32], b: &[f32], what: &dyn std::fmt::Display) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{what}: element {i} is {a:e} and {b:e}");
    }
}

#[track_caller]
pub fn assert_close(a: &[f32], b: &[f64], tolerance: f64, what: &dyn std::fmt::Display) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(
            (f64::from(*a) - b).abs() <= tolerance,
            "{what}: element {i} is {a:e}, expected {b:e} +- {tolerance:e}"
        );
    }
}

/// One row of weights, as its format holds it.
pub struct WeightRow {
    format: Format,
    codes: Vec<u8>,
    scales: Vec<f32>,
    /// What they stand for.
    pub values: Vec<f32>,
}

impl WeightRow {
    pub fn new(format: Format, x: &[f32]) -> Self {
        let mut codes = vec![0; x.len()];
        let mut scales = vec![0.0; x.len().div_ceil(format.group())];
        let mut values: Vec<f32> = x.to_vec();
        if format.is_quantised() {
            quantise_row(format, x, &mut codes, &mut scales);
            tensor::format::dequantise_row(format, &codes, &scales, &mut values);
        } else if format == Format::F16 {
            values.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
        } else if format == Format::Bf16 {
            values.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32());
        }
        Self { format, codes, scales, values }
    }

    /// The definition of a product: what every kernel must give, bit for bit.
    pub fn dot(&self, x: &[f32]) -> f32 {
        if self.format.multiplies_integers() {
            return self.integer_dot(x);
        }
        self.values.iter().zip(x).fold(0.0, |sum, (w, x)| x.mul_add(*w, sum))
    }

    /// Exact sums over 32 inputs, in halves, because e2m1 has them; then one f32 multiply-add per block.
    fn integer_dot(&self, x: &[f32]) -> f32 {
        let twice = |code: u8| match self.format {
            Format::Int8 => 2 * i64::from(code as i8),
            Format::Int4 => 2 * (i64::from(code) - 8),
            _ => {
                let magnitude = [0, 1, 2, 3, 4, 6, 8, 12][usize::from(code & 7)];
                if code < 8 { magnitude } else { -magnitude }
            }
        };
        let mut sum = 0f32;
        for ((codes, scale), x) in self.codes.chunks(32).zip(&self.scales).zip(x.chunks(32)) {
            let (quants, x_scale) = quantise(x);
            let exact: i64 = codes.iter().zip(&quants).map(|(&c, q)| twice(c) * q).sum();
            sum = (exact as f32 / 2.0).mul_add(scale * x_scale, sum);
        }
        sum
    }

    /// The product in f64, and a bound on how far rounding may take the kernel's from it.
    pub fn reference(&self, x: &[f32]) -> (f64, f64) {
        let terms = || self.values.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
        let magnitude: f64 = terms().map(f64::abs).sum();
        let mut bound = magnitude * x.len() as f64 * f64::from(f32::EPSILON);
        if self.format.multiplies_integers() {
            for (w, x) in self.values.chunks(32).zip(x.chunks(32)) {
                let half_step = f64::from(quantise(x).1) * 0.5001;
                bound += w.iter().map(|w| f64::from(w.abs())).sum::<f64>() * half_step;
            }
        }
        (terms().sum(), bound)
    }
}

/// Activations of one block as integers: the sum of magnitudes of each pair is at most 127 before rounding.
fn quantise(x: &[f32]) -> (Vec<i64>, f32) {
    let largest = x.chunks(2).map(|pair| pair[0].abs() + pair.get(1).unwrap_or(&0.0).abs()).fold(0.0, f32::max);
    if largest == 0.0 {
        return (vec![0; x.len()], 0.0);
    }
    let inverse = 127.0 / largest;
    (x.iter().map(|x| (x * inverse).round_ties_even() as i64).collect(), largest / 127.0)
}

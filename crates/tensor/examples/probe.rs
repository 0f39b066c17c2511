use std::time::Instant;
use tensor::*;
fn main() {
    let threads = std::env::args().nth(1).map_or(1, |t| t.parse().unwrap());
    let mut d = Device::new(threads);
    let (n, k) = (5632usize, 1024usize);
    let copies = 24;
    let mut seed = 1u32;
    let mut vals = vec![0f32; n * k];
    for v in vals.iter_mut() {
        seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
        *v = (seed >> 8) as f32 / 1e7 - 0.8;
    }
    for format in [Format::Bf16, Format::F32, Format::Int8, Format::Int4, Format::Mxfp4, Format::Fp8, Format::F16] {
        let ms: Vec<Matrix> = (0..copies)
            .map(|_| Matrix::pack(&mut d, &DenseSource { values: &vals, cols: k, format }, format).unwrap())
            .collect();
        print!("{format:6}");
        for m in [1usize, 2, 3, 4, 8, 16, 64, 512] {
            let mut x = Tensor::zeros(m, k);
            for i in 0..m {
                for (j, v) in x.row_mut(i).iter_mut().enumerate() {
                    *v = ((i * 31 + j * 7) % 97) as f32 - 48.0;
                }
            }
            let mut out = Tensor::zeros(m, n);
            let reps = if m >= 64 { copies } else { copies * 2 };
            let mut best = f64::MAX;
            for _ in 0..3 {
                let t = Instant::now();
                for r in 0..reps {
                    d.matmul(&ms[r % copies], &x, m, None, false, &mut out);
                }
                best = best.min(t.elapsed().as_secs_f64() / reps as f64);
            }
            print!(
                " | M={m}: {:.0} G {:.1} GB/s",
                2.0 * (n * k * m) as f64 / best / 1e9,
                ms[0].bytes() as f64 / best / 1e9
            );
        }
        println!();
    }
}

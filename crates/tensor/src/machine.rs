//! The limits of the machine, measured: what no kernel can pass, to be written beside every benchmark.

// Loops of vector instructions over registers and buffers of their own.
#![allow(unsafe_code)]

use crate::buffer::Buffer;
use crate::cpu::Device;
use crate::cpu::isa::{self, Isa, Kernel};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// What all threads of a device reach together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// f32 multiply-adds between registers, two operations each, in 10^9 per second: the limit of a prefill in floats.
    pub fma_gflops: f64,
    /// Multiply-adds of bytes summed into 32 bits (`maddubs`, pair sums, add), two operations each, in 10^9 per second: the limit of a
    /// prefill in int8. 4-bit formats skip most of the pair sums and may pass it.
    pub int8_gops: f64,
    /// Reading memory in order, in 10^9 bytes per second, the best of several passes: the limit of decoding.
    pub read_gb_s: f64,
    /// The median pass, which shows how steady the best is on a machine shared with others.
    pub read_gb_s_median: f64,
}

/// How long a trial of arithmetic takes at least, and how many there are: many short ones, some of which nobody interrupts.
const TRIAL: Duration = Duration::from_millis(5);
const TRIALS: usize = 80;
/// Bytes read by each pass: far more than any cache holds.
const READ_BYTES: usize = 512 << 20;
/// Passes stop after this long.
const READ_TIME: Duration = Duration::from_millis(800);

/// Measures the limits of `device`'s threads; takes about two seconds.
pub fn measure(device: &mut Device) -> Limits {
    let (read_gb_s, read_gb_s_median) = read_rate(device);
    Limits {
        fma_gflops: fma_gflops(device),
        int8_gops: arithmetic_rate(device, ByteProducts::OPERATIONS, |rounds| ByteProducts { rounds }),
        read_gb_s,
        read_gb_s_median,
    }
}

/// [`Limits::fma_gflops`] alone; takes about half a second.
pub fn fma_gflops(device: &mut Device) -> f64 {
    arithmetic_rate(device, Fma::OPERATIONS, |rounds| Fma { rounds })
}

/// The best rate, in 10^9 operations per second, of `kernel(rounds)` run on all threads.
fn arithmetic_rate<K: Kernel>(device: &mut Device, per_round: f64, kernel: impl Fn(usize) -> K + Sync) -> f64 {
    let (level, threads) = (device.level, device.threads() as f64);
    let mut rounds = 1 << 12;
    let mut best = 0f64;
    let mut trials = 0;
    while trials < TRIALS {
        let start = Instant::now();
        // SAFETY: the device's level was detected; the kernels touch only memory of their own.
        device.pool.run(&|_| unsafe { isa::run(level, kernel(rounds)) });
        let elapsed = start.elapsed();
        if elapsed < TRIAL {
            rounds *= 2;
            continue;
        }
        best = best.max(per_round * rounds as f64 * threads / elapsed.as_secs_f64() / 1e9);
        trials += 1;
    }
    best
}

/// Twelve independent chains of multiply-adds: more than latency times throughput asks for, and they fit the registers.
struct Fma {
    rounds: usize,
}

impl Fma {
    const CHAINS: usize = 12;
    const OPERATIONS: f64 = (Self::CHAINS * 8 * 2) as f64;
}

impl Kernel for Fma {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        // SAFETY: register arithmetic, and a store to eight elements.
        unsafe {
            let (a, b) = (I::splat(black_box(0.999)), I::splat(black_box(1e-3)));
            let mut chains = [b; Self::CHAINS];
            for _ in 0..self.rounds {
                for chain in &mut chains {
                    *chain = I::fma(*chain, a, b);
                }
            }
            let total = chains.into_iter().fold(b, |total, chain| I::add(total, chain));
            let mut lanes = [0f32; 8];
            I::store(lanes.as_mut_ptr(), total);
            black_box(lanes);
        }
    }
}

/// Four rows of activations by two vectors of weights, from the first cache level, as an int8 product does it.
struct ByteProducts {
    rounds: usize,
}

impl ByteProducts {
    const ROWS: usize = 4;
    const STEPS: usize = 8;
    const OPERATIONS: f64 = (Self::ROWS * 2 * 32 * 2) as f64;
}

impl Kernel for ByteProducts {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let weights = black_box([[3u8; 64]; Self::STEPS]);
        let activations = black_box([[5i8; 4 * Self::STEPS]; Self::ROWS]);
        // SAFETY: loads within the two arrays, and a store to eight elements.
        unsafe {
            let mut sums = [[I::splat_i32(0); 2]; Self::ROWS];
            for round in 0..self.rounds {
                let step = round % Self::STEPS;
                let w = [0, 32].map(|half| I::load_i(weights[step].as_ptr().add(half)));
                for (row, sums) in activations.iter().zip(&mut sums) {
                    let x = I::splat_bytes(row.as_ptr().add(4 * step));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = I::add_i32(*sum, I::pair_sums(I::maddubs(w, x)));
                    }
                }
            }
            let total = sums.into_iter().flatten().fold(I::splat_i32(0), |total, sum| I::add_i32(total, sum));
            let mut lanes = [0f32; 8];
            I::store(lanes.as_mut_ptr(), I::to_f32(total));
            black_box(lanes);
        }
    }
}

/// The best and the median rate of reading, in 10^9 bytes per second.
fn read_rate(device: &mut Device) -> (f64, f64) {
    let mut buffer = Buffer::<u8>::zeros(READ_BYTES);
    // Pages that were never written may all be one page of zeros.
    buffer.fill(1);
    let share = READ_BYTES / device.threads() / (Read::STREAMS * 64) * (Read::STREAMS * 64);
    let level = device.level;
    let mut rates = Vec::new();
    let begin = Instant::now();
    while rates.len() < 3 || begin.elapsed() < READ_TIME {
        let start = Instant::now();
        device.pool.run(&|worker| {
            let bytes = &buffer[worker * share..][..share];
            // SAFETY: the device's level was detected.
            unsafe { isa::run(level, Read { bytes }) };
        });
        rates.push((share * device.threads()) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    rates.sort_by(f64::total_cmp);
    (rates[rates.len() - 1], rates[rates.len() / 2])
}

/// Sums bytes read from four places at once, a cache line of each in turn.
struct Read<'a> {
    /// A multiple of four cache lines.
    bytes: &'a [u8],
}

impl Read<'_> {
    const STREAMS: usize = 4;
}

impl Kernel for Read<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let length = self.bytes.len() / Self::STREAMS;
        // SAFETY: each stream reads whole lines of its own quarter.
        unsafe {
            let mut sums = [[I::splat_i32(0); 2]; Self::STREAMS];
            for at in (0..length / 64 * 64).step_by(64) {
                for (stream, sums) in sums.iter_mut().enumerate() {
                    let line = self.bytes.as_ptr().add(stream * length + at);
                    I::prefetch(line.wrapping_add(1024));
                    *sums = [I::add_i32(sums[0], I::load_i(line)), I::add_i32(sums[1], I::load_i(line.add(32)))];
                }
            }
            let total = sums.into_iter().flatten().fold(I::splat_i32(0), |total, sum| I::add_i32(total, sum));
            let mut lanes = [0f32; 8];
            I::store(lanes.as_mut_ptr(), I::to_f32(total));
            black_box(lanes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_of_a_plausible_size() {
        let limits = measure(&mut Device::new(2));
        for rate in [limits.fma_gflops, limits.int8_gops, limits.read_gb_s, limits.read_gb_s_median] {
            assert!(rate > 0.01 && rate < 1e6, "{limits:?}");
        }
        assert!(limits.read_gb_s >= limits.read_gb_s_median);
    }
}

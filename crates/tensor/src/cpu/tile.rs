//! The microkernel: a few rows of activations times panels of 16 outputs.
//!
//! Two forms. Formats whose elements widen to f32 multiply in f32, one fused multiply-add per input and output, in the order of k.
//! Integer formats multiply bytes: activations are quantised per row and 32 inputs so that the magnitudes of each pair add up to at most
//! 128. Then two products of an unsigned weight byte fit 16 bits, and no saturation or sign step is needed; 4-bit weights even sum a
//! whole block in 16 bits. The block's sum is exact, so only the f32 accumulation over blocks has an order: that of k.
//! Nothing here depends on how many rows or panels a tile has.

// Vector code over raw pointers; `matmul` and `attention` hold the bounds. Rows, panels and halves are loops over indices of several arrays.
#![allow(unsafe_code, clippy::needless_range_loop)]

use super::isa::{Isa, Kernel};
use super::matrix::BLOCK;
use std::hint::black_box;
use std::marker::PhantomData;

/// One quantised block of activations.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ActivationBlock {
    /// Codes; |even| + |odd| <= 128 for each pair.
    pub codes: [i8; BLOCK],
    /// What one unit stands for.
    pub scale: f32,
    /// Sum of the codes, negated: times a weight format's offset it takes that offset out again.
    pub negated_sum: i32,
}

impl ActivationBlock {
    /// Thirty-two zeros.
    pub const ZERO: Self = Self { codes: [0; BLOCK], scale: 0.0, negated_sum: 0 };
}

/// Quantises one row of activations; `row` is padded to whole blocks. A block with NaN or infinity gets a NaN scale, so that it shows in the result.
#[inline(always)]
pub(crate) fn quantise_activations(row: &[f32], out: &mut [ActivationBlock]) {
    /// Added to a small number, leaves it rounded to the nearest integer, ties to even, in the low bits.
    const ROUND: f32 = 12_582_912.0;
    for (x, block) in row.chunks_exact(BLOCK).zip(out) {
        // Bits of numbers that are not negative sort as the numbers do, NaN last, and compare in vectors.
        let largest = x.chunks_exact(2).map(|pair| (pair[0].abs() + pair[1].abs()).to_bits()).max();
        let largest = f32::from_bits(largest.unwrap_or(0));
        let inverse = 127.0 / largest;
        // Zeros and what is too small to divide by become zeros.
        let (inverse, scale) = if inverse.is_finite() { (inverse, largest / 127.0) } else { (0.0, 0.0) };
        // One simple loop after the other: the compiler makes vectors of each.
        let mut quants = [0i32; BLOCK];
        for (q, x) in quants.iter_mut().zip(x) {
            *q = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        }
        for (code, &q) in block.codes.iter_mut().zip(&quants) {
            *code = q as i8;
        }
        let mut lanes = [0i32; 8];
        for quants in quants.chunks_exact(8) {
            lanes.iter_mut().zip(quants).for_each(|(lane, &q)| *lane = lane.wrapping_sub(q));
        }
        block.negated_sum = lanes.into_iter().fold(0, i32::wrapping_add);
        block.scale = if largest.is_finite() { scale } else { f32::NAN };
    }
}

/// A weight format that widens to f32.
pub(crate) trait FloatWeights {
    /// Rows of the largest tile that stays in registers.
    const ROWS: usize = 6;
    /// Inputs of one step.
    const STEP: usize;
    /// Bytes of one step of a panel.
    const STEP_BYTES: usize;
    /// Inputs between two sets of scales; `usize::MAX` without scales.
    const GROUP: usize = usize::MAX;
    /// Bytes of scales before each group.
    const SCALE_BYTES: usize = 0;
    /// Half `v` (8 outputs) of input `j` of the step at `step`. If registers are `scarce`, what several inputs share is read again for each.
    unsafe fn decode<I: Isa>(step: *const u8, scales: *const u8, j: usize, v: usize, scarce: bool) -> I::F;
}

/// f32 as it is.
pub(crate) struct F32;
impl FloatWeights for F32 {
    const STEP: usize = 1;
    const STEP_BYTES: usize = 64;
    #[inline(always)]
    unsafe fn decode<I: Isa>(step: *const u8, _: *const u8, _: usize, v: usize, _: bool) -> I::F {
        // SAFETY: within the step.
        unsafe { I::load(step.add(32 * v).cast()) }
    }
}

/// IEEE half.
pub(crate) struct F16;
impl FloatWeights for F16 {
    const STEP: usize = 1;
    const STEP_BYTES: usize = 32;
    #[inline(always)]
    unsafe fn decode<I: Isa>(step: *const u8, _: *const u8, _: usize, v: usize, _: bool) -> I::F {
        // SAFETY: within the step.
        unsafe { I::load_f16(step.add(16 * v)) }
    }
}

/// bfloat16, two inputs to a word.
pub(crate) struct Bf16;
impl FloatWeights for Bf16 {
    const STEP: usize = 2;
    const STEP_BYTES: usize = 64;
    #[inline(always)]
    unsafe fn decode<I: Isa>(step: *const u8, _: *const u8, j: usize, v: usize, scarce: bool) -> I::F {
        // SAFETY: within the step, whose halves are aligned.
        unsafe {
            let words = step.add(32 * v);
            if j == 0 {
                return I::float(I::shl::<16>(I::load_i(words)));
            }
            let words = if scarce { I::reload_i(words) } else { I::load_i(words) };
            I::float(I::and(words, I::splat_i32(0xffff_0000u32 as i32)))
        }
    }
}

/// Byte `j` of each word moved to the top of the lane.
#[inline(always)]
unsafe fn top_byte<I: Isa>(words: I::I, j: usize) -> I::I {
    // SAFETY: register arithmetic.
    unsafe {
        match j {
            0 => I::shl::<24>(words),
            1 => I::shl::<16>(words),
            2 => I::shl::<8>(words),
            _ => words,
        }
    }
}

/// e4m3, four inputs to a word. Sign, exponent and mantissa are moved to their places in an f32, whose exponent is then 120 too small:
/// the scales carry 2^120.
pub(crate) struct Fp8;
impl FloatWeights for Fp8 {
    const ROWS: usize = 5;
    const STEP: usize = 4;
    const STEP_BYTES: usize = 64;
    const GROUP: usize = 128;
    const SCALE_BYTES: usize = 64;
    #[inline(always)]
    unsafe fn decode<I: Isa>(step: *const u8, scales: *const u8, j: usize, v: usize, _: bool) -> I::F {
        // SAFETY: within the step and its scales.
        unsafe {
            let top = top_byte::<I>(I::load_i(step.add(32 * v)), j);
            let bits = I::and(I::sar::<4>(top), I::splat_i32(0x87f0_0000u32 as i32));
            I::mul(I::float(bits), I::load(scales.add(32 * v).cast()))
        }
    }
}

/// Signed bytes, four inputs to a word, without scales of their own (the int8 K/V cache applies them outside).
pub(crate) struct PlainInt8;
impl FloatWeights for PlainInt8 {
    const STEP: usize = 4;
    const STEP_BYTES: usize = 64;
    #[inline(always)]
    unsafe fn decode<I: Isa>(step: *const u8, _: *const u8, j: usize, v: usize, _: bool) -> I::F {
        // SAFETY: within the step.
        unsafe { I::to_f32(I::sar::<24>(top_byte::<I>(I::load_i(step.add(32 * v)), j))) }
    }
}

/// Writes `k` inputs of a panel as a panel of f32.
///
/// To run it is safe if `k` is a multiple of the step, `panel` is at the start of a group and holds `k` inputs, and `out` `16 * k` f32.
pub(crate) struct Widen<W> {
    pub weights: PhantomData<W>,
    pub panel: *const u8,
    pub k: usize,
    pub out: *mut f32,
}

impl<W: FloatWeights> Kernel for Widen<W> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { mut panel, k, mut out, .. } = self;
        // SAFETY: the promises of the type's documentation.
        unsafe {
            for from in (0..k).step_by(W::GROUP) {
                let scales = panel;
                panel = panel.add(W::SCALE_BYTES);
                for _ in 0..W::GROUP.min(k - from) / W::STEP {
                    for j in 0..W::STEP {
                        I::store(out, W::decode::<I>(panel, scales, j, 0, false));
                        I::store(out.add(8), W::decode::<I>(panel, scales, j, 1, false));
                        out = out.add(16);
                    }
                    panel = panel.add(W::STEP_BYTES);
                }
            }
        }
    }
}

/// How far ahead of what a tile multiplies it prefetches.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// Bytes, around the end of the address space; 0 for nothing.
    pub bytes: usize,
    /// Bytes of a panel. A tile's panels stand side by side and are read together, so where one ends its stream goes on in the panel that
    /// many further: without that turn each tile would begin cold. 0 where no other tile follows.
    pub panel: usize,
}

impl Ahead {
    /// Nothing is prefetched.
    pub const NONE: Self = Self { bytes: 0, panel: 0 };

    /// The distance at `at` bytes into each of `panels` panels.
    #[inline(always)]
    fn distance(self, at: usize, panels: usize) -> usize {
        let turns = at + self.bytes.min(self.panel) >= self.panel;
        self.bytes.wrapping_add(if turns { (panels - 1) * self.panel } else { 0 })
    }
}

/// `out[r][16 n ..] (+)= x[r] . panel n` over `k` inputs, for `MR` rows and `NP` panels; it adds if `ACCUMULATE`.
///
/// To run it is safe if `k` is a multiple of the step, each panel holds `k` inputs, each row `k` f32, and `out` `MR` rows of
/// `16 * NP` f32, `ld` apart.
pub(crate) struct FloatTile<W, const MR: usize, const NP: usize, const ACCUMULATE: bool> {
    pub weights: PhantomData<W>,
    pub k: usize,
    pub panels: [*const u8; NP],
    pub x: [*const f32; MR],
    pub out: *mut f32,
    pub ld: usize,
    pub ahead: Ahead,
}

impl<W: FloatWeights, const MR: usize, const NP: usize, const ACCUMULATE: bool> Kernel
    for FloatTile<W, MR, NP, ACCUMULATE>
{
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { k, panels, x, out, ld, ahead, .. } = self;
        // SAFETY: the promises of the type's documentation.
        unsafe {
            let mut acc = [[[I::splat(0.0); 2]; NP]; MR];
            if ACCUMULATE {
                for r in 0..MR {
                    for n in 0..NP {
                        for v in 0..2 {
                            acc[r][n][v] = I::load(out.add(r * ld + n * 16 + v * 8));
                        }
                    }
                }
            }
            let mut at = 0;
            let mut k0 = 0;
            while k0 < k {
                let end = k.min(k0.saturating_add(W::GROUP));
                let scales = panels.map(|p| p.add(at));
                at += W::SCALE_BYTES;
                while k0 < end {
                    if ahead.bytes > 0 {
                        let ahead = ahead.distance(at, NP);
                        for p in panels {
                            I::prefetch(p.wrapping_add(at).wrapping_add(ahead));
                        }
                    }
                    for j in 0..W::STEP {
                        for n in 0..NP {
                            let w = [
                                W::decode::<I>(panels[n].add(at), scales[n], j, 0, MR * NP >= 6),
                                W::decode::<I>(panels[n].add(at), scales[n], j, 1, MR * NP >= 6),
                            ];
                            for r in 0..MR {
                                let xk = I::splat(*x[r].add(k0 + j));
                                acc[r][n][0] = I::fma(xk, w[0], acc[r][n][0]);
                                acc[r][n][1] = I::fma(xk, w[1], acc[r][n][1]);
                            }
                        }
                    }
                    at += W::STEP_BYTES;
                    k0 += W::STEP;
                }
            }
            for r in 0..MR {
                for n in 0..NP {
                    for v in 0..2 {
                        I::store(out.add(r * ld + n * 16 + v * 8), acc[r][n][v]);
                    }
                }
            }
        }
    }
}

/// A weight format of small integers.
pub(crate) trait IntWeights {
    /// Rows of the largest tile that stays in registers.
    const ROWS: usize = 4;
    /// Bytes of one block of a panel.
    const BLOCK_BYTES: usize;
    /// Words of four inputs per load: 1 for bytes, 2 for nibbles.
    const PARTS: usize;
    /// Whether the products of a whole block fit 16 bits.
    const NARROW: bool;
    /// Part `part` of a load, as unsigned bytes.
    unsafe fn part<I: Isa>(raw: I::I, part: usize) -> I::I;
    /// `sum` times what was added to each weight to make it an unsigned byte.
    unsafe fn offset<I: Isa>(sum: I::I) -> I::I;
    /// Scales of half `v` of the block at `block`.
    unsafe fn scales<I: Isa>(block: *const u8, v: usize) -> I::F;
}

/// Bytes, offset by 128.
pub(crate) struct Int8;
impl IntWeights for Int8 {
    const ROWS: usize = 5;
    const BLOCK_BYTES: usize = 544;
    const PARTS: usize = 1;
    const NARROW: bool = false;
    #[inline(always)]
    unsafe fn part<I: Isa>(raw: I::I, _: usize) -> I::I {
        raw
    }
    #[inline(always)]
    unsafe fn offset<I: Isa>(sum: I::I) -> I::I {
        // SAFETY: register arithmetic.
        unsafe { I::shl::<7>(sum) }
    }
    #[inline(always)]
    unsafe fn scales<I: Isa>(block: *const u8, v: usize) -> I::F {
        // SAFETY: within the block.
        unsafe { I::load_f16(block.add(512 + 16 * v)) }
    }
}

/// The low or high nibbles of each byte.
#[inline(always)]
unsafe fn nibbles<I: Isa>(raw: I::I, part: usize) -> I::I {
    // SAFETY: register arithmetic.
    unsafe { I::and(if part == 0 { raw } else { I::shr::<4>(raw) }, I::splat_i32(0x0f0f_0f0f)) }
}

/// Nibbles, offset by 8.
pub(crate) struct Int4;
impl IntWeights for Int4 {
    const BLOCK_BYTES: usize = 288;
    const PARTS: usize = 2;
    const NARROW: bool = true;
    #[inline(always)]
    unsafe fn part<I: Isa>(raw: I::I, part: usize) -> I::I {
        // SAFETY: register arithmetic.
        unsafe { nibbles::<I>(raw, part) }
    }
    #[inline(always)]
    unsafe fn offset<I: Isa>(sum: I::I) -> I::I {
        // SAFETY: register arithmetic.
        unsafe { I::shl::<3>(sum) }
    }
    #[inline(always)]
    unsafe fn scales<I: Isa>(block: *const u8, v: usize) -> I::F {
        // SAFETY: within the block.
        unsafe { I::load_f16(block.add(256 + 16 * v)) }
    }
}

/// Twice the e2m1 values of the codes 0..16, offset by 16.
const E2M1_TWICE: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

/// e2m1 codes, looked up.
pub(crate) struct Mxfp4;
impl IntWeights for Mxfp4 {
    const BLOCK_BYTES: usize = 288;
    const PARTS: usize = 2;
    const NARROW: bool = true;
    #[inline(always)]
    unsafe fn part<I: Isa>(raw: I::I, part: usize) -> I::I {
        // SAFETY: register arithmetic.
        unsafe { I::lookup(&E2M1_TWICE, nibbles::<I>(raw, part)) }
    }
    #[inline(always)]
    unsafe fn offset<I: Isa>(sum: I::I) -> I::I {
        // SAFETY: register arithmetic.
        unsafe { I::shl::<4>(sum) }
    }
    #[inline(always)]
    unsafe fn scales<I: Isa>(block: *const u8, v: usize) -> I::F {
        // SAFETY: within the block.
        unsafe { I::load_bf16(block.add(256 + 16 * v)) }
    }
}

/// `out[r][16 n ..] = x[r] . panel n` over `blocks` blocks, for `MR` rows and `NP` panels.
///
/// To run it is safe if each panel and each row holds `blocks` blocks, and `out` `MR` rows of `16 * NP` f32, `ld` apart.
pub(crate) struct IntTile<W, const MR: usize, const NP: usize> {
    pub weights: PhantomData<W>,
    pub blocks: usize,
    pub panels: [*const u8; NP],
    pub x: [*const ActivationBlock; MR],
    pub out: *mut f32,
    pub ld: usize,
    pub ahead: Ahead,
}

impl<W: IntWeights, const MR: usize, const NP: usize> Kernel for IntTile<W, MR, NP> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { blocks, panels, x, out, ld, ahead, .. } = self;
        // SAFETY: the promises of the type's documentation.
        unsafe {
            for r in 0..MR {
                for i in 0..2 * NP {
                    I::store(out.add(r * ld + i * 8), I::splat(0.0));
                }
            }
            // Hidden from the compiler where it would unroll a whole block and run out of registers.
            let loads = if MR < 4 { 8 / W::PARTS } else { black_box(8 / W::PARTS) };
            for b in 0..blocks {
                let mut acc = [[[I::splat_i32(0); 2]; NP]; MR];
                if !W::NARROW {
                    for r in 0..MR {
                        acc[r] = [[W::offset::<I>(I::splat_i32((*x[r].add(b)).negated_sum)); 2]; NP];
                    }
                }
                let block = panels.map(|p| p.add(b * W::BLOCK_BYTES));
                let distance = ahead.distance(b * W::BLOCK_BYTES, NP);
                for i in 0..loads {
                    for n in 0..NP {
                        if ahead.bytes > 0 {
                            I::prefetch(block[n].wrapping_add(i * 64).wrapping_add(distance));
                        }
                        for part in 0..W::PARTS {
                            let w = [
                                W::part::<I>(I::load_i(block[n].add(i * 64)), part),
                                W::part::<I>(I::load_i(block[n].add(i * 64 + 32)), part),
                            ];
                            for r in 0..MR {
                                let codes = (&raw const (*x[r].add(b)).codes).cast::<i8>();
                                let x = I::splat_bytes(codes.add(4 * (i + part * loads)));
                                for v in 0..2 {
                                    let products = I::maddubs(w[v], x);
                                    acc[r][n][v] = if W::NARROW {
                                        I::add_i16(acc[r][n][v], products)
                                    } else {
                                        I::add_i32(acc[r][n][v], I::pair_sums(products))
                                    };
                                }
                            }
                        }
                    }
                }
                for n in 0..NP {
                    let scales = [W::scales::<I>(block[n], 0), W::scales::<I>(block[n], 1)];
                    for r in 0..MR {
                        let x = x[r].add(b);
                        let scale = I::splat((*x).scale);
                        let offset = W::offset::<I>(I::splat_i32((*x).negated_sum));
                        for v in 0..2 {
                            let acc = acc[r][n][v];
                            let value = I::to_f32(if W::NARROW { I::add_i32(I::pair_sums(acc), offset) } else { acc });
                            let out = out.add(r * ld + n * 16 + v * 8);
                            I::store(out, I::fma(value, I::mul(scales[v], scale), I::load(out)));
                        }
                    }
                }
            }
        }
    }
}

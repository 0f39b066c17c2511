//! Eight-lane vector instructions, behind one trait that the kernels are generic over.
//!
//! Every operation rounds as IEEE 754 says and a fused multiply-add rounds once, so all implementations give the
//! same bits: the portable one is the oracle of the others.

// Vector intrinsics; each implementation is only reached through `run`, which checked the processor.
#![allow(unsafe_code, clippy::missing_safety_doc, missing_docs)]

/// Eight f32 lanes ([`Isa::F`]) and the same 256 bits as integers ([`Isa::I`]).
///
/// # Safety
/// Every method needs the instruction set of its implementation, and pointers valid for the whole vector; none
/// needs alignment.
pub trait Isa: Copy {
    type F: Copy;
    type I: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger lane; `b` where they are equal or one is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller lane; `b` where they are equal or one is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integers, ties to even; |x| < 2^31.
    unsafe fn round_i32(x: Self::F) -> Self::I;
    unsafe fn bits(x: Self::F) -> Self::I;
    unsafe fn float(x: Self::I) -> Self::F;

    /// Eight halves at `p`, widened.
    unsafe fn load_f16(p: *const u8) -> Self::F;
    /// Eight bfloat16 at `p`, widened.
    unsafe fn load_bf16(p: *const u8) -> Self::F;

    unsafe fn load_i(p: *const u8) -> Self::I;
    /// The same, never merged with an earlier load of these bytes: where a second load is cheaper than a register. `p` must be aligned.
    unsafe fn reload_i(p: *const u8) -> Self::I;
    unsafe fn splat_i32(x: i32) -> Self::I;
    /// The four bytes at `p` in every 32-bit lane.
    unsafe fn splat_bytes(p: *const i8) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    /// 32-bit lanes shifted left.
    unsafe fn shl<const N: i32>(a: Self::I) -> Self::I;
    /// 32-bit lanes shifted right, zeros in.
    unsafe fn shr<const N: i32>(a: Self::I) -> Self::I;
    /// 32-bit lanes shifted right, sign in.
    unsafe fn sar<const N: i32>(a: Self::I) -> Self::I;
    unsafe fn add_i32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn add_i16(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn to_f32(a: Self::I) -> Self::F;
    /// Pairs of unsigned bytes of `a` times signed bytes of `b`, summed with saturation into 16 bits.
    unsafe fn maddubs(a: Self::I, b: Self::I) -> Self::I;
    /// Pairs of adjacent 16-bit lanes, summed into 32 bits.
    unsafe fn pair_sums(a: Self::I) -> Self::I;
    /// `table[byte & 15]` for each byte of `a`; the bytes of `a` must be below 128.
    unsafe fn lookup(table: &[u8; 16], a: Self::I) -> Self::I;

    /// Lane `j` of vector `i` to lane `i` of vector `j`.
    unsafe fn transpose(rows: [Self::F; 8]) -> [Self::F; 8];

    /// Asks for the cache line at `p`, into the second level (the first has fewer misses in flight); never faults.
    unsafe fn prefetch(p: *const u8);
}

/// A piece of work written once for every instruction set.
pub trait Kernel {
    /// Does the work.
    ///
    /// # Safety
    /// The processor must have `I`. Must be `#[inline(always)]`, so that it is compiled with the instruction set of [`run`].
    unsafe fn run<I: Isa>(self);
}

/// The instruction set that this processor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX2, FMA and F16C.
    Avx2,
    /// What the compiler makes of arrays of eight.
    Portable,
}

impl Level {
    /// The best level of this processor.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return Level::Avx2;
        }
        Level::Portable
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        }
    }
}

/// Runs `kernel` with the instructions of `level`.
///
/// # Safety
/// `level` must come from [`Level::detect`] or be `Portable`, and the kernel's own requirements hold.
pub unsafe fn run<K: Kernel>(level: Level, kernel: K) {
    match level {
        // SAFETY: the level was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::run(kernel) },
        // SAFETY: needs nothing of the processor.
        _ => unsafe { kernel.run::<Portable>() },
    }
}

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Isa, Kernel};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn run<K: Kernel>(kernel: K) {
        // SAFETY: the caller's promise, and this function's own target features.
        unsafe { kernel.run::<Avx2>() }
    }

    /// AVX2 with FMA and F16C.
    #[derive(Clone, Copy)]
    pub struct Avx2;

    macro_rules! each {
        ($($(#[$doc:meta])* fn $name:ident $(<const $n:ident: i32>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? { $body:expr })*) => {
            $(#[inline(always)]
            unsafe fn $name $(<const $n: i32>)? ($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the trait's contract: the instructions exist and the pointers are valid.
                unsafe { $body }
            })*
        };
    }

    impl Isa for Avx2 {
        type F = __m256;
        type I = __m256i;
        each! {
            fn splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
            fn load(p: *const f32) -> __m256 { _mm256_loadu_ps(p) }
            fn store(p: *mut f32, x: __m256) { _mm256_storeu_ps(p, x) }
            fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
            fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
            fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
            fn div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
            fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
            fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
            fn min(a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
            fn round_i32(x: __m256) -> __m256i { _mm256_cvtps_epi32(x) }
            fn bits(x: __m256) -> __m256i { _mm256_castps_si256(x) }
            fn float(x: __m256i) -> __m256 { _mm256_castsi256_ps(x) }
            fn load_f16(p: *const u8) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
            fn load_bf16(p: *const u8) -> __m256 {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))))
            }
            fn load_i(p: *const u8) -> __m256i { _mm256_loadu_si256(p.cast()) }
            fn reload_i(p: *const u8) -> __m256i { p.cast::<__m256i>().read_volatile() }
            fn splat_i32(x: i32) -> __m256i { _mm256_set1_epi32(x) }
            fn splat_bytes(p: *const i8) -> __m256i { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
            fn and(a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
            fn shl<const N: i32>(a: __m256i) -> __m256i { _mm256_slli_epi32::<N>(a) }
            fn shr<const N: i32>(a: __m256i) -> __m256i { _mm256_srli_epi32::<N>(a) }
            fn sar<const N: i32>(a: __m256i) -> __m256i { _mm256_srai_epi32::<N>(a) }
            fn add_i32(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
            fn add_i16(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi16(a, b) }
            fn to_f32(a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
            fn maddubs(a: __m256i, b: __m256i) -> __m256i { _mm256_maddubs_epi16(a, b) }
            fn pair_sums(a: __m256i) -> __m256i { _mm256_madd_epi16(a, _mm256_set1_epi16(1)) }
            fn lookup(table: &[u8; 16], a: __m256i) -> __m256i {
                _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), a)
            }
            fn transpose(r: [__m256; 8]) -> [__m256; 8] {{
                // Pairs of lanes, then quarters, then halves.
                let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
                let (b0, b1) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
                let (c0, c1) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
                let (d0, d1) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
                let (e0, e1) = (_mm256_shuffle_ps::<0x44>(a0, b0), _mm256_shuffle_ps::<0xee>(a0, b0));
                let (e2, e3) = (_mm256_shuffle_ps::<0x44>(a1, b1), _mm256_shuffle_ps::<0xee>(a1, b1));
                let (f0, f1) = (_mm256_shuffle_ps::<0x44>(c0, d0), _mm256_shuffle_ps::<0xee>(c0, d0));
                let (f2, f3) = (_mm256_shuffle_ps::<0x44>(c1, d1), _mm256_shuffle_ps::<0xee>(c1, d1));
                [
                    _mm256_permute2f128_ps::<0x20>(e0, f0),
                    _mm256_permute2f128_ps::<0x20>(e1, f1),
                    _mm256_permute2f128_ps::<0x20>(e2, f2),
                    _mm256_permute2f128_ps::<0x20>(e3, f3),
                    _mm256_permute2f128_ps::<0x31>(e0, f0),
                    _mm256_permute2f128_ps::<0x31>(e1, f1),
                    _mm256_permute2f128_ps::<0x31>(e2, f2),
                    _mm256_permute2f128_ps::<0x31>(e3, f3),
                ]
            }}
            fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
    }
}

/// Arrays of eight, for any processor.
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn map<A: Copy, B: Copy>(a: [A; 8], f: impl Fn(A) -> B) -> [B; 8] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip<A: Copy, B: Copy>(a: [A; 8], b: [A; 8], f: impl Fn(A, A) -> B) -> [B; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Applies `f` to the two 16-bit halves of each pair of lanes.
#[inline(always)]
fn halves(a: [u32; 8], b: [u32; 8], f: impl Fn(u16, u16) -> u16) -> [u32; 8] {
    zip(a, b, |a, b| u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16)
}

// SAFETY for the blocks below: the trait's contract, pointers valid for the vector.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Isa for Portable {
    type F = [f32; 8];
    type I = [u32; 8];
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: [f32; 8]) {
        unsafe { p.cast::<[f32; 8]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round_i32(x: [f32; 8]) -> [u32; 8] {
        map(x, |x| x.round_ties_even() as i32 as u32)
    }
    #[inline(always)]
    unsafe fn bits(x: [f32; 8]) -> [u32; 8] {
        map(x, f32::to_bits)
    }
    #[inline(always)]
    unsafe fn float(x: [u32; 8]) -> [f32; 8] {
        map(x, f32::from_bits)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> [f32; 8] {
        map(unsafe { p.cast::<[u16; 8]>().read_unaligned() }, |x| half::f16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> [f32; 8] {
        map(unsafe { p.cast::<[u16; 8]>().read_unaligned() }, |x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    unsafe fn load_i(p: *const u8) -> [u32; 8] {
        map(unsafe { p.cast::<[u32; 8]>().read_unaligned() }, u32::from_le)
    }
    #[inline(always)]
    unsafe fn reload_i(p: *const u8) -> [u32; 8] {
        unsafe { Self::load_i(p) }
    }
    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> [u32; 8] {
        [x as u32; 8]
    }
    #[inline(always)]
    unsafe fn splat_bytes(p: *const i8) -> [u32; 8] {
        [u32::from_le(unsafe { p.cast::<u32>().read_unaligned() }); 8]
    }
    #[inline(always)]
    unsafe fn and(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn shl<const N: i32>(a: [u32; 8]) -> [u32; 8] {
        map(a, |a| a << N)
    }
    #[inline(always)]
    unsafe fn shr<const N: i32>(a: [u32; 8]) -> [u32; 8] {
        map(a, |a| a >> N)
    }
    #[inline(always)]
    unsafe fn sar<const N: i32>(a: [u32; 8]) -> [u32; 8] {
        map(a, |a| (a as i32 >> N) as u32)
    }
    #[inline(always)]
    unsafe fn add_i32(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        zip(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn add_i16(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        halves(a, b, u16::wrapping_add)
    }
    #[inline(always)]
    unsafe fn to_f32(a: [u32; 8]) -> [f32; 8] {
        map(a, |a| a as i32 as f32)
    }
    #[inline(always)]
    unsafe fn maddubs(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        halves(a, b, |a, b| {
            let [a0, a1] = a.to_le_bytes().map(i32::from);
            let [b0, b1] = b.to_le_bytes().map(|b| i32::from(b as i8));
            (a0 * b0 + a1 * b1).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as u16
        })
    }
    #[inline(always)]
    unsafe fn pair_sums(a: [u32; 8]) -> [u32; 8] {
        map(a, |a| (i32::from(a as i16) + i32::from((a >> 16) as i16)) as u32)
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: [u32; 8]) -> [u32; 8] {
        map(a, |a| u32::from_le_bytes(a.to_le_bytes().map(|b| table[usize::from(b & 15)])))
    }
    #[inline(always)]
    unsafe fn transpose(rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}

/// `e^x` per lane, within 2 units in the last place for x in (-87, 88]; 0 below, where `e^x` is under the least
/// normal number, the value at 88 above, NaN for NaN. Cody-Waite reduction by ln 2, then a polynomial of degree 6 (Cephes `expf`).
///
/// # Safety
/// The processor must have `I`.
#[inline(always)]
pub unsafe fn exp<I: Isa>(x: I::F) -> I::F {
    // SAFETY: register arithmetic only.
    unsafe {
        let clamped = I::min(I::splat(88.0), I::max(I::splat(-87.0), x));
        let n = I::round_i32(I::mul(clamped, I::splat(std::f32::consts::LOG2_E)));
        let nf = I::to_f32(n);
        let r = I::fma(nf, I::splat(-0.693_359_4), clamped);
        let r = I::fma(nf, I::splat(2.121_944_4e-4), r);
        let mut p = I::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = I::fma(p, r, I::splat(c));
        }
        let y = I::add(I::fma(I::mul(r, r), p, r), I::splat(1.0));
        let power = I::float(I::shl::<23>(I::add_i32(n, I::splat_i32(127))));
        // Zeros where x <= -87 and ones elsewhere (for NaN too), so that what is masked out gives exactly zero.
        let keep = I::sar::<31>(I::bits(I::sub(I::splat(-87.0), I::min(x, I::splat(88.0)))));
        I::float(I::and(I::bits(I::mul(y, power)), keep))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a mut [f32; 8]);

    impl Kernel for Exp<'_> {
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            // SAFETY: eight elements.
            unsafe { I::store(self.0.as_mut_ptr(), exp::<I>(I::load(self.0.as_ptr()))) };
        }
    }

    fn exp_of(level: Level, mut x: [f32; 8]) -> [f32; 8] {
        // SAFETY: the tests use detected levels.
        unsafe { run(level, Exp(&mut x)) };
        x
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in (0..176_000).step_by(8) {
            let x: [f32; 8] = std::array::from_fn(|lane| -87.0 + (i + lane) as f32 / 1000.0 + 1e-4);
            let got = exp_of(Level::detect(), x);
            assert_eq!(got.map(f32::to_bits), exp_of(Level::Portable, x).map(f32::to_bits));
            for (x, got) in x.into_iter().zip(got).filter(|(x, _)| *x <= 88.0) {
                let exact = f64::from(x).exp();
                let unit = f64::from(f32::from_bits((exact as f32).to_bits() + 1) - exact as f32);
                assert!((f64::from(got) - exact).abs() <= 2.0 * unit, "e^{x} = {exact}, got {got}");
            }
        }
    }

    #[test]
    fn exp_at_the_ends() {
        for level in [Level::detect(), Level::Portable] {
            let x = [0.0, -0.0, f32::NEG_INFINITY, -87.5, f32::MIN, f32::NAN, -f32::NAN, f32::INFINITY];
            let got = exp_of(level, x);
            assert_eq!(got[..5], [1.0, 1.0, 0.0, 0.0, 0.0]);
            assert!(got[5].is_nan() && got[6].is_nan() && got[7] == exp_of(level, [88.0; 8])[0]);
        }
    }
}

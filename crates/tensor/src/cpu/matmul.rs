//! Products of packed matrices with rows of activations: dense, and over the experts that rows were routed to.

// Units of work call the microkernel over raw pointers and write disjoint parts of the outputs.
#![allow(unsafe_code)]

use super::isa::{self, Isa, Kernel, Level};
use super::matrix::{BLOCK, Matrix, PANEL, panel_bytes};
use super::tile::{
    self, ActivationBlock, Ahead, FloatTile, FloatWeights, IntTile, IntWeights, Widen, quantise_activations,
};
use super::{Device, Scratch};
use crate::buffer::Tensor;
use crate::format::Format;
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of activations that stay in the L2 cache while the panels of a unit pass over them.
const ROW_BLOCK: usize = 96;
/// Rows from which it pays to widen weights before the product.
const WIDEN_ROWS: usize = 12;
/// Inputs widened at a time: whole groups, and half of the first cache level.
const WIDEN_INPUTS: usize = 256;
/// Work is cut into about this many units per worker.
const UNITS_PER_WORKER: usize = 6;
/// Weights that a unit reads, at most, where it would still have a few panels: some ten microseconds of one worker's share of the memory.
const UNIT_BYTES: usize = 256 << 10;

/// Activations as a product reads them.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// f32 rows.
    Float(&'a Tensor),
    /// Quantised rows: blocks, and how many per row.
    Int(&'a [ActivationBlock], usize),
}

/// Which rows of the input a unit works on.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Consecutive ones.
    Range(usize, usize),
    /// A list, as routed.
    List(&'a [u32]),
}

impl Rows<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Rows::Range(_, len) => *len,
            Rows::List(list) => list.len(),
        }
    }
    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> usize {
        match self {
            Rows::Range(from, _) => from + i,
            Rows::List(list) => list[i] as usize,
        }
    }
}

/// `out[i][16 n..] = x[rows(i)] . panel n` for a range of panels.
struct Unit<'a> {
    level: Level,
    matrix: &'a Matrix,
    panels: Range<usize>,
    input: Input<'a>,
    rows: Rows<'a>,
    out: &'a mut [f32],
    ld: usize,
}

/// Splits `rows` into tiles of at most `most` rows, as even as possible, and calls `f(first row, rows)`.
#[inline(always)]
pub(crate) fn for_each_tile(rows: usize, most: usize, mut f: impl FnMut(usize, usize)) {
    let tiles = rows.div_ceil(most);
    let mut row = 0;
    for t in 0..tiles {
        let size = (rows - row).div_ceil(tiles - t);
        f(row, size);
        row += size;
    }
}

/// One way to compute a tile of rows and panels.
trait Tiles {
    /// Rows of the largest tile.
    const MOST: usize;
    /// Computes rows `r..r + MR` of panels `p..p + NP`.
    fn tile<const MR: usize, const NP: usize>(&self, p: usize, r: usize, out: &mut [f32]);

    /// Computes `rows` rows of panel `p`.
    fn panel(&self, p: usize, rows: usize, out: &mut [f32]) {
        for_each_tile(rows, Self::MOST, |r, size| match size {
            1 => self.tile::<1, 1>(p, r, out),
            2 => self.tile::<2, 1>(p, r, out),
            3 => self.tile::<3, 1>(p, r, out),
            4 => self.tile::<4, 1>(p, r, out),
            5 => self.tile::<5, 1>(p, r, out),
            _ => self.tile::<6, 1>(p, r, out),
        });
    }
}

impl Unit<'_> {
    fn run(mut self) {
        assert!(self.out.len() >= self.rows.len() * self.ld && self.ld >= self.panels.len() * PANEL);
        let out = std::mem::take(&mut self.out);
        match self.matrix.format {
            Format::F32 => self.cover(&Float::<tile::F32>::new(&self), out),
            Format::F16 => self.cover(&Float::<tile::F16>::new(&self), out),
            Format::Bf16 => self.cover(&Float::<tile::Bf16>::new(&self), out),
            Format::Fp8 if self.rows.len() >= WIDEN_ROWS => self.cover_widened::<tile::Fp8>(out),
            Format::Fp8 => self.cover(&Float::<tile::Fp8>::new(&self), out),
            Format::Int8 => self.cover(&Int::<tile::Int8>::new(&self), out),
            Format::Int4 => self.cover(&Int::<tile::Int4>::new(&self), out),
            Format::Mxfp4 => self.cover(&Int::<tile::Mxfp4>::new(&self), out),
        }
    }

    /// One and two rows read several panels at once, so that enough streams and accumulators are in flight; more rows share one panel.
    fn cover<T: Tiles>(&self, tiles: &T, out: &mut [f32]) {
        let mut p = self.panels.start;
        while p < self.panels.end {
            let left = self.panels.end - p;
            p += match (self.rows.len(), left) {
                (1, 4..) => {
                    tiles.tile::<1, 4>(p, 0, out);
                    4
                }
                (2, 2..) => {
                    tiles.tile::<2, 2>(p, 0, out);
                    2
                }
                (rows, _) => {
                    tiles.panel(p, rows, out);
                    1
                }
            };
        }
    }

    /// The same products for a format that is slow to decode: inputs are widened once, some at a time in the first cache level, and then read
    /// by all rows.
    fn cover_widened<W: FloatWeights>(&self, out: &mut [f32]) {
        let Float { x, .. } = Float::<W>::new(self);
        let mut weights = [0f32; WIDEN_INPUTS * PANEL];
        out.fill(0.0);
        for p in self.panels.clone() {
            let mut panel = self.matrix.panel(p);
            for from in (0..x.stride()).step_by(WIDEN_INPUTS) {
                let k = WIDEN_INPUTS.min(x.stride() - from);
                let (part, rest) = panel.split_at(panel_bytes(self.matrix.format, k));
                panel = rest;
                let widen = Widen::<W> { weights: PhantomData, panel: part.as_ptr(), k, out: weights.as_mut_ptr() };
                // SAFETY: `part` has been cut to `k` inputs, whole groups before it, and `weights` holds them; the level was detected.
                unsafe { isa::run(self.level, widen) };
                Widened { unit: self, x, inputs: from..from + k, weights: &weights }.panel(p, self.rows.len(), out);
            }
        }
    }

    /// A panel that only a few rows pass over comes from memory at full speed only with help.
    fn ahead(&self) -> Ahead {
        if self.rows.len() > 8 {
            return Ahead::NONE;
        }
        Ahead { bytes: 1024, panel: self.matrix.panel(0).len() }
    }
}

/// Tiles of formats that widen to f32.
struct Float<'a, W> {
    unit: &'a Unit<'a>,
    x: &'a Tensor,
    weights: PhantomData<W>,
}

impl<'a, W> Float<'a, W> {
    fn new(unit: &'a Unit<'a>) -> Self {
        let Input::Float(x) = unit.input else { unreachable!("float weights multiply float activations") };
        assert_eq!(x.stride(), unit.matrix.cols().next_multiple_of(Tensor::PAD));
        Self { unit, x, weights: PhantomData }
    }
}

impl<W: FloatWeights> Tiles for Float<'_, W> {
    const MOST: usize = W::ROWS;
    fn tile<const MR: usize, const NP: usize>(&self, p: usize, r: usize, out: &mut [f32]) {
        let unit = self.unit;
        let out = &mut out[r * unit.ld + (p - unit.panels.start) * PANEL..];
        let tile = FloatTile::<W, MR, NP, false> {
            weights: PhantomData,
            k: self.x.stride(),
            panels: std::array::from_fn(|n| unit.matrix.panel(p + n).as_ptr()),
            x: std::array::from_fn(|i| self.x.padded_row(unit.rows.get(r + i)).as_ptr()),
            out: out.as_mut_ptr(),
            ld: unit.ld,
            ahead: unit.ahead(),
        };
        assert!(out.len() >= (MR - 1) * unit.ld + NP * PANEL);
        // SAFETY: rows and panels are padded to `k`, a multiple of every step; `out` was just checked; the level was detected.
        unsafe { isa::run(unit.level, tile) };
    }
}

/// Tiles of some inputs of a panel that was widened to f32; they add to the output.
struct Widened<'a> {
    unit: &'a Unit<'a>,
    x: &'a Tensor,
    inputs: Range<usize>,
    weights: &'a [f32],
}

impl Tiles for Widened<'_> {
    const MOST: usize = 6;
    fn tile<const MR: usize, const NP: usize>(&self, p: usize, r: usize, out: &mut [f32]) {
        let unit = self.unit;
        let out = &mut out[r * unit.ld + (p - unit.panels.start) * PANEL..];
        let tile = FloatTile::<tile::F32, MR, 1, true> {
            weights: PhantomData,
            k: self.inputs.len(),
            panels: [self.weights.as_ptr().cast()],
            x: std::array::from_fn(|i| self.x.padded_row(unit.rows.get(r + i))[self.inputs.clone()].as_ptr()),
            out: out.as_mut_ptr(),
            ld: unit.ld,
            ahead: Ahead::NONE,
        };
        assert!(NP == 1 && out.len() >= (MR - 1) * unit.ld + PANEL && self.weights.len() >= self.inputs.len() * PANEL);
        // SAFETY: rows were cut to the inputs; weights and output were just checked; the level was detected.
        unsafe { isa::run(unit.level, tile) };
    }
}

/// Tiles of integer formats.
struct Int<'a, W> {
    unit: &'a Unit<'a>,
    x: &'a [ActivationBlock],
    blocks: usize,
    weights: PhantomData<W>,
}

impl<'a, W> Int<'a, W> {
    fn new(unit: &'a Unit<'a>) -> Self {
        let Input::Int(x, blocks) = unit.input else { unreachable!("integer weights multiply integer activations") };
        assert_eq!(blocks, unit.matrix.cols().next_multiple_of(Tensor::PAD) / BLOCK);
        Self { unit, x, blocks, weights: PhantomData }
    }
}

impl<W: IntWeights> Tiles for Int<'_, W> {
    const MOST: usize = W::ROWS;
    fn tile<const MR: usize, const NP: usize>(&self, p: usize, r: usize, out: &mut [f32]) {
        let unit = self.unit;
        let out = &mut out[r * unit.ld + (p - unit.panels.start) * PANEL..];
        let tile = IntTile::<W, MR, NP> {
            weights: PhantomData,
            blocks: self.blocks,
            panels: std::array::from_fn(|n| unit.matrix.panel(p + n).as_ptr()),
            x: std::array::from_fn(|i| self.x[unit.rows.get(r + i) * self.blocks..][..self.blocks].as_ptr()),
            out: out.as_mut_ptr(),
            ld: unit.ld,
            ahead: unit.ahead(),
        };
        assert!(out.len() >= (MR - 1) * unit.ld + NP * PANEL);
        // SAFETY: rows and panels hold `blocks` blocks; `out` was just checked; the level was detected.
        unsafe { isa::run(unit.level, tile) };
    }
}

/// Computes one unit into `scratch` and returns its rows of `panels.len() * 16`.
pub(crate) fn compute<'s>(
    level: Level,
    scratch: &'s mut Scratch,
    matrix: &Matrix,
    panels: Range<usize>,
    input: Input<'_>,
    rows: Rows<'_>,
) -> &'s mut [f32] {
    let ld = panels.len() * PANEL;
    let out = scratch.floats(rows.len() * ld);
    Unit { level, matrix, panels, input, rows, out: &mut *out, ld }.run();
    out
}

struct Quantise<'a> {
    row: &'a [f32],
    out: &'a mut [ActivationBlock],
}

impl Kernel for Quantise<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        quantise_activations(self.row, self.out);
    }
}

/// Quantises one padded row.
pub(crate) fn quantise(level: Level, row: &[f32], out: &mut [ActivationBlock]) {
    // SAFETY: the level was detected by the device.
    unsafe { isa::run(level, Quantise { row, out }) };
}

/// Panels per unit, of `panels` in all over all row blocks: enough units for all workers and few bytes in each, so that no worker waits long for
/// the other's last; in multiples of four (the interleave of one row), of bounded scratch.
pub(crate) fn panels_per_unit(panels: usize, panel_bytes: usize, workers: usize) -> usize {
    if workers == 1 {
        return 16;
    }
    let fit = UNIT_BYTES / panel_bytes.max(1);
    (panels / (workers * UNITS_PER_WORKER)).min(fit).next_multiple_of(4).clamp(4, 16)
}

impl Device {
    /// Quantised copies of the first `rows` rows of `x` where `format` needs them.
    pub(crate) fn input<'a>(
        &mut self,
        format: Format,
        x: &'a Tensor,
        rows: usize,
        blocks: &'a mut Vec<ActivationBlock>,
    ) -> Input<'a> {
        if !format.multiplies_integers() {
            return Input::Float(x);
        }
        let per_row = x.stride() / BLOCK;
        blocks.resize(rows * per_row, ActivationBlock::ZERO);
        let level = self.level;
        if rows < 8 {
            blocks.chunks_mut(per_row).enumerate().for_each(|(r, out)| quantise(level, x.padded_row(r), out));
        } else {
            let chunks: Vec<_> = blocks.chunks_mut(per_row).map(std::sync::Mutex::new).collect();
            self.pool.for_each(rows, &|r, _| {
                if let Ok(mut out) = chunks[r].lock() {
                    quantise(level, x.padded_row(r), &mut out);
                }
            });
        }
        Input::Int(blocks, per_row)
    }

    /// `out[i] = x[i] W^T + bias` for the first `rows` rows, plus what `out` held if `accumulate`.
    pub fn matmul(
        &mut self,
        matrix: &Matrix,
        x: &Tensor,
        rows: usize,
        bias: Option<&[f32]>,
        accumulate: bool,
        out: &mut Tensor,
    ) {
        self.matmul_rows(matrix, x, 0..rows, bias, accumulate, out);
    }

    /// The same for a range of rows, each to the row of its number.
    pub(crate) fn matmul_rows(
        &mut self,
        matrix: &Matrix,
        x: &Tensor,
        rows: Range<usize>,
        bias: Option<&[f32]>,
        accumulate: bool,
        out: &mut Tensor,
    ) {
        assert!(x.cols() == matrix.cols() && out.cols() >= matrix.rows());
        assert!(rows.end <= x.rows() && rows.end <= out.rows());
        self.arithmetic.product(rows.len(), matrix);
        let mut blocks = std::mem::take(&mut self.activations);
        let input = self.input(matrix.format, x, rows.end, &mut blocks);
        let row_blocks = rows.len().div_ceil(ROW_BLOCK);
        let per_unit = panels_per_unit(matrix.panels() * row_blocks, matrix.panel_bytes, self.pool.threads());
        let chunks = matrix.panels().div_ceil(per_unit);
        let (level, scratch) = (self.level, &self.scratch);
        let shared = out.shared();
        self.pool.for_each(chunks * row_blocks, &|unit, worker| {
            let (chunk, block) = (unit % chunks, unit / chunks);
            let panels = chunk * per_unit..matrix.panels().min((chunk + 1) * per_unit);
            let first = rows.start + block * ROW_BLOCK;
            let count = ROW_BLOCK.min(rows.end - first);
            let Ok(mut scratch) = scratch[worker].lock() else {
                return;
            };
            let ld = panels.len() * PANEL;
            let result = compute(level, &mut scratch, matrix, panels.clone(), input, Rows::Range(first, count));
            let from = panels.start * PANEL;
            let width = ld.min(matrix.rows() - from);
            for (r, result) in result.chunks_exact(ld).enumerate() {
                // SAFETY: units cover disjoint rows and columns.
                let out = unsafe { shared.part(first + r, from, width) };
                write(&result[..width], bias.map(|b| &b[from..]), accumulate, out);
            }
        });
        self.activations = blocks;
    }
}

/// `out = result + bias (+ out)`.
fn write(result: &[f32], bias: Option<&[f32]>, accumulate: bool, out: &mut [f32]) {
    match (bias, accumulate) {
        (None, false) => out.copy_from_slice(result),
        (None, true) => out.iter_mut().zip(result).for_each(|(o, y)| *o += y),
        (Some(bias), false) => out.iter_mut().zip(result).zip(bias).for_each(|((o, y), b)| *o = y + b),
        (Some(bias), true) => out.iter_mut().zip(result).zip(bias).for_each(|((o, y), b)| *o += y + b),
    }
}

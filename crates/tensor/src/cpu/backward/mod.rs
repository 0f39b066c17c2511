//! Gradients. Each operation has its input and its weight gradient as calls of their own; everything is f32.
//!
//! Sums over tokens run in the order of tokens, each element of a gradient on one worker, so that a gradient has the same bits with any
//! number of workers.

pub mod attention;
pub mod experts;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod router;
mod vector;

// The one product that all of them are made of calls the microkernel over slices it has checked.
#[allow(unsafe_code)]
mod product {
    use crate::cpu::isa::{self, Level};
    use crate::cpu::matmul::for_each_tile;
    use crate::cpu::matrix::PANEL;
    use crate::cpu::tile::{Ahead, F32, FloatTile};
    use std::marker::PhantomData;

    /// Rows of `x`, `stride` apart.
    #[derive(Clone, Copy)]
    pub(crate) struct RowsOf<'a> {
        pub data: &'a [f32],
        pub stride: usize,
        pub rows: usize,
    }

    /// `out[r][..16] (+)= x[r][..k] . panel`, the panel being `k` lines of 16; rows of `out` are `ld` apart.
    pub(crate) fn product<const ACCUMULATE: bool>(
        level: Level,
        k: usize,
        x: RowsOf<'_>,
        panel: &[f32],
        out: &mut [f32],
        ld: usize,
    ) {
        if x.rows == 0 || k == 0 {
            return;
        }
        assert!(panel.len() >= k * PANEL && x.data.len() >= (x.rows - 1) * x.stride + k);
        assert!(out.len() >= (x.rows - 1) * ld + PANEL);
        macro_rules! tile {
            ($mr:literal, $r:expr) => {{
                let tile = FloatTile::<F32, $mr, 1, ACCUMULATE> {
                    weights: PhantomData,
                    k,
                    panels: [panel.as_ptr().cast()],
                    x: std::array::from_fn(|i| x.data[($r + i) * x.stride..].as_ptr()),
                    out: out[$r * ld..].as_mut_ptr(),
                    ld,
                    ahead: Ahead::NONE,
                };
                // SAFETY: the assertions above; the level was detected by the device.
                unsafe { isa::run(level, tile) }
            }};
        }
        for_each_tile(x.rows, 6, |r, size| match size {
            1 => tile!(1, r),
            2 => tile!(2, r),
            3 => tile!(3, r),
            4 => tile!(4, r),
            5 => tile!(5, r),
            _ => tile!(6, r),
        });
    }
}

pub(crate) use product::{RowsOf, product};
pub(crate) use vector::transpose;

/// Columns `from..from + 16` of row-major rows as a panel: one line of 16 per row, zeros past `cols`.
pub(crate) fn columns_to_panel<'a>(rows: impl Iterator<Item = &'a [f32]>, from: usize, panel: &mut [f32]) {
    for (line, row) in panel.as_chunks_mut::<16>().0.iter_mut().zip(rows) {
        if let Some(whole) = row[from.min(row.len())..].first_chunk::<16>() {
            *line = *whole;
            continue;
        }
        let have = row.len().saturating_sub(from).min(16);
        line[..have].copy_from_slice(&row[from..from + have]);
        line[have..].fill(0.0);
    }
}

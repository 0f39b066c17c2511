//! Memory of the host: aligned, zeroed, in huge pages where it is large.

// Allocation and the views over it.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Size of a huge page; allocations from here on are aligned to it, so that a walk over weights costs few TLB misses.
const HUGE: usize = 2 << 20;
/// A cache line.
const LINE: usize = 64;

/// Element types for which all bit patterns, zeros too, are values.
///
/// # Safety
/// Only plain numbers.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}

/// A fixed number of elements, zero at first, aligned to a cache line.
pub struct Buffer<T: Plain> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: owns its memory, as a boxed slice does.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: shared access gives only `&[T]`.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` zeros. Aborts when memory is exhausted, as collections do.
    pub fn zeros(len: usize) -> Self {
        let layout = Self::layout(len);
        if layout.size() == 0 {
            return Self { start: NonNull::dangling(), len: 0 };
        }
        // SAFETY: the layout has a size.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        if layout.size() >= HUGE {
            // SAFETY: the range was just allocated; the advice changes no content, and where it is not taken nothing is lost.
            unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        Self { start: start.cast(), len }
    }

    fn layout(len: usize) -> Layout {
        let bytes = len.saturating_mul(size_of::<T>());
        let align = if bytes >= HUGE { HUGE } else { LINE };
        match Layout::from_size_align(bytes, align) {
            Ok(layout) => layout,
            Err(_) => panic!("a buffer of {len} elements does not fit the address space"),
        }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeros` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) };
        }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements, aligned.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Rows of f32, each padded with zeros to a multiple of [`Tensor::PAD`] columns, so that kernels may read whole steps of
/// a weight format. Operations write only the logical columns: the padding stays zero.
pub struct Tensor {
    rows: usize,
    cols: usize,
    stride: usize,
    data: Buffer<f32>,
}

impl Tensor {
    /// Columns of padding granularity.
    pub const PAD: usize = 32;

    /// `[rows, cols]` zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        let stride = cols.next_multiple_of(Self::PAD);
        Self { rows, cols, stride, data: Buffer::zeros(rows * stride) }
    }

    /// A tensor with these rows, each `cols` long.
    pub fn from_rows(cols: usize, rows: &[&[f32]]) -> Self {
        let mut tensor = Self::zeros(rows.len(), cols);
        for (i, row) in rows.iter().enumerate() {
            tensor.row_mut(i).copy_from_slice(row);
        }
        tensor
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Logical columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `i`, logical columns.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.stride..][..self.cols]
    }

    /// Row `i`, logical columns.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.stride..][..self.cols]
    }

    pub(crate) fn padded_row(&self, i: usize) -> &[f32] {
        &self.data[i * self.stride..][..self.stride]
    }

    /// A view through which several workers may write at once.
    pub(crate) fn shared(&mut self) -> SharedRows<'_> {
        SharedRows {
            start: self.data.as_mut_ptr(),
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            _lives: std::marker::PhantomData,
        }
    }
}

/// Write access to a tensor from several workers, each to its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedRows<'a> {
    start: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    _lives: std::marker::PhantomData<&'a mut f32>,
}

// SAFETY: `part` demands disjoint parts.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    /// Columns `from..from + len` of row `i`.
    ///
    /// # Safety
    /// No two parts that live at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, i: usize, from: usize, len: usize) -> &'a mut [f32] {
        assert!(i < self.rows && from + len <= self.cols);
        // SAFETY: in bounds by the assertion, unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.stride + from), len) }
    }
}

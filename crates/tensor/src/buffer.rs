//! Memory of the host: aligned, zeroed, in huge pages where it is large.

// Allocation and the views over it.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::mem::ManuallyDrop;
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
    /// Bytes of the allocation: more than `len` elements where it was recycled.
    capacity: usize,
}

// SAFETY: owns its memory, as a boxed slice does.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: shared access gives only `&[T]`.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` zeros. Aborts when memory is exhausted, as collections do.
    pub fn zeros(len: usize) -> Self {
        let size = Self::layout(len.saturating_mul(size_of::<T>())).size();
        if let Some(mut buffer) = Self::recycled(len, size) {
            buffer.fill_zeros();
            return buffer;
        }
        Self::allocate(len, size)
    }

    /// `len` elements of any values, for who writes them all before reading one.
    pub fn stale(len: usize) -> Self {
        let size = Self::layout(len.saturating_mul(size_of::<T>())).size();
        Self::recycled(len, size).unwrap_or_else(|| Self::allocate(len, size))
    }

    fn recycled(len: usize, size: usize) -> Option<Self> {
        // Its memory goes on as the buffer's.
        let spare = ManuallyDrop::new(recycling::take(size)?);
        Some(Self { start: spare.start.cast(), len, capacity: spare.size })
    }

    fn allocate(len: usize, size: usize) -> Self {
        if size == 0 {
            return Self { start: NonNull::dangling(), len: 0, capacity: 0 };
        }
        let layout = Self::layout(size);
        // SAFETY: the layout has a size.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        if size >= HUGE {
            // SAFETY: the range was just allocated; the advice changes no content, and where it is not taken nothing is lost.
            unsafe { libc::madvise(start.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
        }
        Self { start: start.cast(), len, capacity: size }
    }

    fn fill_zeros(&mut self) {
        // SAFETY: `len` elements for which all bits zero are a value.
        unsafe { self.start.write_bytes(0, self.len) };
    }

    fn layout(bytes: usize) -> Layout {
        layout(bytes).unwrap_or_else(|| panic!("a buffer of {bytes} bytes does not fit the address space"))
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, if bytes >= HUGE { HUGE } else { LINE }).ok()
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.capacity > 0 {
            recycling::give(Spare { start: self.start.cast(), size: self.capacity });
        }
    }
}

/// Memory that no buffer uses: initialised, of any values.
struct Spare {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: owns its memory.
unsafe impl Send for Spare {}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(layout) = layout(self.size) {
            // SAFETY: `Buffer::allocate` made it with this layout.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

/// Keeps the memory of large buffers that are given up for those that come, until this is dropped: work that repeats itself, such as the steps
/// of a training run, then asks the system for no page twice, which would clear each again and again.
pub struct Recycling(());

impl Recycling {
    /// From now on, in all threads.
    pub fn start() -> Self {
        recycling::open();
        Self(())
    }
}

impl Drop for Recycling {
    fn drop(&mut self) {
        recycling::close();
    }
}

mod recycling {
    use super::Spare;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Smaller ones the allocator keeps itself.
    const LEAST: usize = 64 << 10;
    /// Spares that are kept; sizes that no longer occur are the first to go.
    const MOST: usize = 256;

    struct Shelf {
        /// How many hold recycling open.
        open: usize,
        /// Those given last stand last.
        spares: Vec<Spare>,
    }

    static SHELF: Mutex<Shelf> = Mutex::new(Shelf { open: 0, spares: Vec::new() });

    fn shelf() -> MutexGuard<'static, Shelf> {
        // Nothing panics while it holds the lock.
        SHELF.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open() {
        shelf().open += 1;
    }

    pub(super) fn close() {
        let mut shelf = shelf();
        shelf.open -= 1;
        if shelf.open == 0 {
            shelf.spares = Vec::new();
        }
    }

    /// A spare of `size` bytes or up to a quarter more, the smallest.
    pub(super) fn take(size: usize) -> Option<Spare> {
        if size < LEAST {
            return None;
        }
        let mut shelf = shelf();
        let fitting = shelf.spares.iter().enumerate().filter(|(_, s)| (size..=size + size / 4).contains(&s.size));
        let (index, _) = fitting.min_by_key(|(_, spare)| spare.size)?;
        Some(shelf.spares.remove(index))
    }

    pub(super) fn give(spare: Spare) {
        if spare.size < LEAST {
            return;
        }
        let mut shelf = shelf();
        if shelf.open > 0 {
            if shelf.spares.len() == MOST {
                shelf.spares.remove(0);
            }
            shelf.spares.push(spare);
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

    /// `[rows, cols]` of any values, for who writes them all before reading one; the padding is zero.
    pub fn stale(rows: usize, cols: usize) -> Self {
        let stride = cols.next_multiple_of(Self::PAD);
        let mut data = Buffer::stale(rows * stride);
        if stride > cols {
            data.chunks_mut(stride).for_each(|row| row[cols..].fill(0.0));
        }
        Self { rows, cols, stride, data }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recycled_zeros_are_zero_and_recycled_padding_too() {
        let _recycling = Recycling::start();
        // A size that no other test uses.
        for _ in 0..3 {
            let mut tensor = Tensor::zeros(1031, 77);
            assert!((0..1031).all(|r| tensor.padded_row(r).iter().all(|x| *x == 0.0)));
            tensor.data.fill(1.0);
            drop(tensor);
            let mut stale = Tensor::stale(1031, 77);
            assert!((0..1031).all(|r| stale.padded_row(r)[77..].iter().all(|x| *x == 0.0)));
            stale.data.fill(2.0);
        }
    }
}

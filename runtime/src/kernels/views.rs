//! What kernels read and write: windows of f32 matrices and packed weights.
//!
//! A window is a pointer, not a slice, because several windows of one arena are in use at a time, and because a kernel
//! that works in place reads and writes the same one. Windows own nothing.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use llamac_plan::layout::MatrixLayout;

/// An f32 matrix `[len, width]` to read, its rows `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    start: *const f32,
    len: usize,
    width: usize,
    stride: usize,
    life: PhantomData<&'a [f32]>,
}

// SAFETY: a window to read is a shared slice with gaps.
unsafe impl Send for Rows<'_> {}
// SAFETY: as above.
unsafe impl Sync for Rows<'_> {}

impl<'a> Rows<'a> {
    /// All of `data`, `width` elements a row.
    ///
    /// # Panics
    /// If `data` does not divide into rows.
    pub fn new(data: &'a [f32], width: usize) -> Self {
        let len = rows_of(data.len(), width);
        Self { start: data.as_ptr(), len, width, stride: width, life: PhantomData }
    }

    /// `len` rows of `width` elements, `stride` apart, from `start`.
    ///
    /// # Safety
    /// For `'a`, every row is inside one allocation, initialized, and written to by no one but a kernel that is given
    /// this window and writes to the same one in place.
    pub unsafe fn from_raw(start: *const f32, len: usize, width: usize, stride: usize) -> Self {
        Self { start, len, width, stride, life: PhantomData }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Columns `start .. start + width`.
    ///
    /// # Panics
    /// If there are no such columns.
    pub fn columns(&self, start: usize, width: usize) -> Self {
        assert!(start <= self.width && width <= self.width - start, "columns are inside the window");
        Self { start: self.start.wrapping_add(start), width, ..*self }
    }

    /// Some rows.
    ///
    /// # Panics
    /// If they are not inside the window.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.len, "the rows are inside the window");
        Self { start: self.start.wrapping_add(rows.start * self.stride), len: rows.len(), ..*self }
    }

    /// One row. Not for kernels that may work in place.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        // SAFETY: `pointer` checks the row, which is readable by the constructor's contract.
        unsafe { std::slice::from_raw_parts(self.pointer(row), self.width) }
    }

    /// Start of one row.
    pub(super) fn pointer(&self, row: usize) -> *const f32 {
        assert!(row < self.len, "the row is inside the window");
        self.start.wrapping_add(row * self.stride)
    }
}

impl fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows[{}, {}]", self.len, self.width)
    }
}

/// An f32 matrix `[len, width]` to write, its rows `stride` elements apart.
pub struct RowsMut<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: a window to write is an exclusive slice with gaps.
unsafe impl Send for RowsMut<'_> {}
// SAFETY: shared, it gives out pointers only; tasks write to rows or columns that no other task touches.
unsafe impl Sync for RowsMut<'_> {}

impl<'a> RowsMut<'a> {
    /// All of `data`, `width` elements a row.
    ///
    /// # Panics
    /// If `data` does not divide into rows.
    pub fn new(data: &'a mut [f32], width: usize) -> Self {
        let len = rows_of(data.len(), width);
        Self { start: data.as_mut_ptr(), len, width, stride: width, life: PhantomData }
    }

    /// `len` rows of `width` elements, `stride` apart, from `start`.
    ///
    /// # Safety
    /// For `'a`, every row is inside one allocation, initialized, and used by no one else, except as the input of a
    /// kernel that works in place on exactly this window.
    pub unsafe fn from_raw(start: *mut f32, len: usize, width: usize, stride: usize) -> Self {
        Self { start, len, width, stride, life: PhantomData }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Columns `start .. start + width`.
    ///
    /// # Panics
    /// If there are no such columns.
    pub fn columns(self, start: usize, width: usize) -> Self {
        assert!(start <= self.width && width <= self.width - start, "columns are inside the window");
        Self { start: self.start.wrapping_add(start), width, ..self }
    }

    /// Start of one row.
    pub(super) fn pointer(&self, row: usize) -> *mut f32 {
        assert!(row < self.len, "the row is inside the window");
        self.start.wrapping_add(row * self.stride)
    }

    /// Elements between the starts of two rows.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}

impl fmt::Debug for RowsMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowsMut[{}, {}]", self.len, self.width)
    }
}

/// A pointer that tasks may share: they write through it to disjoint places.
pub(super) struct SendMut<T>(pub(super) *mut T);
// SAFETY: see above.
unsafe impl<T> Sync for SendMut<T> {}

impl<T> SendMut<T> {
    pub(super) fn get(&self) -> *mut T {
        self.0
    }
}

/// A pointer that tasks may share to read.
pub(super) struct SendConst<T>(pub(super) *const T);
// SAFETY: nobody writes while tasks read.
unsafe impl<T> Sync for SendConst<T> {}

impl<T> SendConst<T> {
    pub(super) fn get(&self) -> *const T {
        self.0
    }
}

fn rows_of(elements: usize, width: usize) -> usize {
    let len = elements.checked_div(width).unwrap_or(0);
    assert!(len * width == elements, "{elements} elements are rows of {width}");
    len
}

/// A packed matrix, see [`llamac_plan::layout`].
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    layout: MatrixLayout,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// The matrix of `layout` in `data`.
    ///
    /// # Panics
    /// If `data` has another length than the layout says.
    pub fn new(layout: MatrixLayout, data: &'a [u8]) -> Self {
        assert!(layout.bytes() == Some(data.len()), "{layout:?} does not take {} bytes", data.len());
        Self { layout, data }
    }

    /// Shape and dtype.
    pub fn layout(&self) -> &MatrixLayout {
        &self.layout
    }

    /// Where a panel is, or would be.
    pub(super) fn panel(&self, panel: usize) -> *const u8 {
        self.data.as_ptr().wrapping_add(panel * self.layout.panel_bytes())
    }

    /// Bytes that a column of a panel takes, with its part of what blocks have.
    pub(super) fn column_bytes(&self) -> usize {
        self.layout.panel_bytes() / self.layout.padded_cols().max(1)
    }

    /// The bytes of all panels.
    pub(super) fn data(&self) -> &'a [u8] {
        self.data
    }
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({:?})", self.layout)
    }
}

#[cfg(test)]
mod tests {
    use llamac_plan::layout::WeightDtype;

    use super::*;

    #[test]
    fn columns_are_windows() {
        let data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let rows = Rows::new(&data, 4).columns(1, 2);
        assert_eq!((rows.len(), rows.width()), (3, 2));
        assert_eq!(rows.row(2), [9.0, 10.0]);
    }

    #[test]
    fn nothing_has_no_rows() {
        assert!(Rows::new(&[], 0).is_empty());
        assert!(Rows::new(&[], 4).is_empty());
    }

    #[test]
    #[should_panic(expected = "inside the window")]
    fn a_row_past_the_end_is_refused() {
        Rows::new(&[0.0; 8], 4).row(2);
    }

    #[test]
    #[should_panic(expected = "does not take 4 bytes")]
    fn a_matrix_of_another_size_is_refused() {
        Matrix::new(MatrixLayout { dtype: WeightDtype::F32, rows: 1, cols: 1 }, &[0; 4]);
    }
}

//! Speeds of kernels beside what the machine can do, to be compared within one run: read the `fastest` column.
//!
//! Weights and caches take more than a gigabyte and are visited in turn, so that no cache helps where a model would
//! find none.

use std::hint::black_box;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use llamac_plan::layout::{MatrixLayout, WeightDtype};
use llamac_plan::{Activation, Arithmetic, Compute, KvDtype};
use llamac_runtime::kernels::{self, Context, KvLayout, Matrix, Rows, RowsMut, Segment, peak};

fn main() {
    // Backed by pages before anything is measured.
    black_box(memory());
    divan::main();
}

/// Columns and rows of the matrix: the feed-forward block of a 1.1B model.
const COLS: usize = 2048;
const ROWS: usize = 5632;
/// Elements from a row of results to the next: cache lines, an odd number, as in a model.
const STRIDE: usize = ROWS + 16;
/// Each with the arithmetic that suits it.
const DTYPES: [WeightDtype; 6] = WeightDtype::ALL;
const THREADS: [usize; 2] = [1, 2];

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read as bytes")] [u32; 16]);

/// Numbers near one in every dtype; as scales and codes, numbers of some size.
static MEMORY: LazyLock<Vec<Line>> = LazyLock::new(|| vec![Line([0x3f80_3f81; 16]); (1200 << 20) / 64]);

fn memory() -> &'static [u8] {
    // SAFETY: initialized integers without padding.
    unsafe { std::slice::from_raw_parts(MEMORY.as_ptr().cast(), MEMORY.len() * size_of::<Line>()) }
}

/// Successive pieces of the memory, round and round.
struct Pieces {
    len: usize,
    next: usize,
}

impl Pieces {
    fn new(len: usize) -> Self {
        Self { len, next: 0 }
    }

    fn next(&mut self) -> &'static [u8] {
        if self.next + self.len > memory().len() {
            self.next = 0;
        }
        self.next += self.len;
        &memory()[self.next - self.len..self.next]
    }
}

/// What one could read.
#[divan::bench(args = THREADS, max_time = 4)]
fn limit_memory_read(bencher: Bencher<'_, '_>, threads: usize) {
    let context = Context::new(threads);
    let mut pieces = Pieces::new(COLS * ROWS * 4);
    bencher.counter(BytesCount::new(pieces.len)).bench_local(|| peak::read(&context, pieces.next()));
}

/// One token: every weight is read once.
#[divan::bench(args = THREADS, consts = [0, 1, 2, 3, 4, 5], max_time = 2)]
fn linear_1_token<const DTYPE: usize>(bencher: Bencher<'_, '_>, threads: usize) {
    linear_bytes(bencher, DTYPES[DTYPE], threads, 1);
}

/// A few tokens: still bound by memory, or nearly.
#[divan::bench(args = [2, 4, 8], consts = [0, 2, 3, 4, 5], max_time = 2)]
fn linear_few_tokens<const DTYPE: usize>(bencher: Bencher<'_, '_>, tokens: usize) {
    linear_bytes(bencher, DTYPES[DTYPE], 2, tokens);
}

fn linear_bytes(bencher: Bencher<'_, '_>, dtype: WeightDtype, threads: usize, tokens: usize) {
    let context = Context::new(threads);
    let layout = MatrixLayout { dtype, rows: ROWS, cols: COLS };
    let mut pieces = Pieces::new(layout.bytes().unwrap());
    let (x, mut out) = (vec![0.5; tokens * COLS], vec![0.0; tokens * STRIDE]);
    bencher.counter(BytesCount::new(pieces.len)).bench_local(|| {
        let (x, out) = (Rows::new(&x, COLS), RowsMut::new(&mut out, STRIDE).columns(0, ROWS));
        kernels::linear(
            &context,
            Compute::Auto.arithmetic(dtype),
            x,
            Matrix::new(layout, pieces.next()),
            None,
            out,
        );
    });
}

/// Floating-point operations that one could do.
#[divan::bench(args = THREADS, max_time = 2)]
fn limit_multiply_add(bencher: Bencher<'_, '_>, threads: usize) {
    let context = Context::new(threads);
    let run = || peak::multiply_add(&context, Arithmetic::F32);
    let operations = run().expect("every instruction set has f32");
    bencher.counter(ItemsCount::new(operations)).bench_local(run);
}

/// A prompt of 512 tokens, in floating-point operations.
#[divan::bench(args = THREADS, consts = [0, 1, 2, 3, 4, 5], sample_count = 20, max_time = 3)]
fn linear_512_tokens<const DTYPE: usize>(bencher: Bencher<'_, '_>, threads: usize) {
    let context = Context::new(threads);
    let dtype = DTYPES[DTYPE];
    let layout = MatrixLayout { dtype, rows: ROWS, cols: COLS };
    let mut pieces = Pieces::new(layout.bytes().unwrap());
    let (x, mut out) = (vec![0.5; 512 * COLS], vec![0.0; 512 * STRIDE]);
    bencher.counter(ItemsCount::new(2 * 512 * COLS * ROWS)).bench_local(|| {
        let (x, out) = (Rows::new(&x, COLS), RowsMut::new(&mut out, STRIDE).columns(0, ROWS));
        kernels::linear(
            &context,
            Compute::Auto.arithmetic(dtype),
            x,
            Matrix::new(layout, pieces.next()),
            None,
            out,
        );
    });
}

const KV_DTYPES: [KvDtype; 4] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8];
const SLOTS: usize = 4096;

/// One token over 4096 cache slots, 4 KV heads of size 64 with 8 query heads each; an item is a slot of a KV head.
#[divan::bench(args = THREADS, consts = [0, 1, 2, 3], max_time = 3)]
fn attention_1_token<const DTYPE: usize>(bencher: Bencher<'_, '_>, threads: usize) {
    let context = Context::new(threads);
    let layout = KvLayout { dtype: KV_DTYPES[DTYPE], kv_heads: 4, head_dim: 64 };
    let mut pieces = Pieces::new(layout.layer_bytes(SLOTS).unwrap());
    let width = 32 * 64;
    let (query, mut out) = (vec![0.1; width], vec![0.0; width]);
    bencher.counter(ItemsCount::new(4 * SLOTS)).bench_local(|| {
        let segment = Segment { layout, cache: pieces.next(), first_row: 0, limits: &[SLOTS as u32] };
        let (query, out) = (Rows::new(&query, width), RowsMut::new(&mut out, width));
        kernels::attention(&context, query, &[segment], 32, 0.125, out);
    });
}

/// The last 512 tokens of 4096, in floating-point operations of the two products.
#[divan::bench(args = THREADS, consts = [0, 2, 3], sample_count = 20, max_time = 4)]
fn attention_512_tokens<const DTYPE: usize>(bencher: Bencher<'_, '_>, threads: usize) {
    let context = Context::new(threads);
    let layout = KvLayout { dtype: KV_DTYPES[DTYPE], kv_heads: 4, head_dim: 64 };
    let mut pieces = Pieces::new(layout.layer_bytes(SLOTS).unwrap());
    let width = 32 * 64;
    let limits: Vec<u32> = (SLOTS as u32 - 511..=SLOTS as u32).collect();
    let seen: usize = limits.iter().map(|&limit| limit as usize).sum();
    let (query, mut out) = (vec![0.1; 512 * width], vec![0.0; 512 * width]);
    bencher.counter(ItemsCount::new(4 * seen * width)).bench_local(|| {
        let segment = Segment { layout, cache: pieces.next(), first_row: 0, limits: &limits };
        let (query, out) = (Rows::new(&query, width), RowsMut::new(&mut out, width));
        kernels::attention(&context, query, &[segment], 32, 0.125, out);
    });
}

/// Entering and leaving a parallel region with nothing to do.
#[divan::bench(args = [2], max_time = 1)]
fn region(bencher: Bencher<'_, '_>, threads: usize) {
    let context = Context::new(threads);
    bencher.bench_local(|| context.pool().run(threads, &|_, _| {}));
}

/// A prompt of 512 tokens through a gate and what it opens, in operations of the products.
#[divan::bench(args = THREADS, consts = [0, 2, 3, 4], sample_count = 20, max_time = 3)]
fn gated_linear_512_tokens<const DTYPE: usize>(bencher: Bencher<'_, '_>, threads: usize) {
    let context = Context::new(threads);
    let dtype = DTYPES[DTYPE];
    let layout = MatrixLayout { dtype, rows: 2 * ROWS, cols: COLS };
    let mut pieces = Pieces::new(layout.bytes().unwrap());
    let (x, mut out) = (vec![0.5; 512 * COLS], vec![0.0; 512 * STRIDE]);
    bencher.counter(ItemsCount::new(4 * 512 * COLS * ROWS)).bench_local(|| {
        let (x, out) = (Rows::new(&x, COLS), RowsMut::new(&mut out, STRIDE).columns(0, ROWS));
        let (arithmetic, matrix) = (Compute::Auto.arithmetic(dtype), Matrix::new(layout, pieces.next()));
        kernels::gated_linear(&context, arithmetic, Activation::Silu, x, matrix, None, out);
    });
}

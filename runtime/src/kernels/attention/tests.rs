//! Attention against a model in double precision, and against itself in other company.

use llamac_plan::KvDtype;
use llamac_plan::layout::WeightDtype;
use proptest::prelude::*;

use super::*;
use crate::kernels::testing::{assert_close, bits, contexts, numbers, round};

const DTYPES: [KvDtype; 3] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16];

/// A sequence's keys and values, as given and as cached.
struct Sequence {
    layout: KvLayout,
    keys: Vec<f32>,
    values: Vec<f32>,
    cache: Vec<u8>,
}

impl Sequence {
    fn new(seed: u64, dtype: KvDtype, kv_heads: usize, head_dim: usize, slots: usize) -> Self {
        let layout = KvLayout { dtype, kv_heads, head_dim };
        let width = kv_heads * head_dim;
        let (keys, values) = (numbers(seed, slots * width), numbers(seed + 1, slots * width));
        // What was never written must not matter: NaN in all three dtypes.
        let mut cache = vec![0xff; layout.layer_bytes(slots).unwrap()];
        for slot in 0..slots {
            let row = slot * width..(slot + 1) * width;
            layout.append(&mut cache, slot, &keys[row.clone()], &values[row]);
        }
        Self { layout, keys, values, cache }
    }

    fn segment<'a>(&'a self, first_row: usize, limits: &'a [u32]) -> Segment<'a> {
        Segment { layout: self.layout, cache: &self.cache, first_row, limits }
    }

    /// The result for one row of queries.
    fn expected(&self, query: &[f32], heads: usize, limit: u32, scale: f32) -> Vec<f64> {
        let KvLayout { dtype, kv_heads, head_dim } = self.layout;
        let dtype = match dtype {
            KvDtype::F32 => WeightDtype::F32,
            KvDtype::F16 => WeightDtype::F16,
            KvDtype::Bf16 => WeightDtype::Bf16,
        };
        let mut out = Vec::new();
        for head in 0..heads {
            let at = |slot: usize, d: usize| (slot * kv_heads + head / (heads / kv_heads)) * head_dim + d;
            let query = &query[head * head_dim..(head + 1) * head_dim];
            let scores: Vec<f64> = (0..limit as usize)
                .map(|slot| {
                    let key = |d| f64::from(round(dtype, self.keys[at(slot, d)]));
                    f64::from(scale)
                        * query.iter().enumerate().map(|(d, &q)| f64::from(q) * key(d)).sum::<f64>()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            out.extend((0..head_dim).map(|d| {
                let weighted = scores
                    .iter()
                    .enumerate()
                    .map(|(slot, s)| (s - largest).exp() * f64::from(round(dtype, self.values[at(slot, d)])));
                if limit == 0 { 0.0 } else { weighted.sum::<f64>() / total }
            }));
        }
        out
    }
}

fn run(
    context: &Context,
    query: &[f32],
    width: usize,
    segments: &[Segment<'_>],
    heads: usize,
    scale: f32,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; query.len()];
    attention(context, Rows::new(query, width), segments, heads, scale, RowsMut::new(&mut out, width));
    out
}

fn check(dtype: KvDtype, heads: usize, kv_heads: usize, head_dim: usize, limits: &[u32]) {
    let slots = limits.iter().copied().max().unwrap_or(0).max(1) as usize;
    let sequence = Sequence::new(5, dtype, kv_heads, head_dim, slots);
    let width = heads * head_dim;
    let (query, scale) = (numbers(1, limits.len() * width), 1.7 / (head_dim as f32).sqrt());
    let rows = query.chunks(width).zip(limits);
    let expected: Vec<f64> = rows.flat_map(|(q, &limit)| sequence.expected(q, heads, limit, scale)).collect();
    for context in contexts() {
        let what = format!("{context:?} {dtype:?} {heads}/{kv_heads} heads of {head_dim}, {limits:?}");
        let together = run(&context, &query, width, &[sequence.segment(0, limits)], heads, scale);
        assert_close(&together, &expected, &what);
        for row in (0..limits.len()).step_by(3) {
            let query = &query[row * width..(row + 1) * width];
            let alone = run(&context, query, width, &[sequence.segment(0, &limits[row..=row])], heads, scale);
            assert_eq!(bits(&alone), bits(&together[row * width..(row + 1) * width]), "{what}, row {row}");
        }
    }
}

#[test]
fn causal_prompts_are_softmax_and_the_same_bits_alone() {
    for dtype in DTYPES {
        for (heads, kv_heads, head_dim) in
            [(2, 2, 6), (4, 2, 14), (3, 1, 64), (5, 1, 100), (8, 1, 128), (2, 1, 32)]
        {
            check(dtype, heads, kv_heads, head_dim, &(1..=70).collect::<Vec<_>>());
        }
    }
}

#[test]
fn one_token_sees_a_long_cache() {
    for dtype in DTYPES {
        for limit in [1, 2, 15, 63, 64, 65, 128, 129, 1000] {
            check(dtype, 4, 2, 20, &[limit]);
        }
    }
}

#[test]
fn masked_rows_are_zeros_or_repeat_a_limit() {
    for dtype in DTYPES {
        check(dtype, 2, 1, 16, &[0, 0, 0, 1, 1, 2, 3, 3, 64, 64, 65, 200, 7, 0]);
    }
    let sequence = Sequence::new(1, KvDtype::F32, 1, 4, 1);
    for context in contexts() {
        let out = run(&context, &numbers(1, 8), 4, &[sequence.segment(0, &[0, 0])], 1, 1.0);
        assert_eq!(bits(&out), [0; 8]);
    }
}

#[test]
fn sequences_of_a_batch_do_not_touch_each_other() {
    let (heads, width, scale) = (4, 4 * 10, 0.3);
    for dtype in DTYPES {
        let a = Sequence::new(10, dtype, 2, 10, 90);
        let b = Sequence::new(20, dtype, 2, 10, 30);
        let query = numbers(1, 40 * width);
        let (of_a, of_b): (Vec<u32>, Vec<u32>) = ((61..=90).collect(), (22..=30).collect());
        for context in contexts() {
            // Row 30 belongs to nobody.
            let batch = [a.segment(0, &of_a), b.segment(31, &of_b)];
            let out = run(&context, &query, width, &batch, heads, scale);
            let first = run(&context, &query[..30 * width], width, &[a.segment(0, &of_a)], heads, scale);
            let second = run(&context, &query[31 * width..], width, &[b.segment(0, &of_b)], heads, scale);
            assert_eq!(bits(&out[..30 * width]), bits(&first));
            assert!(out[30 * width..31 * width].iter().all(|x| x.is_nan()));
            assert_eq!(bits(&out[31 * width..]), bits(&second));
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let sequence = Sequence::new(3, KvDtype::F16, 3, 24, 300);
    let limits: Vec<u32> = (201..=300).collect();
    let query = numbers(1, 100 * 9 * 24);
    for isa in crate::kernels::Isa::available() {
        let [one, two, three] = [1, 2, 3].map(|threads| {
            let context = Context::with_isa(threads, isa).unwrap();
            bits(&run(&context, &query, 9 * 24, &[sequence.segment(0, &limits)], 9, 0.2))
        });
        assert!(one == two && one == three);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let layout = KvLayout { dtype: KvDtype::F32, kv_heads: 1, head_dim: 2 };
    let mut cache = vec![0; layout.layer_bytes(70).unwrap()];
    for slot in 0..70 {
        layout.append(&mut cache, slot, &[1e4 * slot as f32, 0.0], &[slot as f32, 1.0]);
    }
    for context in contexts() {
        let segment = Segment { layout, cache: &cache, first_row: 0, limits: &[70, 70] };
        let out = run(&context, &[1e3, 0.0, -1e3, 0.0], 2, &[segment], 1, 1.0);
        assert_eq!(out, [69.0, 1.0, 0.0, 1.0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn any_shape(
        dtype in 0..3_usize,
        group in 1_usize..5,
        kv_heads in 1_usize..3,
        half in 1_usize..20,
        limits in prop::collection::vec(0_u32..140, 1..30),
    ) {
        check(DTYPES[dtype], group * kv_heads, kv_heads, 2 * half, &limits);
    }
}

#[test]
#[should_panic(expected = "9223372036854775808 heads of 2")]
fn heads_whose_width_no_number_can_count_do_not_fit() {
    let layout = KvLayout { dtype: KvDtype::F32, kv_heads: 1, head_dim: 2 };
    let segment = Segment { layout, cache: &[], first_row: 0, limits: &[] };
    attention(&contexts()[0], Rows::new(&[], 0), &[segment], 1 << 63, 1.0, RowsMut::new(&mut [], 0));
}

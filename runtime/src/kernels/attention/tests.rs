//! Attention against a model in double precision, and against itself in other company.

use llamac_plan::KvDtype;
use llamac_plan::layout::WeightDtype;
use proptest::prelude::*;

use super::*;
use crate::kernels::testing::{Walled, assert_close, bits, contexts, numbers, round, sizes};

const DTYPES: [KvDtype; 4] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8];

/// A sequence's keys and values, as given and as cached.
struct Sequence {
    layout: KvLayout,
    keys: Vec<f32>,
    values: Vec<f32>,
    cache: Walled<u8>,
}

impl Sequence {
    fn new(seed: u64, dtype: KvDtype, kv_heads: usize, head_dim: usize, slots: usize) -> Self {
        let layout = KvLayout { dtype, kv_heads, head_dim };
        let width = kv_heads * head_dim;
        let (keys, values) = (numbers(seed, slots * width), numbers(seed + 1, slots * width));
        // What was never written must not matter: NaN in all dtypes that have one, and in all scales.
        let mut cache = Walled::from(vec![0xff; layout.layer_bytes(slots).unwrap()]);
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
            KvDtype::Int8 => return self.expected_of_codes(query, heads, limit, scale),
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

impl Sequence {
    /// The same with everything that is multiplied rounded to codes: queries and keys in blocks of 32 elements, values
    /// whole, and weights, times the scales of their values, in blocks of 32 slots.
    fn expected_of_codes(&self, query: &[f32], heads: usize, limit: u32, scale: f32) -> Vec<f64> {
        let KvLayout { kv_heads, head_dim, .. } = self.layout;
        let mut out = Vec::new();
        for head in 0..heads {
            let start = |slot: usize| (slot * kv_heads + head / (heads / kv_heads)) * head_dim;
            let query: Vec<f64> = wide(&query[head * head_dim..(head + 1) * head_dim]);
            let query: Vec<f64> = query.chunks(32).flat_map(|block| coded(block, exact_scale)).collect();
            let row = |of: &[f32], slot: usize| wide(&of[start(slot)..start(slot) + head_dim]);
            let scores: Vec<f64> = (0..limit as usize)
                .map(|slot| {
                    let key = row(&self.keys, slot);
                    let key = key.chunks(32).flat_map(|block| coded(block, half_scale));
                    f64::from(scale) * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let scales: Vec<f64> =
                (0..limit as usize).map(|slot| half_scale(largest_of(&row(&self.values, slot)))).collect();
            let scaled: Vec<f64> = weights.iter().zip(&scales).map(|(w, s)| w * s).collect();
            let scaled: Vec<f64> = scaled.chunks(32).flat_map(|block| coded(block, exact_scale)).collect();
            let mut sums = vec![0.0; head_dim];
            for (slot, weight) in scaled.iter().enumerate() {
                for (sum, value) in sums.iter_mut().zip(coded(&row(&self.values, slot), half_scale)) {
                    *sum += weight * value / scales[slot];
                }
            }
            let total: f64 = weights.iter().sum();
            out.extend(sums.iter().map(|sum| if limit == 0 { 0.0 } else { sum / total }));
        }
        out
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

fn largest_of(block: &[f64]) -> f64 {
    block.iter().fold(0.0, |m: f64, x| m.max(x.abs()))
}

/// What is left of numbers that share a scale, which follows from the largest.
fn coded(block: &[f64], scale: impl Fn(f64) -> f64) -> Vec<f64> {
    let scale = scale(largest_of(block));
    block.iter().map(|x| (x / scale).round_ties_even() * scale).collect()
}

fn exact_scale(largest: f64) -> f64 {
    largest / 127.0
}

/// The least in half precision.
fn half_scale(largest: f64) -> f64 {
    let nearest = half::f16::from_f64(largest / 127.0);
    let next = half::f16::from_bits(nearest.to_bits() + 1);
    if nearest.to_f64() < largest / 127.0 { next.to_f64() } else { nearest.to_f64() }
}

/// Fails unless the result is as close as its cache allows. Of codes, a weight between two may become either: a 254th of
/// the largest weight of its block. Where bf16 is multiplied as such, queries and weights are rounded by a 512th of each.
fn assert_near(isa: Isa, dtype: KvDtype, found: &[f32], expected: &[f64], what: &str) {
    if matches!(Kind::of(isa, dtype), Kind::Elements) {
        return assert_close(found, expected, what);
    }
    let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let error = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).powi(2)).sum::<f64>().sqrt();
    assert!(error <= 4e-3 * norm, "{what}: relative L2 error {}", error / norm);
}

fn run(
    context: &Context,
    query: &[f32],
    width: usize,
    segments: &[Segment<'_>],
    heads: usize,
    scale: f32,
) -> Vec<f32> {
    let (query, mut out) = (Walled::from(query.to_vec()), Walled::from(vec![f32::NAN; query.len()]));
    attention(context, Rows::new(&query, width), segments, heads, scale, RowsMut::new(&mut out, width));
    out.to_vec()
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
        assert_near(context.isa(), dtype, &together, &expected, &what);
        for row in (0..limits.len()).step_by(3) {
            let query = &query[row * width..(row + 1) * width];
            let alone = run(&context, query, width, &[sequence.segment(0, &limits[row..=row])], heads, scale);
            assert_eq!(bits(&alone), bits(&together[row * width..(row + 1) * width]), "{what}, row {row}");
        }
    }
}

#[test]
fn causal_prompts_are_softmax_and_the_same_bits_alone() {
    let all = &[(2, 2, 6), (4, 2, 14), (3, 1, 64), (5, 1, 100), (8, 1, 128), (2, 1, 32)];
    let limits: Vec<u32> = (1..=70).collect();
    for dtype in DTYPES {
        for &(heads, kv_heads, head_dim) in sizes(all, &[(2, 1, 6)]) {
            check(dtype, heads, kv_heads, head_dim, sizes(&limits, &[1, 2, 17, 66]));
        }
    }
}

#[test]
fn one_token_sees_a_long_cache() {
    for dtype in DTYPES {
        for &limit in sizes(&[1, 2, 15, 63, 64, 65, 128, 129, 1000], &[18]) {
            check(dtype, 4, 2, 20, &[limit]);
        }
    }
}

#[test]
fn masked_rows_are_zeros_or_repeat_a_limit() {
    let limits = &[0, 0, 0, 1, 1, 2, 3, 3, 64, 64, 65, 200, 7, 0];
    for dtype in DTYPES {
        check(dtype, 2, 1, 16, sizes(limits, &[0, 3, 65, 2, 0]));
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
        let (all_of_a, all_of_b): (Vec<u32>, Vec<u32>) = ((61..=90).collect(), (22..=30).collect());
        let (of_a, of_b) = (sizes(&all_of_a, &[17]), sizes(&all_of_b, &[2]));
        let a = Sequence::new(10, dtype, 2, 10, *of_a.last().unwrap() as usize);
        let b = Sequence::new(20, dtype, 2, 10, *of_b.last().unwrap() as usize);
        // A row between them belongs to nobody.
        let (end, start) = (of_a.len() * width, (of_a.len() + 1) * width);
        let query = numbers(1, start + of_b.len() * width);
        for context in contexts() {
            let batch = [a.segment(0, of_a), b.segment(of_a.len() + 1, of_b)];
            let out = run(&context, &query, width, &batch, heads, scale);
            let first = run(&context, &query[..end], width, &[a.segment(0, of_a)], heads, scale);
            let second = run(&context, &query[start..], width, &[b.segment(0, of_b)], heads, scale);
            assert_eq!(bits(&out[..end]), bits(&first));
            assert!(out[end..start].iter().all(|x| x.is_nan()));
            assert_eq!(bits(&out[start..]), bits(&second));
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    DTYPES.into_iter().for_each(threads_do_not_change_bits_of);
}

fn threads_do_not_change_bits_of(dtype: KvDtype) {
    let all: Vec<u32> = (201..=300).collect();
    let limits = sizes(&all, &[2, 3]);
    let sequence = Sequence::new(3, dtype, 3, 24, *limits.last().unwrap() as usize);
    let (heads, width) = if cfg!(miri) { (3, 3 * 24) } else { (9, 9 * 24) };
    let query = numbers(1, limits.len() * width);
    for isa in Isa::available() {
        let [one, two, three] = [1, 2, 3].map(|threads| {
            let context = Context::with_isa(threads, isa).unwrap();
            bits(&run(&context, &query, width, &[sequence.segment(0, limits)], heads, 0.2))
        });
        assert!(one == two && one == three);
    }
}

/// Sums of integers are exact, so that only what surrounds them can differ.
#[cfg(target_arch = "x86_64")]
#[test]
#[cfg_attr(miri, ignore = "Miri has one")]
fn instruction_sets_agree_on_codes() {
    let sequence = Sequence::new(3, KvDtype::Int8, 2, 100, 150);
    let limits: Vec<u32> = (101..=150).collect();
    let query = numbers(1, 50 * 6 * 100);
    let results: Vec<_> = Isa::available()
        .filter(|isa| *isa != Isa::Scalar)
        .map(|isa| {
            let context = Context::with_isa(1, isa).unwrap();
            bits(&run(&context, &query, 600, &[sequence.segment(0, &limits)], 6, 0.1))
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

/// A key or a value that is not finite spoils the rows that see it and no other.
#[test]
fn what_is_not_finite_stays_with_those_who_see_it() {
    for dtype in DTYPES {
        for &special in sizes(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN], &[f32::NAN]) {
            let (slots, special_slot) = if cfg!(miri) { (3, 2) } else { (70, 65) };
            let clean = Sequence::new(7, dtype, 1, 20, slots);
            let all: Vec<u32> = (41..=70).collect();
            let limits = sizes(&all, &[2, 3]);
            let query: Vec<f32> = numbers(1, limits.len() * 40).iter().map(|x| x.abs()).collect();
            for context in contexts() {
                let expected = run(&context, &query, 40, &[clean.segment(0, limits)], 2, 0.3);
                let mut spoilt = Sequence::new(7, dtype, 1, 20, slots);
                let (key, value) = (spoilt.keys[special_slot * 20..][..20].to_vec(), [special; 20]);
                spoilt.layout.append(&mut spoilt.cache, special_slot, &key, &value);
                // Up to a limit of its number, nobody sees the slot.
                let end = limits.iter().filter(|&&limit| limit as usize <= special_slot).count() * 40;
                let found = run(&context, &query, 40, &[spoilt.segment(0, limits)], 2, 0.3);
                assert_eq!(bits(&found[..end]), bits(&expected[..end]), "{context:?} {dtype:?}");
                assert!(found[end..].iter().all(|x| !x.is_finite()), "{context:?} {dtype:?}");
            }
        }
    }
}

/// Keys, values and queries at the ends of what numbers can be.
#[test]
#[cfg_attr(miri, ignore = "other numbers, the same memory")]
fn extreme_numbers_are_attended_to_like_others() {
    let scaled = |seed: u64, count: usize, unit: f32| -> Vec<f32> {
        numbers(seed, count).iter().map(|x| x * unit).collect()
    };
    for dtype in DTYPES {
        for (q_unit, k_unit, v_unit) in
            [(1e3, 1e-3, 2e2), (1e-3, 1e3, 1e-2), (1e-30, 1.0, 1.0), (1e-39, 1.0, 1.0)]
        {
            let mut sequence = Sequence::new(1, dtype, 2, 36, 90);
            sequence.keys = scaled(2, 90 * 72, k_unit);
            sequence.values = scaled(3, 90 * 72, v_unit);
            for slot in 0..90 {
                let row = slot * 72..(slot + 1) * 72;
                sequence.layout.append(
                    &mut sequence.cache,
                    slot,
                    &sequence.keys[row.clone()],
                    &sequence.values[row],
                );
            }
            let (query, limits) = (scaled(4, 3 * 144, q_unit), [30, 90, 64]);
            let rows = query.chunks(144).zip(limits);
            let expected: Vec<f64> =
                rows.flat_map(|(q, limit)| sequence.expected(q, 4, limit, 0.2)).collect();
            for context in contexts() {
                let found = run(&context, &query, 144, &[sequence.segment(0, &limits)], 4, 0.2);
                assert_near(
                    context.isa(),
                    dtype,
                    &found,
                    &expected,
                    &format!("{context:?} {dtype:?} {q_unit} {k_unit}"),
                );
            }
        }
    }
}

/// Blocks whose largest scores are a little above the ones before, and far above, and below.
#[test]
#[cfg_attr(miri, ignore = "many slots, and the same memory")]
fn sums_are_rescaled_where_scores_rise() {
    // Scores that every cache has exactly, as far as they are numbers: what is off is what is tested.
    let peaks = [-7.875_f32, -5.0, 0.0, 0.25, 8.0, 8.5, -4.0, 9.0];
    let (head_dim, slots) = (20, 64 * peaks.len());
    for dtype in DTYPES {
        let mut sequence = Sequence::new(1, dtype, 1, head_dim, slots);
        for (slot, key) in sequence.keys.chunks_mut(head_dim).enumerate() {
            key.fill(0.0);
            // Which no query looks at; a block of zeros would have no scale.
            key[1] = 1.0;
            key[0] = peaks[slot / 64] - 0.125 * (slot % 7) as f32;
        }
        for slot in 0..slots {
            let row = slot * head_dim..(slot + 1) * head_dim;
            let (key, value) = (&sequence.keys[row.clone()], &sequence.values[row]);
            sequence.layout.append(&mut sequence.cache, slot, key, value);
        }
        let limits: Vec<u32> =
            (1..=peaks.len() as u32).flat_map(|block| [64 * block - 31, 64 * block]).collect();
        let query: Vec<f32> = limits
            .iter()
            .flat_map(|&limit| numbers(u64::from(limit), head_dim).into_iter().enumerate())
            .map(|(d, x)| [1.0, 0.0].get(d).copied().unwrap_or(x))
            .collect();
        for context in contexts() {
            let what = format!("{context:?} {dtype:?}");
            let together = run(&context, &query, head_dim, &[sequence.segment(0, &limits)], 1, 1.0);
            for ((query, limit), found) in query.chunks(head_dim).zip(&limits).zip(together.chunks(head_dim))
            {
                let what = format!("{what}, {limit} slots");
                assert_near(context.isa(), dtype, found, &sequence.expected(query, 1, *limit, 1.0), &what);
                let alone = run(&context, query, head_dim, &[sequence.segment(0, &[*limit])], 1, 1.0);
                assert_eq!(bits(&alone), bits(found), "{what}");
            }
        }
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
    #[cfg_attr(miri, ignore = "shapes by chance take long; those above have all of the code")]
    fn any_shape(
        dtype in 0..4_usize,
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

use half::bf16;
use llamac_plan::Compute;
use llamac_plan::layout::WeightDtype::{self, Bf16, F16, F32, Q4, Q4A, Q8};
use proptest::prelude::*;

use super::*;
use crate::kernels::Isa;
use crate::kernels::testing::{self, Walled, assert_close, bits, contexts, numbers, sizes};

/// Every dtype with every arithmetic that there is for it.
const ALL: [(WeightDtype, Arithmetic); 15] = [
    (F32, Arithmetic::F32),
    (F16, Arithmetic::F32),
    (Bf16, Arithmetic::F32),
    (Q8, Arithmetic::F32),
    (Q4, Arithmetic::F32),
    (Q4A, Arithmetic::F32),
    (F32, Arithmetic::Bf16),
    (F16, Arithmetic::Bf16),
    (Bf16, Arithmetic::Bf16),
    (Q8, Arithmetic::Bf16),
    (Q4, Arithmetic::Bf16),
    (Q4A, Arithmetic::Bf16),
    (Q8, Arithmetic::Int8),
    (Q4, Arithmetic::Int8),
    (Q4A, Arithmetic::Int8),
];

fn round_to_bf16(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}

/// What is left of a row of activations after they were quantized.
fn quantized(row: &[f32]) -> Vec<f32> {
    let block = |block: &[f32]| -> Vec<f32> {
        let largest = block.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let codes = block.iter().map(|x| (x * (127.0 / largest)).round_ties_even());
        codes.map(|code| if largest == 0.0 { 0.0 } else { code * (largest / 127.0) }).collect()
    };
    row.chunks(32).flat_map(block).collect()
}

/// The product in double precision of what the arithmetic makes of both sides.
fn product(arithmetic: Arithmetic, x: &[f32], w: &testing::Packed, bias: Option<&[f32]>) -> Vec<f64> {
    let (rows, cols) = (w.layout.rows, w.layout.cols);
    let (x, w) = match arithmetic {
        Arithmetic::F32 => (x.to_vec(), w.elements.clone()),
        Arithmetic::Bf16 => (round_to_bf16(x), round_to_bf16(&w.elements)),
        Arithmetic::Int8 => (x.chunks(cols).flat_map(quantized).collect(), w.elements.clone()),
    };
    let mut out = Vec::new();
    for t in 0..x.len() / cols {
        for row in 0..rows {
            let terms = (0..cols).map(|k| f64::from(x[t * cols + k]) * f64::from(w[row * cols + k]));
            out.push(terms.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[row])));
        }
    }
    out
}

fn run(
    context: &Context,
    arithmetic: Arithmetic,
    x: &[f32],
    w: &testing::Packed,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = Walled::from(vec![f32::NAN; x.len() / w.layout.cols * w.layout.rows]);
    let x = Walled::from(x.to_vec());
    let (x, rows) = (Rows::new(&x, w.layout.cols), RowsMut::new(&mut out, w.layout.rows));
    linear(context, arithmetic, x, Matrix::new(w.layout, &w.bytes), bias, rows);
    out.to_vec()
}

fn check(
    (dtype, arithmetic): (WeightDtype, Arithmetic),
    tokens: usize,
    rows: usize,
    cols: usize,
    with_bias: bool,
) {
    let (x, w) = (numbers(1, tokens * cols), testing::matrix(2, dtype, rows, cols));
    let bias = numbers(3, rows);
    let bias = with_bias.then_some(&bias[..]);
    let expected = product(arithmetic, &x, &w, bias);
    for context in contexts() {
        let what = format!("{context:?} {dtype:?} {arithmetic:?} {tokens} × {cols} × {rows}");
        let together = run(&context, arithmetic, &x, &w, bias);
        assert_close(&together, &expected, &what);
        for (token, x) in x.chunks(cols).enumerate().step_by(5) {
            let alone = run(&context, arithmetic, x, &w, bias);
            assert_eq!(
                bits(&alone),
                bits(&together[token * rows..(token + 1) * rows]),
                "{what}, token {token}"
            );
        }
    }
}

#[test]
fn odd_sizes_are_the_product_and_the_same_bits_alone() {
    let all = &[(1, 1), (15, 7), (16, 60), (17, 100), (515, 33), (40, 515)];
    for how in ALL {
        for &(rows, cols) in sizes(all, &[(1, 1), (17, 5)]) {
            for &tokens in sizes(&[1, 2, 7, 13, 65], &[1, 3]) {
                check(how, tokens, rows, cols, tokens % 2 == 1);
            }
        }
    }
}

#[test]
fn any_number_of_tokens_that_tiles_can_have() {
    let (most, rows, cols) = if cfg!(miri) { (3, 1, 3) } else { (26, 50, 130) };
    for how in ALL {
        for tokens in 1..=most {
            check(how, tokens, rows, cols, false);
        }
    }
}

#[test]
fn a_long_prompt_is_cut_into_blocks() {
    if cfg!(miri) {
        check((F32, Arithmetic::F32), 257, 1, 1, true);
        check((F16, Arithmetic::F32), 3, 1, 259, false);
        return check((Q4, Arithmetic::Bf16), 3, 1, 259, true);
    }
    check((F32, Arithmetic::F32), 600, 35, 8, true);
    check((Bf16, Arithmetic::Bf16), 257, 33, 9, false);
    check((Q4A, Arithmetic::Int8), 300, 33, 200, false);
    // More columns than are taken at once, an odd number.
    check((F32, Arithmetic::F32), 25, 33, 2051, true);
    // More tokens and columns than any part takes at once, and a last part of one token.
    check((Bf16, Arithmetic::Bf16), 529, 33, 2200, true);
    check((Bf16, Arithmetic::Bf16), 513, 33, 2200, false);
    check((Q4, Arithmetic::Bf16), 529, 33, 2200, true);
    check((Q8, Arithmetic::Int8), 529, 33, 2200, true);
    check((Q4A, Arithmetic::Int8), 529, 33, 2200, false);
}

/// Also where sums, terms or factors are subnormal.
#[test]
fn one_token_has_the_bits_of_many_at_the_small_end() {
    let (rows, cols, tokens) = if cfg!(miri) { (3, 5, 3) } else { (19, 96, 17) };
    let all = &[(1.0, 1e-38), (1.0, 3e-39), (1e-3, 1e-36), (1e-19, 1e-19), (1e-38, 1.0)];
    for how @ (dtype, arithmetic) in ALL {
        for &(w_unit, x_unit) in sizes(all, &all[..1]) {
            let scaled = |numbers: Vec<f32>, unit: f32| numbers.iter().map(|x| x * unit).collect::<Vec<_>>();
            let x = scaled(numbers(1, tokens * cols), x_unit);
            let w = testing::packed(dtype, rows, cols, &scaled(numbers(2, rows * cols), w_unit));
            for context in contexts() {
                let together = run(&context, arithmetic, &x, &w, None);
                for (token, (x, together)) in x.chunks(cols).zip(together.chunks(rows)).enumerate() {
                    let alone = run(&context, arithmetic, x, &w, None);
                    assert_eq!(
                        bits(&alone),
                        bits(together),
                        "{context:?} {how:?} {w_unit} · {x_unit}, {token}"
                    );
                }
            }
        }
    }
}

/// Terms that cancel, and factors at both ends of what numbers can be.
#[test]
fn extreme_numbers_are_multiplied_like_others() {
    let (tokens, rows, cols) = if cfg!(miri) { (3, 3, 5) } else { (13, 19, 96) };
    // A block of scales at the ends of half precision; where weights are small, activations are large.
    let all = &[(6e-5, 1e30), (3e4, 1e-25), (1.0, 1e36), (4e-7, 1e3), (1.0, 1e-30)];
    for how @ (dtype, arithmetic) in ALL {
        for &(w_unit, x_unit) in sizes(all, &all[..1]) {
            if dtype == F16 && w_unit < 1e-5 {
                continue;
            }
            let scaled = |numbers: Vec<f32>, unit: f32| numbers.iter().map(|x| x * unit).collect::<Vec<_>>();
            let x = scaled(numbers(1, tokens * cols), x_unit);
            let w = testing::packed(dtype, rows, cols, &scaled(numbers(2, rows * cols), w_unit));
            let expected = product(arithmetic, &x, &w, None);
            for context in contexts() {
                let what = format!("{context:?} {how:?} {w_unit} · {x_unit}");
                assert_close(&run(&context, arithmetic, &x, &w, None), &expected, &what);
            }
        }
    }
}

/// An infinite activation, or one that is no number, spoils its own row and no other.
#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (rows, cols) = if cfg!(miri) { (3, 5) } else { (17, 70) };
    for how @ (dtype, arithmetic) in ALL {
        let w = testing::matrix(2, dtype, rows, cols);
        for &tokens in sizes(&[2, 13], &[3]) {
            for &special in sizes(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN], &[f32::NAN]) {
                let clean = numbers(1, tokens * cols);
                let mut x = clean.clone();
                x[cols + cols / 2] = special;
                for context in contexts() {
                    let found = run(&context, arithmetic, &x, &w, None);
                    let expected = run(&context, arithmetic, &clean, &w, None);
                    for (token, (found, expected)) in
                        found.chunks(rows).zip(expected.chunks(rows)).enumerate()
                    {
                        if token == 1 {
                            // An infinity times a weight of zero is none.
                            assert!(found.iter().all(|x| !x.is_finite()), "{context:?} {how:?} {found:?}");
                        } else {
                            assert_eq!(bits(found), bits(expected), "{context:?} {how:?}");
                        }
                    }
                }
            }
        }
    }
}

/// Weights and activations so small that they are subnormal: products may be taken for zeros, but nothing else.
#[test]
fn subnormal_numbers_are_small() {
    let (rows, cols) = (16, if cfg!(miri) { 6 } else { 64 });
    for (dtype, arithmetic) in ALL {
        let tiny = vec![f32::from_bits(1000); cols];
        let w = testing::packed(dtype, rows, cols, &vec![1.0; rows * cols]);
        for context in contexts() {
            for x in run(&context, arithmetic, &tiny, &w, None) {
                assert!(
                    (0.0..=2.0 * 64.0 * f32::from_bits(1000)).contains(&x),
                    "{context:?} {arithmetic:?} {x}"
                );
            }
        }
        let w = testing::packed(dtype, rows, cols, &vec![1e-40; rows * cols]);
        for context in contexts() {
            for x in run(&context, arithmetic, &vec![1.0; cols], &w, None) {
                assert!((0.0..=6.5e-39).contains(&x), "{context:?} {dtype:?} {arithmetic:?} {x}");
            }
        }
    }
}

/// Sums of integers are exact, so that only the multiply-adds of scales can differ.
#[cfg(target_arch = "x86_64")]
#[test]
#[cfg_attr(miri, ignore = "Miri has one")]
fn instruction_sets_agree_on_codes() {
    let fused: Vec<Isa> = Isa::available().filter(|isa| *isa != Isa::Scalar).collect();
    for dtype in [Q8, Q4, Q4A] {
        let (x, w) = (numbers(1, 14 * 300), testing::matrix(2, dtype, 70, 300));
        let result =
            |isa: &Isa| bits(&run(&Context::with_isa(1, *isa).unwrap(), Arithmetic::Int8, &x, &w, None));
        assert!(fused.windows(2).all(|pair| result(&pair[0]) == result(&pair[1])), "{dtype:?}");
    }
}

/// The largest codes everywhere: sums of two products of bytes would saturate.
#[test]
fn the_largest_codes_do_not_saturate() {
    for dtype in [Q8, Q4, Q4A] {
        let layout = llamac_plan::layout::MatrixLayout { dtype, rows: 16, cols: 64 };
        let mut bytes = vec![0xff; layout.bytes().unwrap()];
        for block in 0..2 {
            for row in 0..16 {
                let place = layout.scale(row, block);
                bytes[place..place + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
                if dtype == Q4A {
                    bytes[layout.zero(row, block)] = 255;
                }
            }
        }
        let value = match dtype {
            Q8 => 127.0,
            Q4 => 7.0,
            _ => -240.0,
        };
        for context in contexts() {
            for x in [127.0, -127.0] {
                let mut out = vec![f32::NAN; 16];
                let (row, rows) = (vec![x; 64], RowsMut::new(&mut out, 16));
                let matrix = Matrix::new(layout, &bytes);
                linear(&context, Arithmetic::Int8, Rows::new(&row, 64), matrix, None, rows);
                assert_eq!(out, [64.0 * x * value; 16], "{context:?} {dtype:?}");
            }
        }
    }
}

#[test]
fn nothing_to_do_is_done() {
    for context in contexts() {
        let w = testing::matrix(1, F32, 4, 3);
        assert_eq!(run(&context, Arithmetic::F32, &[], &w, None), [0.0; 0]);
        for (dtype, arithmetic) in ALL {
            for &tokens in sizes(&[1, 2, 40], &[1, 3]) {
                let (w, x) = (testing::matrix(1, dtype, 3, 0), vec![1.0; tokens]);
                let mut out = vec![f32::NAN; tokens * 3];
                let (x, rows) = (Rows::new(&x, 1).columns(0, 0), RowsMut::new(&mut out, 3));
                let matrix = Matrix::new(w.layout, &w.bytes);
                linear(&context, arithmetic, x, matrix, Some(&[1.0, 2.0, 3.0]), rows);
                assert_eq!(out, [1.0, 2.0, 3.0].repeat(tokens));
            }
        }
    }
}

#[test]
fn windows_of_wider_buffers_are_read_and_written_in_place() {
    // A tile and less, and several tiles with a rest.
    for &(tokens, outputs) in sizes(&[(4, 5), (35, 50)], &[(4, 5)]) {
        let width = outputs + 4;
        let contexts = contexts();
        for (context, (dtype, arithmetic)) in
            contexts.iter().flat_map(|context| ALL.map(|kind| (context, kind)))
        {
            let w = testing::matrix(1, dtype, outputs, 3);
            let x = numbers(2, tokens * 8);
            let mut out = vec![7.0; tokens * width];
            let rows = RowsMut::new(&mut out, width).columns(2, outputs);
            let window = Rows::new(&x, 8).columns(4, 3);
            linear(context, arithmetic, window, Matrix::new(w.layout, &w.bytes), None, rows);
            for (x, out) in x.chunks(8).zip(out.chunks(width)) {
                let alone = run(context, arithmetic, &x[4..7], &w, None);
                assert_eq!(out[2..outputs + 2], alone);
                assert_eq!((out[1], out[outputs + 2]), (7.0, 7.0));
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let (tokens, rows, cols) = if cfg!(miri) { (3, 35, 5) } else { (14, 900, 300) };
    for isa in Isa::available() {
        for dtype in WeightDtype::ALL {
            let arithmetic = Compute::Auto.arithmetic(dtype);
            let (x, w) = (numbers(1, tokens * cols), testing::matrix(2, dtype, rows, cols));
            let results: Vec<_> = [1, 2, 3]
                .map(|threads| {
                    bits(&run(&Context::with_isa(threads, isa).unwrap(), arithmetic, &x, &w, None))
                })
                .into_iter()
                .collect();
            assert!(results[0] == results[1] && results[0] == results[2]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    #[cfg_attr(miri, ignore = "shapes by chance take long; those above have all of the code")]
    fn any_shape(
        tokens in 1_usize..30,
        rows in 1_usize..70,
        cols in 1_usize..200,
        how in prop::sample::select(&ALL[..]),
        bias: bool,
    ) {
        check(how, tokens, rows, cols, bias);
    }
}
